#include "cli/table.h"

#include <assert.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cli/glyph.h"

enum { GAP = 2, CELL_BYTES_MAX = 4096 };

void table_init(struct table *table, const char *const *headers, size_t columns)
{
    assert(columns > 0 && columns <= TABLE_COLUMNS_MAX);
    *table = (struct table){.columns = columns, .headers = headers};
}

void table_fini(struct table *table)
{
    for (size_t i = 0; i < table->rows * table->columns; i++) free(table->cells[i].text);
    free(table->cells);
    *table = (struct table){0};
}

/* Room for one more row of empty cells. */
static bool row_begin(struct table *table)
{
    size_t used = table->rows * table->columns, need = used + table->columns;

    if (need > table->capacity) {
        size_t capacity = need * 2;
        struct table_cell *grown = realloc(table->cells, capacity * sizeof *grown);
        if (!grown) return false;
        table->cells = grown;
        table->capacity = capacity;
    }
    memset(table->cells + used, 0, table->columns * sizeof *table->cells);
    table->rows++;
    return true;
}

void table_cell(struct table *table, enum style style, const char *format, ...)
{
    char text[CELL_BYTES_MAX];
    va_list args;

    if (table->next == 0 && !row_begin(table)) return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    struct table_cell *cell = &table->cells[(table->rows - 1) * table->columns + table->next];
    cell->text = strdup(text);
    cell->style = style;
    table->next = (table->next + 1) % table->columns;
}

struct layout {
    size_t widths[TABLE_COLUMNS_MAX];
    bool right[TABLE_COLUMNS_MAX];
};

static const char *header(const struct table *table, size_t column)
{
    return table->headers[column] + (table->headers[column][0] == '>');
}

static const struct table_cell *cell_at(const struct table *table, size_t row, size_t column)
{
    return &table->cells[row * table->columns + column];
}

static void clean(char text[CELL_BYTES_MAX], const struct table_cell *cell, bool utf8)
{
    text_clean(text, CELL_BYTES_MAX, cell->text ? cell->text : "", utf8);
}

static void measure(const struct table *table, bool utf8, struct layout *layout)
{
    char text[CELL_BYTES_MAX];

    for (size_t c = 0; c < table->columns; c++) {
        layout->right[c] = table->headers[c][0] == '>';
        layout->widths[c] = text_columns(header(table, c));
        for (size_t r = 0; r < table->rows; r++) {
            clean(text, cell_at(table, r, c), utf8);
            size_t width = text_columns(text);
            if (width > layout->widths[c]) layout->widths[c] = width;
        }
    }
}

struct pen {
    FILE *out;
    const struct terminal *terminal;
    size_t column; /* where it stands in the line */
};

/* Columns up to the terminal's edge. */
static size_t room(const struct pen *pen)
{
    size_t limit = pen->terminal->columns > 0 ? pen->terminal->columns : SIZE_MAX;

    return limit > pen->column ? limit - pen->column : 0;
}

static void spaces(struct pen *pen, size_t count)
{
    for (size_t i = 0; i < count && room(pen) > 0; i++, pen->column++) fputc(' ', pen->out);
}

static void put_cell(struct pen *pen, const struct layout *layout, size_t column, bool last,
                     enum style style, const char *text)
{
    size_t width = text_columns(text);
    size_t pad = layout->widths[column] - width;
    const char *begin = style_begin(style, pen->terminal->colour);

    if (layout->right[column]) spaces(pen, pad);
    fprintf(pen->out, "%s%.*s%s", begin, (int)text_prefix(text, room(pen)), text,
            begin[0] ? STYLE_END : "");
    pen->column += width;
    if (last) return;
    spaces(pen, GAP + (layout->right[column] ? 0 : pad));
}

/* Empty cells at the end of a row leave no blanks behind. */
static size_t last_used(const struct table *table, size_t row)
{
    size_t last = table->columns - 1;

    while (last > 0) {
        const char *text = cell_at(table, row, last)->text;
        if (text && text[0] != '\0') break;
        last--;
    }
    return last;
}

void table_print(const struct table *table, FILE *out, const struct terminal *terminal)
{
    struct layout layout;
    char text[CELL_BYTES_MAX];

    measure(table, terminal->utf8, &layout);
    struct pen pen = {.out = out, .terminal = terminal};
    for (size_t c = 0; c < table->columns; c++)
        put_cell(&pen, &layout, c, c + 1 == table->columns, STYLE_DIM, header(table, c));
    fputc('\n', out);
    for (size_t r = 0; r < table->rows; r++) {
        size_t last = last_used(table, r);
        pen.column = 0;
        for (size_t c = 0; c <= last; c++) {
            const struct table_cell *cell = cell_at(table, r, c);
            clean(text, cell, terminal->utf8);
            put_cell(&pen, &layout, c, c == last, cell->style, text);
        }
        fputc('\n', out);
    }
}
