#ifndef WORKER_UPLINK_H
#define WORKER_UPLINK_H

/*
 * A rank's line to the daemon: a thread of its own behind a bounded queue, so that a slow or absent daemon
 * never delays a step. What was put in is sent in order, again until it is answered; what could not be sent
 * lies in the spool file (attempt-A/rank-R.spool: packed Reports, each behind a 4-byte length), which the daemon reads when
 * the attempt has ended. Without a daemon, metrics go to a file of JSON lines instead.
 */

#include <stdbool.h>
#include <stdint.h>

#include "proto/performer.pb-c.h"
#include "proto/status.h"

struct uplink;

/* To the daemon that the plan names. The plan must outlive the uplink. */
enum status uplink_open(const Performer__Plan *plan, uint32_t rank, struct uplink **uplink,
                        struct fault *fault);

/* To DIR/metrics.jsonl, rows as `performerctl metrics --json` prints them; rank 0 alone writes. */
enum status uplink_open_file(const char *directory, uint32_t rank, struct uplink **uplink,
                             struct fault *fault);

/* None of these blocks or fails; they may be called from the training thread alone. When the queue is full the
 * oldest metrics are thinned and the gap is counted; notices are never thinned. */
void uplink_metric(struct uplink *uplink, uint64_t step, const char *name, double value);
void uplink_notice(struct uplink *uplink, uint64_t step, const Performer__Notice *notice);
void uplink_phase(struct uplink *uplink, uint64_t step, const char *phase, double step_ms);

/* Orders that the daemon wants and that have not been marked as applied yet: at most `max`, by id. */
struct wanted_order {
    uint64_t id;
    Performer__Order__Kind kind;
};
int uplink_wanted(struct uplink *uplink, struct wanted_order *wanted, int max);
void uplink_applied(struct uplink *uplink, uint64_t id);

/* True once the daemon has said that a newer attempt has taken over. */
bool uplink_fenced(struct uplink *uplink);

/* Sends what is left for at most `timeout_ms`, spools the rest, ends the thread, frees. */
void uplink_close(struct uplink *uplink, int timeout_ms);

#endif
