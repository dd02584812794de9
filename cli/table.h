#ifndef CLI_TABLE_H
#define CLI_TABLE_H

/* Rows of text in columns as wide as their content, two spaces apart, without borders. */

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "cli/terminal.h"

enum { TABLE_COLUMNS_MAX = 16 };

struct table {
    size_t columns;
    const char *const *headers; /* a leading '>' aligns the column to the right and is not shown */
    size_t rows;
    size_t capacity; /* in cells */
    struct table_cell {
        char *text;
        enum style style;
    } * cells;   /* (rows, columns) */
    size_t next; /* column of the cell to come in the last row */
};

/* The headers must outlive the table. */
void table_init(struct table *table, const char *const *headers, size_t columns);
void table_fini(struct table *table);

/* The next cell, row after row; copied. Out of memory the table stays as it is. */
void table_cell(struct table *table, enum style style, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The last column is not padded, and is cut at the terminal's edge if there is one. */
void table_print(const struct table *table, FILE *out, const struct terminal *terminal);

#endif
