#include "cli/glyph.h"

#include <stdint.h>
#include <string.h>
#include <wchar.h>

/* Bytes of the code point at `text`, 0 where it is none; the shortest form only (RFC 3629). */
static size_t decode(const char *text, uint32_t *point)
{
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *bytes = (const unsigned char *)text;
    size_t length = bytes[0] < 0x80 ? 1 : bytes[0] >> 5 == 6 ? 2 : bytes[0] >> 4 == 14 ? 3 : 4;

    if (length == 1) {
        *point = bytes[0];
        return 1;
    }
    if (length == 4 && bytes[0] >> 3 != 30) return 0;
    uint32_t value = bytes[0] & (0x7fU >> length);
    for (size_t i = 1; i < length; i++) {
        if (bytes[i] >> 6 != 2) return 0; /* also the end of the text */
        value = value << 6 | (bytes[i] & 0x3f);
    }
    if (value < smallest[length] || value > 0x10ffff || (value >= 0xd800 && value < 0xe000))
        return 0;
    *point = value;
    return length;
}

size_t glyph_next(const char *text, size_t *columns, bool *shown)
{
    uint32_t point = 0;

    *columns = 0;
    *shown = true;
    if (text[0] == '\0') return 0;
    size_t length = decode(text, &point);
    int width = length == 0    ? -1
                : point < 0x80 ? (point < 0x20 || point == 0x7f ? -1 : 1)
                               : wcwidth((wchar_t)point);
    *shown = width >= 0;
    *columns = *shown ? (size_t)width : 1;
    return length ? length : 1;
}

size_t text_columns(const char *text)
{
    size_t total = 0, columns, length;
    bool shown;

    while ((length = glyph_next(text, &columns, &shown)) > 0) {
        total += columns;
        text += length;
    }
    return total;
}

size_t text_prefix(const char *text, size_t columns)
{
    size_t bytes = 0, used = 0, width, length;
    bool shown;

    while ((length = glyph_next(text + bytes, &width, &shown)) > 0) {
        if (used + width > columns) break;
        used += width;
        bytes += length;
    }
    return bytes;
}

void text_clean(char *to, size_t size, const char *from, bool utf8)
{
    size_t used = 0, columns, length;
    bool shown;

    while ((length = glyph_next(from, &columns, &shown)) > 0) {
        bool space = from[0] == '\t' || from[0] == '\n' || from[0] == '\r';
        bool keep = shown && (utf8 || length == 1);
        size_t need = keep ? length : 1;
        if (used + need >= size) break;
        if (keep)
            memcpy(to + used, from, length);
        else
            to[used] = space ? ' ' : '?';
        used += need;
        from += length;
    }
    to[used] = '\0';
}
