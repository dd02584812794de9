#ifndef CLI_SPARKLINE_H
#define CLI_SPARKLINE_H

/* A curve in lines of text: each has eight heights between the least and the greatest value. */

#include <stdbool.h>
#include <stddef.h>

enum { SPARKLINE_COLUMNS_MAX = 512, SPARKLINE_BYTES_MAX = SPARKLINE_COLUMNS_MAX * 3 + 1 };

/*
 * One column a value, or their means where there are more values than `columns`. A value that is no
 * number leaves a gap. Blocks where the terminal has UTF-8, else ASCII. `out` has SPARKLINE_BYTES_MAX bytes.
 */
void sparkline(const double *values, size_t count, size_t columns, bool utf8, char *out);

/* The same curve `height` lines tall: one of its lines, 0 the top. */
void sparkline_row(const double *values, size_t count, size_t columns, size_t height, size_t row,
                   bool utf8, char *out);

#endif
