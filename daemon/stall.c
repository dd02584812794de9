#include "daemon/stall.h"

#include "proto/phase.h"

/* One rank's standing. */
struct standing {
    uint64_t ms;
    bool silent;
    bool waits; /* for the other ranks */
    uint64_t step;
};

static uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t since(uint64_t then_ms, uint64_t now_ms)
{
    return now_ms > then_ms ? now_ms - then_ms : 0;
}

static struct standing standing_of(const struct run *run, const struct rank *rank, uint64_t now_ms,
                                   uint64_t awake_ms)
{
    uint64_t half_ms = run->facts.stall_ms / 2;
    uint64_t silent_ms = half_ms < STALL_SILENT_MS ? half_ms : STALL_SILENT_MS;
    uint64_t unheard_ms = since(later(rank->heard_ms, awake_ms), now_ms);
    enum phase phase;
    struct standing standing = {
        .ms = unheard_ms, .silent = unheard_ms >= silent_ms, .step = rank->step};
    standing.waits = phase_from_name(rank->phase, &phase) && phase == PHASE_REDUCE;
    if (!standing.silent && rank->heard) standing.ms += rank->stood_ms;
    return standing;
}

static bool is_more_to_blame(const struct standing *a, const struct standing *b, bool all_silent)
{
    if (!all_silent && a->silent != b->silent) return a->silent;
    if (a->step != b->step) return a->step < b->step;
    if (a->waits != b->waits) return b->waits;
    return a->ms > b->ms;
}

/* Steps and what they usually take are told by those that are heard; of a daemon's first seconds nothing is known. */
static uint64_t limit_ms(const struct run *run, const struct rank *rank)
{
    enum phase phase = PHASE_LOAD;
    phase_from_name(rank->phase, &phase);
    uint64_t least_ms = rank->usual_ms > 0 ? STALL_TIMES * rank->usual_ms : phase_first_ms(phase);
    return later(run->facts.stall_ms, least_ms);
}

bool stall_find(const struct run *run, uint64_t now_ms, uint64_t awake_ms, struct stall *stall)
{
    struct standing worst = {0};
    uint64_t least_ms = UINT64_MAX;
    bool all_silent = true;
    uint32_t to_blame = 0;
    if (run->facts.stall_ms == 0 || run->attempt.pid == 0) return false;
    for (uint32_t r = 0; r < run->facts.ranks; r++)
        all_silent =
            all_silent && standing_of(run, &run->attempt.ranks[r], now_ms, awake_ms).silent;
    if (all_silent && run->facts.launcher != LAUNCHER_LOCAL) return false;

    for (uint32_t r = 0; r < run->facts.ranks; r++) {
        struct standing standing = standing_of(run, &run->attempt.ranks[r], now_ms, awake_ms);
        if (standing.ms < least_ms) least_ms = standing.ms;
        if (r > 0 && !is_more_to_blame(&standing, &worst, all_silent)) continue;
        worst = standing;
        to_blame = r;
    }
    const struct rank *rank = &run->attempt.ranks[to_blame];
    if (least_ms < limit_ms(run, rank)) return false;
    *stall = (struct stall){to_blame, worst.silent, worst.ms, rank->usual_ms};
    return true;
}

uint64_t stall_grace_ms(const struct run *run)
{
    return later(STALL_GRACE_MS, STALL_GRACE_SAVES * run->save_ms);
}
