#ifndef DAEMON_STALL_H
#define DAEMON_STALL_H

/*
 * Whether a run stands still, and which rank is to blame. Ranks tell how long they have been in their phase and how long
 * it has taken at most before; a rank whose training thread hangs still tells it, for the uplink has a thread of its own.
 * A run stands still when every rank has stood for longer than the one to blame may: five times the longest that its phase
 * has taken, but not less than `[restart] stall_seconds`, and as proto/phase.h says where it has never finished one.
 *
 * To blame is a rank that is silent while others are heard, else the one with the fewest steps, else one that does not
 * wait for the others. Silence of all ranks tells nothing, unless they run on the daemon's own machine.
 */

#include "daemon/run.h"

enum {
    STALL_TIMES = 5,             /* the longest that it took before */
    STALL_SILENT_MS = 10 * 1000, /* half of stall_seconds at most; heartbeats come every second */
    STALL_GRACE_MS = 10 * 1000,  /* from SIGTERM to SIGKILL, or so often what the last save took: */
    STALL_GRACE_SAVES = 3,       /* one may be under way, and the last one follows */
};

struct stall {
    uint32_t rank;
    bool silent;
    uint64_t stood_ms;
    uint64_t usual_ms; /* 0: it has never finished that phase */
};

/* `awake_ms`: since when the daemon has listened without a pause, monotonic like `now_ms`. False: it moves, as far as can
 * be known. */
bool stall_find(const struct run *run, uint64_t now_ms, uint64_t awake_ms, struct stall *stall);

/* How long ranks that were told to save and end may take. */
uint64_t stall_grace_ms(const struct run *run);

#endif
