#include "proto/utf8.h"

/* Table 3-7 of the Unicode standard: first byte, range of the second, length. */
static const struct {
    unsigned char first, last, second_first, second_last;
    size_t length;
} forms[] = {
    {0x01, 0x7f, 0x00, 0x00, 1}, {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
    {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
    {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
};

size_t utf8_length(const char *text)
{
    const unsigned char *bytes = (const unsigned char *)text;
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        if (bytes[0] < forms[i].first || bytes[0] > forms[i].last) continue;
        if (forms[i].length == 1) return 1;
        if (bytes[1] < forms[i].second_first || bytes[1] > forms[i].second_last) return 0;
        for (size_t k = 2; k < forms[i].length; k++)
            if ((bytes[k] & 0xc0) != 0x80) return 0;
        return forms[i].length;
    }
    return 0;
}

void utf8_repair(char *text)
{
    while (*text != '\0') {
        size_t length = utf8_length(text);
        if (length == 0) *text = '?';
        text += length ? length : 1;
    }
}
