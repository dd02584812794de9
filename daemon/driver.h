#ifndef DAEMON_DRIVER_H
#define DAEMON_DRIVER_H

/*
 * Between the coordinator, which decides, and the world: each event is decided, committed, applied, and only then
 * carried out and answered. Also looks after the attempts that live: starts them, sees how they end, and finds those
 * that an earlier daemon started. For the loop's thread; blocks for as long as the database and a few small files take.
 */

#include <pthread.h>

#include "daemon/coordinator.h"
#include "daemon/environment.h"
#include "daemon/launcher.h"
#include "daemon/response.h"
#include "daemon/state_directory.h"
#include "daemon/store.h"

enum {
    TICK_MS = 250,            /* how often driver_tick is to be called */
    PAUSE_MS = 5000,          /* a daemon that was not called for longer has not listened */
    UNSEEN_GRACE_MS = 10000,  /* a launcher that has written no launcher.json by then never will */
    EARLIER_GRACE_MS = 30000, /* for an earlier attempt to die of SIGKILL */
    WAITS_MS = 5000,          /* how often a wait in a queue is told of */
    LAUNCHERS = LAUNCHER_SLURM + 1,
};

struct tended;

struct driver {
    struct coordinator *coordinator;
    struct store *store;
    const struct state_directory *directory;
    struct attempt_launcher *launchers[LAUNCHERS]; /* by enum launcher */
    struct way_in local, remote;                   /* for ranks on this machine, and on others */
    pthread_mutex_t *reading; /* held while the coordinator changes; NULL: nobody else reads it */
    struct tended *tended;
    uint64_t tick_ms, awake_ms; /* the last tick; since when they came without a pause */
    bool store_failing;         /* said once, until it works again */
};

/* Looks for the attempts that were alive when the daemon before ended. All parts are borrowed. */
void driver_start(struct driver *driver);

/* Forgets them; they live on. */
void driver_stop(struct driver *driver);

/* Answers the first of `count` submits, acts and reports, which is not 0, or the first few where these are reports of
 * different runs: they share a transaction. Returns how many. The responses are the caller's; any other request is refused
 * with ST_UNSUPPORTED. */
size_t driver_answer(struct driver *driver, struct asked *asked, size_t count);

/* Time has passed, or a launcher has ended. */
void driver_tick(struct driver *driver);

#endif
