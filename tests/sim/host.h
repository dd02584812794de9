#ifndef TESTS_SIM_HOST_H
#define TESTS_SIM_HOST_H

/*
 * The daemon of a simulated world, one life after the other. What performerd.c does with an
 * event loop and an endpoint is done here with the world's agenda; coordinator, store and driver are the real ones.
 */

#include "daemon/coordinator.h"
#include "daemon/driver.h"
#include "daemon/store.h"
#include "tests/sim/network.h"

enum { HOST_RANKS_MAX = 4, HOST_INBOX_MAX = 8 };

struct host {
    struct state_directory directory;
    struct coordinator coordinator;
    struct store *store;
    struct driver driver;
    bool up;
    uint64_t life;                               /* from 1 */
    const struct request *inbox[HOST_INBOX_MAX]; /* (inbox_count): what came since it last looked */
    size_t inbox_count;
};

extern struct host host;

void host_begin(void);
void host_end(void);

/* It is killed, or asked to end, and comes back after `away_ms`. */
void host_kill(uint64_t away_ms);
void host_stop(uint64_t away_ms);

/* The machine goes down with all that runs on it. */
void host_lose_power(uint64_t away_ms);

/* In the calm: a daemon is there, and its disk works. */
void host_recover(void);

#endif
