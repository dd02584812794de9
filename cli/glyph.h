#ifndef CLI_GLYPH_H
#define CLI_GLYPH_H

/* Text as a terminal shows it: UTF-8 in columns. A glyph here is one code point; width by wcwidth. */

#include <stdbool.h>
#include <stddef.h>

/* Bytes of the glyph at `text`, at least 1 unless it is the end, and its columns (0, 1 or 2). A byte that
 * starts no valid UTF-8, or a control character, is a glyph of one column and `*shown` is false. */
size_t glyph_next(const char *text, size_t *columns, bool *shown);

/* Columns of a whole text. */
size_t text_columns(const char *text);

/* Bytes of the longest prefix that fits into `columns`. */
size_t text_prefix(const char *text, size_t columns);

/*
 * Copies foreign text so that it cannot move the cursor: control characters and broken UTF-8 become '?', a
 * tab or line end a space, and all that is not ASCII where the terminal has no UTF-8 too. Cut to `size`.
 */
void text_clean(char *to, size_t size, const char *from, bool utf8);

#endif
