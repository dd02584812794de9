#ifndef CLI_SCREEN_H
#define CLI_SCREEN_H

/*
 * A frame, composed line by line in memory and then put out at once. No line is ever wider than the frame
 * and no more lines are kept than it has rows, whatever is put in.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "cli/terminal.h"

struct screen {
    size_t columns, rows; /* rows 0: no limit */
    bool colour, utf8;
    size_t lines;  /* begun so far */
    size_t column; /* display columns used in the current line */
    char *bytes;   /* lines separated by '\n', styles included */
    size_t length, capacity;
};

/* The caller's memory; freed by screen_fini. */
void screen_init(struct screen *screen, size_t columns, size_t rows, bool colour, bool utf8);
void screen_fini(struct screen *screen);

/* Begins a new line. */
void screen_line(struct screen *screen);

/* Lines that may still be begun; SIZE_MAX without a limit. */
size_t screen_rows_left(const struct screen *screen);

/* Appends to the current line, cut at the right edge. Foreign text is cleaned. */
void screen_put(struct screen *screen, enum style style, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Spaces up to that column. */
void screen_pad(struct screen *screen, size_t column);

/* Puts the text whole: on this line after a gap if it fits, else on a new line that begins at `indent`. */
void screen_item(struct screen *screen, size_t indent, enum style style, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* As lines of text, for a terminal that scrolls or for a pipe. */
void screen_print(const struct screen *screen, FILE *out);

/* Over what is on the screen, in one write: no line is cleared before it is drawn, so nothing flickers. */
void screen_redraw(const struct screen *screen, int fd);

#endif
