#ifndef WORKER_NOTICES_H
#define WORKER_NOTICES_H

/* What a rank tells the daemon about itself, besides metrics: one function for each kind of Notice. None blocks. */

#include <stdbool.h>
#include <stdint.h>

#include "worker/checkpoint.h"
#include "worker/uplink.h"

void notice_started(struct uplink *uplink, uint64_t resumed_step, const char *backend,
                    const char *libraries, uint64_t parameters);
/* order 0: by a rule of the job; `why` is what such a rule measured, NULL: nothing. `hash` is of all layers' projections. */
void notice_redrawn(struct uplink *uplink, uint64_t step, uint64_t draw, uint64_t hash,
                    uint64_t order, const char *why);
void notice_order_applied(struct uplink *uplink, uint64_t step, const struct wanted_order *order);

struct saved_checkpoint {
    const char *path;
    uint64_t bytes;
    double seconds;
    bool best;
    double valid_loss; /* NaN: not evaluated at this step */
};
void notice_checkpoint_saved(struct uplink *uplink, uint64_t step,
                             const struct saved_checkpoint *saved);
void notice_checkpoint_removed(struct uplink *uplink, uint64_t step, const char *path);
void notice_checkpoint_rejected(struct uplink *uplink, const char *path, const char *why);
void notice_checkpoint_failed(struct uplink *uplink, uint64_t step, const char *why);
void notice_update_skipped(struct uplink *uplink, uint64_t step, const char *why, uint64_t in_row);
void notice_ended(struct uplink *uplink, uint64_t step, enum status status, bool stopped,
                  const char *text);

/* How the other ranks find this one, which is rank 0. */
void notice_rendezvous(struct uplink *uplink, const char *text);

/* Milliseconds since 1970. */
uint64_t wall_clock_ms(void);

#endif
