#include "daemon/queue.h"

#include <inttypes.h>
#include <stdio.h>

/* Ranks that a QUEUED run may have: those of runs between two attempts are kept for them, unless they can never have
 * them. */
static uint32_t ranks_for_queue(const struct coordinator *coordinator)
{
    uint32_t ranks = coordinator_ranks_free(coordinator);
    for (size_t i = 0; i < coordinator->run_count; i++) {
        const struct run *run = coordinator->runs[i];
        const uint32_t kept = run_ranks_here(&run->facts);
        if (run->state != RUN_RESTARTING || kept > coordinator->ranks_max) continue;
        ranks = ranks > kept ? ranks - kept : 0;
    }
    return ranks;
}

const struct run *queue_awaits(const struct coordinator *coordinator, const struct run *run)
{
    for (size_t i = 0; i < run->after_count; i++) {
        const struct run *earlier = coordinator_run(coordinator, run->after[i]);
        if (earlier->state != RUN_SUCCEEDED) return earlier;
    }
    return NULL;
}

static bool stands_in_line(const struct coordinator *coordinator, const struct run *run,
                           uint64_t now_ms)
{
    return run->state == RUN_QUEUED && run->due_ms <= now_ms &&
           run_ranks_here(&run->facts) <= coordinator->ranks_max && !queue_awaits(coordinator, run);
}

/* One that takes no ranks here goes before all: its place in Slurm's queue is none of ours. */
static bool goes_before(const struct run *run, const struct run *first)
{
    if (run_ranks_here(&first->facts) == 0) return false;
    return run_ranks_here(&run->facts) == 0 || run->facts.priority > first->facts.priority;
}

static const struct run *first_in_line(const struct coordinator *coordinator, uint64_t now_ms)
{
    const struct run *first = NULL;
    for (size_t i = 0; i < coordinator->run_count; i++) {
        const struct run *run = coordinator->runs[i];
        if (first && !goes_before(run, first)) continue;
        if (stands_in_line(coordinator, run, now_ms)) first = run;
    }
    return first;
}

const struct run *queue_next(const struct coordinator *coordinator, uint64_t now_ms)
{
    const struct run *first = first_in_line(coordinator, now_ms);
    return first && run_ranks_here(&first->facts) <= ranks_for_queue(coordinator) ? first : NULL;
}

void queue_reason(const struct coordinator *coordinator, const struct run *run, uint64_t now_ms,
                  char *text, size_t size)
{
    const struct run *awaited = queue_awaits(coordinator, run);
    const struct run *first = first_in_line(coordinator, now_ms);
    if (awaited)
        snprintf(text, size, "after %s, which is %s", awaited->id, run_state_name(awaited->state));
    else if (run_ranks_here(&run->facts) > coordinator->ranks_max)
        snprintf(text, size, "needs %" PRIu32 " ranks, and this daemon runs at most %" PRIu32,
                 run->facts.ranks, coordinator->ranks_max);
    else if (run->state == RUN_QUEUED && first != run)
        snprintf(text, size, "waits behind %s", first->id);
    else
        snprintf(text, size, "waits for %" PRIu32 " ranks: %" PRIu32 " of %" PRIu32 " are in use",
                 run->facts.ranks, coordinator_ranks_in_use(coordinator), coordinator->ranks_max);
}
