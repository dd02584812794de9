#ifndef WORKER_OUTBOX_H
#define WORKER_OUTBOX_H

/*
 * Reports that wait for an answer, oldest first, in memory and, the same, in the spool file: packed
 * Reports, each behind its length in 4 bytes, little-endian. A Report is in the file before it is sent, so
 * a rank that is killed leaves all that was not answered. The file may hold answered ones besides: they are
 * known by their sequence number. For one thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/report_items.h"

struct outbox_entry {
    uint8_t *packed; /* a Report */
    size_t length, rows;
    uint64_t sequence;
    bool sent; /* the daemon may have it: it stays as it is */
};

struct outbox {
    char spool_path[4096];
    int spool;           /* file descriptor, -1: not open */
    size_t spool_length; /* bytes of whole reports */
    bool spool_stale;    /* lacks something that memory holds */
    bool spool_warned;

    struct outbox_entry *entries;
    size_t first, count, capacity; /* entries[first ... first + count - 1] */
    size_t rows;                   /* of all entries */
};

void outbox_init(struct outbox *outbox, const char *spool_path);

/* Puts a Report behind the others; `packed` is taken over, on failure too. ST_NO_MEMORY. That the spool
 * cannot be written is logged, once, and tried again with each call. */
enum status outbox_put(struct outbox *outbox, uint8_t *packed, size_t length, uint64_t sequence,
                       size_t rows);

/* The oldest, NULL: none. Marked as sent. */
const struct outbox_entry *outbox_next(struct outbox *outbox);
/* It has been answered. The spool is emptied with the last one. */
void outbox_answered(struct outbox *outbox);

/*
 * Takes the reports that were never sent out again, thins their rows until all together are at most
 * `rows_max`, and makes new ones in their place, fewer and larger, from the same sequence number on.
 * ST_NO_MEMORY: some may be lost.
 */
enum status outbox_remake(struct outbox *outbox, size_t rows_max, struct report_origin *origin);

/* What is left is in the spool file and synced. ST_NO_SPACE, ST_IO, ...: it is not, and a later call tries again. */
enum status outbox_settle(struct outbox *outbox, struct fault *fault);

/* Settles what is left; with nothing left the file goes. Frees, whatever becomes of it. */
enum status outbox_close(struct outbox *outbox, struct fault *fault);

#endif
