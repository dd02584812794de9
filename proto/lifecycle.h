#ifndef PROTO_LIFECYCLE_H
#define PROTO_LIFECYCLE_H

/* States of a run, the moves between them, causes of an attempt's end, and how often each may be followed by another
 * attempt; made from lifecycle.def. */

#include <stdbool.h>
#include <stdint.h>

#include "proto/lifecycle.def"

#define LIFECYCLE_STATE(enumerator, name, final) enumerator,
enum run_state { RUN_STATES(LIFECYCLE_STATE) };
#undef LIFECYCLE_STATE

/* Of a budget: what [restart] max says, or no limit. */
#define RESTARTS_BY_JOB    (UINT32_MAX - 1)
#define RESTARTS_UNLIMITED UINT32_MAX

#define LIFECYCLE_BUDGET(enumerator, name, attempts, loops) enumerator,
enum restart_budget { RESTART_BUDGETS(LIFECYCLE_BUDGET) BUDGET_COUNT };
#undef LIFECYCLE_BUDGET

#define LIFECYCLE_CAUSE(enumerator, name, budget, words) enumerator,
enum attempt_cause { ATTEMPT_CAUSES(LIFECYCLE_CAUSE) };
#undef LIFECYCLE_CAUSE

const char *run_state_name(enum run_state state);
bool run_state_from_name(const char *name, enum run_state *state);
bool run_state_is_final(enum run_state state);
bool run_move_allowed(enum run_state from, enum run_state to);

const char *attempt_cause_name(enum attempt_cause cause);
bool attempt_cause_from_name(const char *name, enum attempt_cause *cause);
enum restart_budget attempt_cause_budget(enum attempt_cause cause);
bool attempt_cause_restarts(enum attempt_cause cause);
const char *attempt_cause_words(enum attempt_cause cause);

const char *restart_budget_name(enum restart_budget budget);
/* Attempts that may follow: a number, RESTARTS_BY_JOB or RESTARTS_UNLIMITED. */
uint32_t restart_budget_attempts(enum restart_budget budget);
bool restart_budget_loops(enum restart_budget budget);

#endif
