#include "worker/notices.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

uint64_t wall_clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* protobuf-c wants mutable strings and changes none: the uplink packs the notice at once. */
static char *text_of(const char *text)
{
    return (char *)text;
}

/* NOTICE(started, STARTED, &body): sends a notice with this body. */
#define NOTICE(uplink, at, member, CASE, body)               \
    do {                                                     \
        Performer__Notice notice_ = PERFORMER__NOTICE__INIT; \
        notice_.time_ms = wall_clock_ms();                   \
        notice_.step = (at);                                 \
        notice_.what_case = PERFORMER__NOTICE__WHAT_##CASE;  \
        notice_.member = (body);                             \
        uplink_notice((uplink), (at), &notice_);             \
    } while (0)

void notice_started(struct uplink *uplink, uint64_t resumed_step, const char *backend,
                    const char *libraries, uint64_t parameters)
{
    Performer__Started started = PERFORMER__STARTED__INIT;
    started.resumed_step = resumed_step;
    started.backend = text_of(backend);
    started.libraries = text_of(libraries);
    started.parameters = parameters;
    NOTICE(uplink, resumed_step, started, STARTED, &started);
}

void notice_redrawn(struct uplink *uplink, uint64_t step, uint64_t draw, uint64_t hash,
                    uint64_t order, const char *why)
{
    char text[17];
    snprintf(text, sizeof text, "%016" PRIx64, hash);
    Performer__Redrawn redrawn = PERFORMER__REDRAWN__INIT;
    redrawn.draw = draw;
    redrawn.hash = text;
    redrawn.order = order;
    if (why) redrawn.why = text_of(why);
    NOTICE(uplink, step, redrawn, REDRAWN, &redrawn);
}

void notice_order_applied(struct uplink *uplink, uint64_t step, const struct wanted_order *order)
{
    Performer__OrderApplied applied = PERFORMER__ORDER_APPLIED__INIT;
    applied.order = order->id;
    applied.kind = order->kind;
    NOTICE(uplink, step, order_applied, ORDER_APPLIED, &applied);
}

void notice_checkpoint_saved(struct uplink *uplink, uint64_t step,
                             const struct saved_checkpoint *saved)
{
    Performer__CheckpointSaved body = PERFORMER__CHECKPOINT_SAVED__INIT;
    body.path = text_of(saved->path);
    body.bytes = saved->bytes;
    body.seconds = saved->seconds;
    body.best = saved->best;
    body.valid_loss = saved->valid_loss;
    NOTICE(uplink, step, checkpoint_saved, CHECKPOINT_SAVED, &body);
}

void notice_checkpoint_removed(struct uplink *uplink, uint64_t step, const char *path)
{
    Performer__CheckpointRemoved removed = PERFORMER__CHECKPOINT_REMOVED__INIT;
    removed.path = text_of(path);
    NOTICE(uplink, step, checkpoint_removed, CHECKPOINT_REMOVED, &removed);
}

void notice_checkpoint_rejected(struct uplink *uplink, const char *path, const char *why)
{
    Performer__CheckpointRejected rejected = PERFORMER__CHECKPOINT_REJECTED__INIT;
    rejected.path = text_of(path);
    rejected.text = text_of(why);
    NOTICE(uplink, 0, checkpoint_rejected, CHECKPOINT_REJECTED, &rejected);
}

void notice_checkpoint_failed(struct uplink *uplink, uint64_t step, const char *why)
{
    Performer__CheckpointFailed failed = PERFORMER__CHECKPOINT_FAILED__INIT;
    failed.text = text_of(why);
    NOTICE(uplink, step, checkpoint_failed, CHECKPOINT_FAILED, &failed);
}

void notice_update_skipped(struct uplink *uplink, uint64_t step, const char *why, uint64_t in_row)
{
    Performer__UpdateSkipped skipped = PERFORMER__UPDATE_SKIPPED__INIT;
    skipped.why = text_of(why);
    skipped.in_row = in_row;
    NOTICE(uplink, step, update_skipped, UPDATE_SKIPPED, &skipped);
}

void notice_ended(struct uplink *uplink, uint64_t step, enum status status, bool stopped,
                  const char *text)
{
    Performer__Ended ended = PERFORMER__ENDED__INIT;
    ended.status = status;
    ended.stopped = stopped;
    ended.text = text_of(text);
    NOTICE(uplink, step, ended, ENDED, &ended);
}

void notice_rendezvous(struct uplink *uplink, const char *text)
{
    Performer__Rendezvous rendezvous = PERFORMER__RENDEZVOUS__INIT;
    rendezvous.text = text_of(text);
    NOTICE(uplink, 0, rendezvous, RENDEZVOUS, &rendezvous);
}
