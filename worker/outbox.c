#include "worker/outbox.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/durable.h"
#include "proto/logline.h"

enum { LENGTH_BYTES = 4 };

void outbox_init(struct outbox *outbox, const char *spool_path)
{
    *outbox = (struct outbox){.spool = -1};
    snprintf(outbox->spool_path, sizeof outbox->spool_path, "%s", spool_path);
}

static enum status spool_open(const char *path, int *spool, struct fault *fault)
{
    int opened = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    if (opened < 0) return fault_errno(fault, errno, "could not open %s", path);
    *spool = opened;
    return ST_OK;
}

/* Length and report in one write: a rank that is killed leaves no half of it. */
static enum status spool_append(int spool, const char *path, const struct outbox_entry *entry,
                                size_t *spool_length, struct fault *fault)
{
    uint8_t *bytes = malloc(LENGTH_BYTES + entry->length);
    if (!bytes) return fault_set(fault, ST_NO_MEMORY, "write %s: out of memory", path);
    for (int i = 0; i < LENGTH_BYTES; i++) bytes[i] = (uint8_t)(entry->length >> (8 * i));
    memcpy(bytes + LENGTH_BYTES, entry->packed, entry->length);
    enum status status = write_fully(spool, bytes, LENGTH_BYTES + entry->length, path, fault);
    free(bytes);
    if (status == ST_OK) *spool_length += LENGTH_BYTES + entry->length;
    return status;
}

static void spool_warn(struct outbox *outbox, const struct fault *fault)
{
    if (!outbox->spool_warned) log_warn("spool-not-written", "%s", fault->text);
    outbox->spool_warned = true;
}

/* All entries into a new file that takes the place of the old one: at no moment is there less than before. */
static enum status spool_rewrite(struct outbox *outbox, struct fault *fault)
{
    char path[sizeof outbox->spool_path + 8];
    snprintf(path, sizeof path, "%s.new", outbox->spool_path);
    int spool = -1;
    size_t length = 0;
    enum status status = spool_open(path, &spool, fault);
    for (size_t i = 0; i < outbox->count && status == ST_OK; i++)
        status = spool_append(spool, path, &outbox->entries[outbox->first + i], &length, fault);
    if (status == ST_OK && rename(path, outbox->spool_path) != 0)
        status = fault_errno(fault, errno, "could not replace %s", outbox->spool_path);
    outbox->spool_stale = status != ST_OK;
    if (status != ST_OK) {
        if (spool >= 0) close(spool);
        unlink(path);
        spool_warn(outbox, fault);
        return status;
    }
    if (outbox->spool >= 0) close(outbox->spool);
    outbox->spool = spool;
    outbox->spool_length = length;
    return ST_OK;
}

/* The newest entry goes behind the others. */
static void spool_extend(struct outbox *outbox)
{
    struct fault fault;
    enum status status = ST_OK;
    if (outbox->spool < 0) status = spool_open(outbox->spool_path, &outbox->spool, &fault);
    if (status == ST_OK)
        status = spool_append(outbox->spool, outbox->spool_path,
                              &outbox->entries[outbox->first + outbox->count - 1],
                              &outbox->spool_length, &fault);
    if (status == ST_OK) return;
    outbox->spool_stale = true;
    spool_warn(outbox, &fault);
    /* No half of a report stays behind. Should that fail too: it is written anew with the next. */
    if (outbox->spool >= 0 && ftruncate(outbox->spool, (off_t)outbox->spool_length) != 0)
        spool_warn(outbox, &fault);
}

static enum status entry_add(struct outbox *outbox, uint8_t *packed, size_t length,
                             uint64_t sequence, size_t rows)
{
    if (outbox->first > 0 && outbox->first + outbox->count == outbox->capacity) {
        memmove(outbox->entries, outbox->entries + outbox->first,
                outbox->count * sizeof *outbox->entries);
        outbox->first = 0;
    }
    if (outbox->count == outbox->capacity) {
        size_t capacity = 2 * outbox->capacity + 16;
        struct outbox_entry *grown = realloc(outbox->entries, capacity * sizeof *grown);
        if (!grown) {
            free(packed);
            return ST_NO_MEMORY;
        }
        outbox->entries = grown;
        outbox->capacity = capacity;
    }
    outbox->entries[outbox->first + outbox->count++] = (struct outbox_entry){
        .packed = packed, .length = length, .rows = rows, .sequence = sequence};
    outbox->rows += rows;
    return ST_OK;
}

enum status outbox_put(struct outbox *outbox, uint8_t *packed, size_t length, uint64_t sequence,
                       size_t rows)
{
    enum status status = entry_add(outbox, packed, length, sequence, rows);
    if (status != ST_OK) return status;
    struct fault fault;
    if (outbox->spool_stale)
        spool_rewrite(outbox, &fault);
    else
        spool_extend(outbox);
    return ST_OK;
}

const struct outbox_entry *outbox_next(struct outbox *outbox)
{
    if (outbox->count == 0) return NULL;
    outbox->entries[outbox->first].sent = true;
    return &outbox->entries[outbox->first];
}

void outbox_answered(struct outbox *outbox)
{
    outbox->rows -= outbox->entries[outbox->first].rows;
    free(outbox->entries[outbox->first].packed);
    outbox->first++;
    if (--outbox->count > 0) return;
    outbox->first = 0;
    /* Where this fails, answered reports stay in it: no harm. */
    if (outbox->spool < 0 || ftruncate(outbox->spool, 0) != 0) return;
    outbox->spool_length = 0;
    outbox->spool_stale = false;
}

/* What a report holds goes behind `items`. */
static enum status unpack_into(const struct outbox_entry *entry, struct report_items *items)
{
    Performer__Report *report = performer__report__unpack(NULL, entry->length, entry->packed);
    if (!report) return ST_NO_MEMORY;
    enum status status = ST_OK;
    for (size_t i = 0; i < report->n_notices && status == ST_OK; i++)
        status = report_items_add_notice(items, report->notices[i]);
    for (size_t i = 0; i < report->n_metrics && status == ST_OK; i++) {
        const Performer__MetricRow *row = report->metrics[i];
        struct metric_item item = {.step = row->step, .time_ms = row->time_ms, .value = row->value};
        snprintf(item.name, sizeof item.name, "%s", row->name);
        status = report_items_add_row(items, &item);
    }
    items->thinned += report->metrics_thinned;
    performer__report__free_unpacked(report, NULL);
    return status;
}

static enum status add_again(void *context, uint8_t *packed, size_t length, uint64_t sequence,
                             size_t rows)
{
    return entry_add(context, packed, length, sequence, rows);
}

enum status outbox_remake(struct outbox *outbox, size_t rows_max, struct report_origin *origin)
{
    struct report_items items = {0};
    size_t kept = outbox->count > 0 && outbox->entries[outbox->first].sent ? 1 : 0;
    if (outbox->count <= kept) return ST_OK;
    enum status status = ST_OK;
    for (size_t i = kept; i < outbox->count && status == ST_OK; i++)
        status = unpack_into(&outbox->entries[outbox->first + i], &items);
    if (status != ST_OK) goto fini_items; /* nothing has been taken out yet */

    size_t rows_sent = kept > 0 ? outbox->entries[outbox->first].rows : 0;
    while (items.row_count + rows_sent > rows_max && items.row_count > 1) report_items_thin(&items);
    origin->sequence = outbox->entries[outbox->first + kept].sequence;
    while (outbox->count > kept) {
        struct outbox_entry *last = &outbox->entries[outbox->first + --outbox->count];
        outbox->rows -= last->rows;
        free(last->packed);
    }
    const struct report_sink sink = {outbox, add_again};
    status = report_items_send(&items, origin, &sink);
    spool_rewrite(outbox, &(struct fault){0});
fini_items:
    report_items_fini(&items);
    return status;
}

enum status outbox_settle(struct outbox *outbox, struct fault *fault)
{
    enum status status = ST_OK;
    if (outbox->count == 0) return ST_OK;
    if (outbox->spool_stale) status = spool_rewrite(outbox, fault);
    if (status != ST_OK) return status;
    char directory[sizeof outbox->spool_path];
    memcpy(directory, outbox->spool_path, sizeof directory);
    char *slash = strrchr(directory, '/');
    if (slash) *slash = '\0';
    if (fsync(outbox->spool) != 0)
        return fault_errno(fault, errno, "could not sync %s", outbox->spool_path);
    return durable_sync_directory(slash ? directory : ".", fault);
}

enum status outbox_close(struct outbox *outbox, struct fault *fault)
{
    enum status status = outbox_settle(outbox, fault);
    if (outbox->count == 0 && outbox->spool >= 0) unlink(outbox->spool_path);
    if (outbox->spool >= 0) close(outbox->spool);
    for (size_t i = 0; i < outbox->count; i++) free(outbox->entries[outbox->first + i].packed);
    free(outbox->entries);
    return status;
}
