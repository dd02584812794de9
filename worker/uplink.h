#ifndef WORKER_UPLINK_H
#define WORKER_UPLINK_H

/*
 * A rank's line to the daemon: a thread of its own behind a bounded queue, so that a slow or absent daemon
 * never delays a step. What was put in is sent in order, in Reports of what came within 200 ms, each again
 * as it was until it is answered; with nothing to tell a heartbeat goes every second. Every Report lies in
 * the spool file (attempt-A/rank-R.spool: packed Reports, each behind a 4-byte length, little-endian) before
 * it is sent, and the file is emptied when all are answered; the daemon reads what is left there when the
 * attempt has ended. So a rank that is killed leaves what it told, but for the last 200 ms, or 5 s while a
 * daemon is there and silent. Without a daemon, metrics go to a file of JSON lines instead.
 */

#include <stdbool.h>
#include <stdint.h>

#include "proto/performer.pb-c.h"
#include "proto/phase.h"
#include "proto/status.h"

struct uplink;

/* To the daemon that the plan names, which need not be there. The plan must outlive the uplink. Makes the
 * attempt's directory. ST_INVALID: the URL is none; ST_NO_MEMORY, ST_SYSTEM, ... */
enum status uplink_open(const Performer__Plan *plan, uint32_t rank, struct uplink **uplink,
                        struct fault *fault);

/* To DIR/metrics.jsonl, rows as `performerctl metrics --json` prints them; rank 0 alone writes. DIR must be
 * there. A run that goes on in the same directory appends, with the next attempt number: the later row of a
 * step holds. Notices go nowhere. */
enum status uplink_open_file(const char *directory, uint32_t rank, struct uplink **uplink,
                             struct fault *fault);

/* None of these blocks or fails; they are for the training thread, uplink_notice for that of its saver too. When the queue is full
 * the oldest metrics are thinned and the gap is counted; notices are never thinned. A notice that is put in
 * before the metrics of its step reaches the daemon before them, or with them. */
void uplink_metric(struct uplink *uplink, uint64_t step, const char *name, double value);
void uplink_notice(struct uplink *uplink, uint64_t step, const Performer__Notice *notice);
/* A phase begins. Heartbeats tell how long it has lasted, and how long one took at most before. */
void uplink_phase(struct uplink *uplink, uint64_t step, enum phase phase, double step_ms);

/* A step is done; `own_ms` of it this rank did not wait for others. */
void uplink_step_done(struct uplink *uplink, double own_ms);

/* Orders that the daemon's newest reply wants and that have not been marked as applied: at most `max`, by
 * id. */
struct wanted_order {
    uint64_t id;
    Performer__Order__Kind kind;
};
int uplink_wanted(struct uplink *uplink, struct wanted_order *wanted, int max);
void uplink_applied(struct uplink *uplink, uint64_t id);

/* True once the daemon has said that a newer attempt has taken over. */
bool uplink_fenced(struct uplink *uplink);

/*
 * Brings rank 0's text to the other ranks of the attempt, by way of the daemon, which keeps it and gives it to nobody else.
 * Blocks until this rank has it from there, for as long as the daemon is away. ST_FENCED: a newer attempt has taken over;
 * ST_NOT_PERMITTED, ST_NOT_FOUND: the daemon does not know this rank. Not without a daemon.
 */
enum status uplink_meet(struct uplink *uplink, char *text, size_t size, struct fault *fault);

/* All that was put in, and not answered, is in the spool and synced: neither a kill nor a power cut takes it from now on.
 * Waits for the disk, never for the daemon. ST_NO_SPACE, ST_IO, ...: it is not. */
enum status uplink_settle(struct uplink *uplink, struct fault *fault);

/* Sends what is left for at most `timeout_ms`, settles the rest or removes the spool, ends the thread, frees. A silent
 * daemon that is being waited for may hold it 5 s longer. ST_NO_SPACE, ST_IO, ...: something is left that is not settled. */
enum status uplink_close(struct uplink *uplink, int timeout_ms, struct fault *fault);

#endif
