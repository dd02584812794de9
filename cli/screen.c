#include "cli/screen.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/glyph.h"

enum { PUT_BYTES_MAX = 4096 };

void screen_init(struct screen *screen, size_t columns, size_t rows, bool colour, bool utf8)
{
    *screen = (struct screen){.columns = columns, .rows = rows, .colour = colour, .utf8 = utf8};
}

void screen_fini(struct screen *screen)
{
    free(screen->bytes);
    *screen = (struct screen){0};
}

/* Out of memory the frame just stays shorter. */
static void append(struct screen *screen, const char *bytes, size_t length)
{
    if (length == 0) return;
    if (screen->length + length > screen->capacity) {
        size_t capacity = (screen->length + length) * 2;
        char *grown = realloc(screen->bytes, capacity);
        if (!grown) return;
        screen->bytes = grown;
        screen->capacity = capacity;
    }
    memcpy(screen->bytes + screen->length, bytes, length);
    screen->length += length;
}

size_t screen_rows_left(const struct screen *screen)
{
    if (screen->rows == 0) return SIZE_MAX;
    return screen->lines < screen->rows ? screen->rows - screen->lines : 0;
}

static bool beyond(const struct screen *screen)
{
    return screen->rows != 0 && screen->lines > screen->rows;
}

void screen_line(struct screen *screen)
{
    screen->lines++;
    screen->column = 0;
    if (screen->lines > 1 && !beyond(screen)) append(screen, "\n", 1);
}

static void put_text(struct screen *screen, enum style style, const char *text)
{
    if (beyond(screen)) return;
    size_t room = screen->columns - screen->column;
    size_t length = text_prefix(text, room);
    const char *begin = style_begin(style, screen->colour);
    char cut[PUT_BYTES_MAX];

    if (length == 0) return;
    memcpy(cut, text, length);
    cut[length] = '\0';
    screen->column += text_columns(cut);
    append(screen, begin, strlen(begin));
    append(screen, cut, length);
    if (begin[0] != '\0') append(screen, STYLE_END, strlen(STYLE_END));
}

void screen_put(struct screen *screen, enum style style, const char *format, ...)
{
    char raw[PUT_BYTES_MAX], text[PUT_BYTES_MAX];
    va_list args;

    va_start(args, format);
    vsnprintf(raw, sizeof raw, format, args);
    va_end(args);
    text_clean(text, sizeof text, raw, screen->utf8);
    put_text(screen, style, text);
}

void screen_pad(struct screen *screen, size_t column)
{
    while (!beyond(screen) && screen->column < column && screen->column < screen->columns)
        put_text(screen, STYLE_PLAIN, " ");
}

void screen_item(struct screen *screen, size_t indent, enum style style, const char *format, ...)
{
    enum { GAP = 3 };
    char raw[PUT_BYTES_MAX], text[PUT_BYTES_MAX];
    va_list args;

    va_start(args, format);
    vsnprintf(raw, sizeof raw, format, args);
    va_end(args);
    text_clean(text, sizeof text, raw, screen->utf8);
    if (screen->column <= indent)
        screen_pad(screen, indent);
    else if (screen->column + GAP + text_columns(text) <= screen->columns)
        screen_pad(screen, screen->column + GAP);
    else {
        screen_line(screen);
        screen_pad(screen, indent);
    }
    put_text(screen, style, text);
}

void screen_print(const struct screen *screen, FILE *out)
{
    if (screen->length == 0) return;
    fwrite(screen->bytes, 1, screen->length, out);
    fputc('\n', out);
}

/* After a line that fills its row the cursor stands on its last cell, which "clear to the end of the line"
 * would erase; such a line needs no clearing. */
static void append_row(struct screen *drawn, const struct screen *screen, const char *line,
                       size_t length)
{
    char text[PUT_BYTES_MAX];
    size_t plain = 0;

    for (size_t i = 0; i < length && plain + 1 < sizeof text; i++) {
        if (line[i] == '\033')
            while (i < length && line[i] != 'm') i++;
        else
            text[plain++] = line[i];
    }
    text[plain] = '\0';
    append(drawn, line, length);
    if (text_columns(text) < screen->columns) append(drawn, "\033[K", 3);
}

void screen_redraw(const struct screen *screen, int fd)
{
    static const char home[] = "\033[?2026h\033[H", end[] = "\033[J\033[?2026l";
    struct screen drawn;
    const char *line = screen->bytes, *last = screen->bytes + screen->length;

    screen_init(&drawn, 0, 0, false, false);
    append(&drawn, home, sizeof home - 1);
    while (screen->length > 0) {
        const char *stop = memchr(line, '\n', (size_t)(last - line));
        append_row(&drawn, screen, line, (size_t)((stop ? stop : last) - line));
        if (!stop) break;
        append(&drawn, "\r\n", 2);
        line = stop + 1;
    }
    /* Below the last row there is nothing to clear, and clearing from its last cell would take that too. */
    if (screen_rows_left(screen) > 0)
        append(&drawn, end, sizeof end - 1);
    else
        append(&drawn, end + 3, sizeof end - 4);
    for (size_t done = 0; done < drawn.length;) {
        ssize_t written = write(fd, drawn.bytes + done, drawn.length - done);
        if (written <= 0) break;
        done += (size_t)written;
    }
    screen_fini(&drawn);
}
