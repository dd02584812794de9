#include "worker/report_items.h"

#include <stdlib.h>
#include <string.h>

enum {
    REPORT_BYTES_MAX = 512 << 10,
    FIELD_BYTES_MAX = 8, /* tag and length of a repeated field */
};

enum status report_items_reserve(struct report_items *items, size_t rows)
{
    if (rows <= items->row_capacity) return ST_OK;
    struct metric_item *grown = realloc(items->rows, rows * sizeof *grown);
    if (!grown) return ST_NO_MEMORY;
    items->rows = grown;
    items->row_capacity = rows;
    return ST_OK;
}

enum status report_items_add_row(struct report_items *items, const struct metric_item *row)
{
    if (items->row_count == items->row_capacity) {
        enum status status = report_items_reserve(items, 2 * items->row_capacity + 256);
        if (status != ST_OK) return status;
    }
    items->rows[items->row_count++] = *row;
    return ST_OK;
}

enum status report_items_add_notice(struct report_items *items, const Performer__Notice *notice)
{
    if (items->notice_count == items->notice_capacity) {
        size_t capacity = 2 * items->notice_capacity + 16;
        struct notice_item *grown = realloc(items->notices, capacity * sizeof *grown);
        if (!grown) return ST_NO_MEMORY;
        items->notices = grown;
        items->notice_capacity = capacity;
    }
    struct notice_item item = {.length = performer__notice__get_packed_size(notice)};
    item.packed = malloc(item.length + 1);
    if (!item.packed) return ST_NO_MEMORY;
    performer__notice__pack(notice, item.packed);
    items->notices[items->notice_count++] = item;
    return ST_OK;
}

void report_items_thin(struct report_items *items)
{
    size_t half = items->row_count / 2, kept = 0;
    for (size_t i = 0; i < items->row_count; i++) {
        if (i < half && i % 2 == 1) continue;
        items->rows[kept++] = items->rows[i];
    }
    items->thinned += items->row_count - kept;
    items->row_count = kept;
}

void report_items_clear(struct report_items *items)
{
    for (size_t i = 0; i < items->notice_count; i++) free(items->notices[i].packed);
    items->notice_count = 0;
    items->row_count = 0;
    items->thinned = 0;
}

void report_items_fini(struct report_items *items)
{
    report_items_clear(items);
    free(items->notices);
    free(items->rows);
    *items = (struct report_items){0};
}

/* Arrays of one Report at a time, as protobuf-c wants them. */
struct assembly {
    Performer__Notice **notices;
    Performer__MetricRow *rows;
    Performer__MetricRow **row_pointers;
};

static void assembly_fini(struct assembly *assembly)
{
    free(assembly->notices);
    free(assembly->rows);
    free(assembly->row_pointers);
}

static enum status assembly_init(struct assembly *assembly, const struct report_items *items)
{
    size_t rows = items->row_count + 1, notices = items->notice_count + 1;
    *assembly = (struct assembly){
        .notices = malloc(notices * sizeof *assembly->notices),
        .rows = malloc(rows * sizeof *assembly->rows),
        .row_pointers = malloc(rows * sizeof *assembly->row_pointers),
    };
    if (assembly->notices && assembly->rows && assembly->row_pointers) return ST_OK;
    assembly_fini(assembly);
    return ST_NO_MEMORY;
}

/* As many notices as fit, at least one. `*next` counts on, `*size` too. */
static enum status take_notices(const struct report_items *items, size_t *next, size_t *size,
                                struct assembly *assembly, Performer__Report *report)
{
    report->notices = assembly->notices;
    while (*next < items->notice_count) {
        const struct notice_item *item = &items->notices[*next];
        size_t more = item->length + FIELD_BYTES_MAX;
        if (report->n_notices > 0 && *size + more > REPORT_BYTES_MAX) break;
        Performer__Notice *notice = performer__notice__unpack(NULL, item->length, item->packed);
        if (!notice) return ST_NO_MEMORY;
        report->notices[report->n_notices++] = notice;
        *size += more;
        ++*next;
    }
    return ST_OK;
}

static void take_rows(const struct report_items *items, size_t *next, size_t *size,
                      struct assembly *assembly, Performer__Report *report)
{
    report->metrics = assembly->row_pointers;
    while (*next < items->row_count) {
        struct metric_item *item = &items->rows[*next];
        Performer__MetricRow *row = &assembly->rows[report->n_metrics];
        performer__metric_row__init(row);
        row->attempt = report->attempt;
        row->step = item->step;
        row->name = item->name;
        row->value = item->value;
        row->time_ms = item->time_ms;
        size_t more = performer__metric_row__get_packed_size(row) + FIELD_BYTES_MAX;
        if (*size + more > REPORT_BYTES_MAX) break;
        report->metrics[report->n_metrics++] = row;
        *size += more;
        ++*next;
    }
}

static enum status pack_and_put(const Performer__Report *report, const struct report_sink *sink)
{
    size_t length = performer__report__get_packed_size(report);
    uint8_t *packed = malloc(length);
    if (!packed) return ST_NO_MEMORY;
    performer__report__pack(report, packed);
    return sink->put(sink->context, packed, length, report->sequence, report->n_metrics);
}

enum status report_items_send(const struct report_items *items, struct report_origin *origin,
                              const struct report_sink *sink)
{
    struct assembly assembly;
    enum status status = assembly_init(&assembly, items);
    if (status != ST_OK) return status;
    size_t next_notice = 0, next_row = 0;
    do {
        Performer__Report report = PERFORMER__REPORT__INIT;
        report.run = origin->plan->run;
        report.attempt = origin->plan->attempt;
        report.nonce = origin->plan->nonce;
        report.rank = origin->rank;
        report.sequence = origin->sequence;
        report.heartbeat = origin->heartbeat;
        if (next_notice == 0 && next_row == 0) report.metrics_thinned = items->thinned;
        size_t size = performer__report__get_packed_size(&report);
        status = take_notices(items, &next_notice, &size, &assembly, &report);
        if (status == ST_OK && next_notice == items->notice_count)
            take_rows(items, &next_row, &size, &assembly, &report);
        if (status == ST_OK) status = pack_and_put(&report, sink);
        if (status == ST_OK) origin->sequence++;
        for (size_t i = 0; i < report.n_notices; i++)
            performer__notice__free_unpacked(report.notices[i], NULL);
    } while (status == ST_OK && (next_notice < items->notice_count || next_row < items->row_count));
    assembly_fini(&assembly);
    return status;
}
