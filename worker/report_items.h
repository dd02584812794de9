#ifndef WORKER_REPORT_ITEMS_H
#define WORKER_REPORT_ITEMS_H

/* What a rank has to tell: notices and metric rows in the order in which they came, and Reports made of
 * them. */

#include <stddef.h>
#include <stdint.h>

#include "proto/performer.pb-c.h"
#include "proto/status.h"

enum { METRIC_NAME_MAX = 48 };

struct metric_item {
    uint64_t step, time_ms;
    double value;
    char name[METRIC_NAME_MAX];
};

struct notice_item {
    uint8_t *packed; /* a Notice */
    size_t length;
};

/* A zeroed one is empty. */
struct report_items {
    struct metric_item *rows;
    struct notice_item *notices;
    size_t row_count, row_capacity;
    size_t notice_count, notice_capacity;
    uint64_t thinned; /* rows given up */
};

/* ST_NO_MEMORY: nothing has changed. */
enum status report_items_reserve(struct report_items *items, size_t rows);
enum status report_items_add_row(struct report_items *items, const struct metric_item *row);
enum status report_items_add_notice(struct report_items *items, const Performer__Notice *notice);

/* Every second row of the older half goes, and is counted. */
void report_items_thin(struct report_items *items);

/* Empties, and keeps the memory of the rows. */
void report_items_clear(struct report_items *items);
void report_items_fini(struct report_items *items);

/* What all Reports of a rank have in common. */
struct report_origin {
    const Performer__Plan *plan;
    uint32_t rank;
    uint64_t sequence; /* of the next Report; counts up */
    Performer__Heartbeat *heartbeat;
};

struct report_sink {
    void *context;
    /* `packed` is taken over, on failure too. */
    enum status (*put)(void *context, uint8_t *packed, size_t length, uint64_t sequence,
                       size_t rows);
};

/* One Report or, where there is much to tell, several of at most 512 KiB: notices before rows, so that a
 * notice never comes behind metrics that were put in after it. At least one, be it with the heartbeat
 * alone. ST_NO_MEMORY. */
enum status report_items_send(const struct report_items *items, struct report_origin *origin,
                              const struct report_sink *sink);

#endif
