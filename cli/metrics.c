#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/quantity.h"
#include "cli/remote.h"
#include "cli/report.h"
#include "cli/run_json.h"
#include "cli/table.h"
#include "cli/verbs.h"

/* Rows come by step, then name; each is valid during the call alone. */
typedef void row_taker(void *context, const Performer__MetricRow *row);

static enum status read_rows(struct remote *remote, const struct invocation *invocation,
                             row_taker *take, void *context, struct fault *fault)
{
    Performer__QueryMetrics query = PERFORMER__QUERY_METRICS__INIT;
    Performer__Request request = PERFORMER__REQUEST__INIT;

    query.run = (char *)invocation->argument;
    if (invocation->options[OPTION_NAME].given)
        query.name = (char *)invocation->options[OPTION_NAME].text;
    query.from_step = invocation_count(invocation, OPTION_FROM, 0);
    if (invocation->options[OPTION_TO].given)
        query.before_step = invocation_count(invocation, OPTION_TO, 0) + 1;
    request.body_case = PERFORMER__REQUEST__BODY_QUERY_METRICS;
    request.query_metrics = &query;
    do {
        Performer__Response *response;
        enum status status =
            remote_call(remote, &request, PERFORMER__RESPONSE__BODY_METRIC_PAGE, &response, fault);
        if (status != ST_OK) return status;
        const Performer__MetricPage *page = response->metric_page;
        for (size_t i = 0; i < page->n_rows; i++) take(context, page->rows[i]);
        query.cursor = page->next;
        response_free(response);
    } while (query.cursor != 0);
    return ST_OK;
}

/* ---- one row a value ---- */

static void take_json(void *context, const Performer__MetricRow *row)
{
    (void)context;
    report_json(metric_row_json(row));
}

/* Quoted as RFC 4180 wants it, though no name of ours needs it. */
static void put_csv_text(const char *text)
{
    bool plain = text[strcspn(text, ",\"\r\n")] == '\0';

    if (!plain) putchar('"');
    for (; *text; text++) {
        if (*text == '"') putchar('"');
        putchar(*text);
    }
    if (!plain) putchar('"');
}

static void take_csv(void *context, const Performer__MetricRow *row)
{
    (void)context;
    printf("%u,%llu,", row->attempt, (unsigned long long)row->step);
    put_csv_text(row->name);
    if (isfinite(row->value))
        printf(",%.17g", row->value);
    else
        printf(",%s", isnan(row->value) ? "nan" : row->value > 0 ? "inf" : "-inf");
    printf(",%llu\n", (unsigned long long)row->time_ms);
}

/* ---- for people: a row a step, a column a metric ---- */

enum { NAMES_MAX = TABLE_COLUMNS_MAX - 2 };

struct step_row {
    uint64_t step;
    uint32_t attempt;
    double values[NAMES_MAX]; /* NaN: none of that name */
    uint32_t present;         /* bit set of the names that have one */
};

struct sheet {
    size_t name_count;
    char names[NAMES_MAX][48];
    size_t count, capacity;
    struct step_row *rows;
    size_t left_out; /* names beyond NAMES_MAX */
};

static bool name_index(struct sheet *sheet, const char *name, size_t *index)
{
    for (size_t i = 0; i < sheet->name_count; i++) {
        if (strcmp(sheet->names[i], name) != 0) continue;
        *index = i;
        return true;
    }
    if (sheet->name_count == NAMES_MAX) return false;
    *index = sheet->name_count++;
    snprintf(sheet->names[*index], sizeof sheet->names[0], "%s", name);
    return true;
}

static struct step_row *step_row(struct sheet *sheet, const Performer__MetricRow *row)
{
    if (sheet->count > 0 && sheet->rows[sheet->count - 1].step == row->step)
        return &sheet->rows[sheet->count - 1];
    if (sheet->count == sheet->capacity) {
        size_t capacity = sheet->capacity ? sheet->capacity * 2 : 256;
        struct step_row *grown = realloc(sheet->rows, capacity * sizeof *grown);
        if (!grown) return NULL;
        sheet->rows = grown;
        sheet->capacity = capacity;
    }
    sheet->rows[sheet->count] = (struct step_row){.step = row->step, .attempt = row->attempt};
    return &sheet->rows[sheet->count++];
}

static void take_sheet(void *context, const Performer__MetricRow *row)
{
    struct sheet *sheet = context;
    struct step_row *line = step_row(sheet, row);
    size_t index;

    if (!line) return;
    if (!name_index(sheet, row->name, &index)) {
        sheet->left_out++;
        return;
    }
    line->values[index] = row->value;
    line->present |= UINT32_C(1) << index;
}

static void print_sheet(const struct invocation *invocation, const struct sheet *sheet)
{
    const char *headers[TABLE_COLUMNS_MAX] = {">step", ">attempt"};
    char names[NAMES_MAX][50];
    struct terminal terminal;
    struct table table;

    for (size_t i = 0; i < sheet->name_count; i++) {
        snprintf(names[i], sizeof names[i], ">%s", sheet->names[i]);
        headers[2 + i] = names[i];
    }
    terminal_probe(STDOUT_FILENO, &terminal);
    table_init(&table, headers, 2 + sheet->name_count);
    for (size_t r = 0; r < sheet->count; r++) {
        const struct step_row *row = &sheet->rows[r];
        table_cell(&table, STYLE_BOLD, "%llu", (unsigned long long)row->step);
        table_cell(&table, STYLE_DIM, "%u", row->attempt);
        for (size_t i = 0; i < sheet->name_count; i++)
            table_cell(&table, STYLE_PLAIN, "%s",
                       row->present >> i & 1 ? value_text(row->values[i]).text : "");
    }
    table_print(&table, stdout, &terminal);
    table_fini(&table);
    if (sheet->left_out > 0)
        report_words(invocation, "performerctl: %zu values of further metrics left out; see --csv",
                     sheet->left_out);
}

enum exit_code verb_metrics(const struct invocation *invocation)
{
    struct sheet sheet = {0};
    struct remote remote;
    struct fault fault;

    enum status status = remote_open(invocation, REMOTE_ANSWER_MS, &remote, &fault);
    if (status != ST_OK) return report_fault(invocation, &fault);
    if (invocation_json(invocation)) {
        status = read_rows(&remote, invocation, take_json, NULL, &fault);
    } else if (invocation->options[OPTION_CSV].given) {
        puts("attempt,step,name,value,time_ms");
        status = read_rows(&remote, invocation, take_csv, NULL, &fault);
    } else {
        status = read_rows(&remote, invocation, take_sheet, &sheet, &fault);
        if (status == ST_OK) print_sheet(invocation, &sheet);
    }
    free(sheet.rows);
    remote_close(&remote);
    return status == ST_OK ? EXIT_CODE_OK : report_fault(invocation, &fault);
}
