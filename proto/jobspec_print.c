#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/jobspec_key.h"

enum { COMMENT_COLUMN = 36 };

/* A TOML basic string. Bytes from 0x80 on are UTF-8 and stand for themselves. */
static int print_text(FILE *out, const char *text)
{
    int width = 2;
    fputc('"', out);
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            width += fprintf(out, "\\%c", c);
        else if (c < ' ' || c == 0x7f)
            width += fprintf(out, "\\u%04X", c);
        else
            width += fprintf(out, "%c", c);
    }
    fputc('"', out);
    return width;
}

static int print_texts(FILE *out, const struct text_list *list)
{
    int width = 2;
    fputc('[', out);
    for (size_t i = 0; i < list->count; i++) {
        if (i > 0) width += fprintf(out, ", ");
        width += print_text(out, list->items[i]);
    }
    fputc(']', out);
    return width;
}

/* The fewest digits that read back as the same number, with a mark that makes it a TOML float. */
static int print_real(FILE *out, double value)
{
    char text[32];
    for (int precision = 1; precision <= 17; precision++) {
        snprintf(text, sizeof text, "%.*g", precision, value);
        if (strtod(text, NULL) == value) break;
    }
    return fprintf(out, "%s%s", text, strpbrk(text, ".e") ? "" : ".0");
}

static const char *choice_text(enum jobspec_kind kind, int value)
{
    struct jobspec_choices choices = jobspec_kind_choices(kind);
    for (size_t i = 0; i < choices.count; i++)
        if (choices.items[i].value == value) return choices.items[i].text;
    return "";
}

static int print_value(FILE *out, const struct jobspec_key *key, const void *value)
{
    int choice;
    switch (key->kind) {
    case KIND_TEXT:
    case KIND_PATH:
        return print_text(out, *(char *const *)value);
    case KIND_TEXTS:
        return print_texts(out, value);
    case KIND_INT:
        return fprintf(out, "%" PRId64, *(const int64_t *)value);
    case KIND_REAL:
        return print_real(out, *(const double *)value);
    case KIND_FLAG:
        return fprintf(out, "%s", *(const bool *)value ? "true" : "false");
    default:
        memcpy(&choice, value, sizeof choice);
        return print_text(out, choice_text(key->kind, choice));
    }
}

static void print_key(FILE *out, const struct jobspec_key *key, const void *value)
{
    int width = fprintf(out, "%s = ", key->name);
    width += print_value(out, key, value);
    int gap = COMMENT_COLUMN - width;
    fprintf(out, "%*s# %s\n", gap > 2 ? gap : 2, "", key->meaning);
}

enum status jobspec_print(const struct jobspec *spec, char **text)
{
    char *printed = NULL;
    size_t length;
    FILE *out = open_memstream(&printed, &length);
    if (!out) return ST_NO_MEMORY;
    for (int i = 0; i < KEY_COUNT; i++) {
        const struct jobspec_key *key = &jobspec_keys[i];
        if (i == 0 || jobspec_keys[i - 1].section != key->section)
            fprintf(out, "%s[%s]\n", i > 0 ? "\n" : "", jobspec_section_titles[key->section]);
        print_key(out, key, (const char *)spec + key->offset);
    }
    bool failed = ferror(out) != 0;
    if (fclose(out) != 0 || failed) {
        free(printed);
        return ST_NO_MEMORY;
    }
    *text = printed;
    return ST_OK;
}
