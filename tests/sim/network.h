#ifndef TESTS_SIM_NETWORK_H
#define TESTS_SIM_NETWORK_H

/* Messages to the daemon and back. The network may lose one, delay it, or deliver it twice. */

#include <stddef.h>

#include "proto/performer.pb-c.h"
#include "proto/status.h"
#include "tests/sim/jobs.h"
#include "worker/uplink.h"

enum { REPLY_ORDERS_MAX = 64, REPLY_RUN_SIZE = 24 };

/* What has come back of a response. */
struct reply {
    enum status status;
    char run[REPLY_RUN_SIZE];
    uint64_t order;
    bool fenced;
    int order_count;
    struct wanted_order orders[REPLY_ORDERS_MAX];
};

/* A message on its way to the daemon; the world's memory. */
struct request {
    enum request_kind { REQUEST_SUBMIT, REQUEST_ACT, REQUEST_REPORT } kind;
    /* submit */
    const struct job *job;
    const char *key;
    const char *fork_of; /* NULL: it begins anew */
    /* act */
    const char *run;
    Performer__Action action; /* `key` of a requeue too */
    /* a report, packed */
    const uint8_t *report;
    size_t report_length;
    const char *token; /* that the rank found in its environment */
    /* who asked, and how to tell the answer: not at all, once, or twice. `number` is the asker's. */
    void *who;
    void (*answered)(void *who, uint64_t number, const struct reply *reply);
    uint64_t number;
};

void network_send(const struct request *request);

#endif
