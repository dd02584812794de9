#ifndef WORKER_ORDERS_H
#define WORKER_ORDERS_H

/*
 * What happens at the edge of a step: rules of the job (redraw, evaluate and checkpoint every so many steps), orders that a person
 * gave, and orders of earlier attempts that are met again at their steps. Every rank puts what it has heard into its control
 * record, all gather all records, and each decides alike from the same records.
 */

#include <stdbool.h>
#include <stdint.h>

#include "proto/jobspec.h"
#include "proto/performer.pb-c.h"
#include "worker/checkpoint.h"
#include "worker/uplink.h"

enum { ORDERS_HEARD_MAX = 16, ORDERS_HANDLED_MAX = 256 };

/* What a rank tells all others at a step edge. Gathered as bytes: zero it before it is filled. */
struct control {
    double loss_sum;
    int64_t counted;     /* tokens that were predicted */
    int64_t tokens;      /* that went in, without padding */
    uint32_t stop_asked; /* this rank was told by a signal to save and end */
    uint32_t fenced;     /* this rank knows that a newer attempt has taken over */
    uint32_t heard_count;
    struct wanted_order heard[ORDERS_HEARD_MAX]; /* by id */
};

/* What all ranks do after a step, in this order. */
struct edge {
    bool fenced;
    bool redraw;
    uint64_t redraw_order; /* 0: planned */
    bool evaluate;   /* by rule or by order; what is found may redraw: orders_redraw_by_error */
    bool checkpoint; /* by rule, by order, or because the run ends here */
    bool stop;
    int applied_count;
    struct wanted_order
        applied[ORDERS_HEARD_MAX]; /* orders that take effect here for the first time, by id */
};

struct orders {
    const struct jobspec *spec;
    size_t replay_count;
    const struct applied_order *replay; /* of earlier attempts; the caller's */
    size_t handled_count;               /* so far; the newest ORDERS_HANDLED_MAX are kept */
    uint64_t handled[ORDERS_HANDLED_MAX];
};

/* `replay` must outlive the orders. */
void orders_init(struct orders *orders, const struct jobspec *spec,
                 const struct applied_order *replay, size_t replay_count);

/* Whether it is among those of earlier attempts. */
bool orders_replays(const struct orders *orders, uint64_t id);

/*
 * Decides the edge after `step` from the records of all ranks and notes in `state` what changes the weights:
 * the number of the draw and the orders behind it. Features are not redrawn after the last step, which nothing would use:
 * a planned redraw falls away, an ordered one stays unapplied.
 */
void orders_decide(struct orders *orders, uint64_t step, const struct control *records, int ranks,
                   struct checkpoint_state *state, struct edge *edge);

/*
 * The rule of policy "adaptive", after the evaluation of `step`, whose largest error of a layer is `error`: whether
 * features are redrawn now, which is noted in `state`. Only evaluations of the job's rule are looked at, so that one which
 * a person asks for changes no weights. An error that is no number redraws too. Nothing keeps it from holding at one
 * evaluation after the other: draws are independent, so the next may be better, and it costs less than the evaluation.
 */
bool orders_redraw_by_error(const struct orders *orders, uint64_t step, double error,
                            struct checkpoint_state *state);

#endif
