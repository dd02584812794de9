#ifndef TESTS_CLI_SCRIPTED_DAEMON_H
#define TESTS_CLI_SCRIPTED_DAEMON_H

/* A daemon that answers from a script: real frames over a real socket, and nothing behind them. */

#include <stdbool.h>

#include "proto/status.h"

struct script {
    enum status status;    /* of every answer */
    int silent;            /* so many requests at first are never answered */
    const char *end_state; /* of the run; "RUNNING": it does not end */
    unsigned looks;        /* DescribeRun answered until the run has ended */
    bool other_body;       /* answers a Ping whatever was asked */
};

struct scripted_daemon;

/* Listens on a fresh URL, which stays valid until stopped. One thread. */
struct scripted_daemon *scripted_daemon_start(struct script script);
struct scripted_daemon *scripted_daemon_start_at(struct script script, const char *url);
void scripted_daemon_stop(struct scripted_daemon *daemon);
const char *scripted_daemon_url(const struct scripted_daemon *daemon);

/* What came so far; looks are requests for the detail of a run. */
unsigned scripted_daemon_looks(const struct scripted_daemon *daemon);
unsigned scripted_daemon_submits(const struct scripted_daemon *daemon);
bool scripted_daemon_same_key(const struct scripted_daemon *daemon); /* of all submits */

#endif
