#ifndef PROTO_LIFECYCLE_H
#define PROTO_LIFECYCLE_H

/* States of a run, the moves between them, and causes of an attempt's end; made from lifecycle.def. */

#include <stdbool.h>

#include "proto/lifecycle.def"

#define LIFECYCLE_STATE(enumerator, name, final) enumerator,
enum run_state { RUN_STATES(LIFECYCLE_STATE) };
#undef LIFECYCLE_STATE

#define LIFECYCLE_CAUSE(enumerator, name, restart, words) enumerator,
enum attempt_cause { ATTEMPT_CAUSES(LIFECYCLE_CAUSE) };
#undef LIFECYCLE_CAUSE

const char *run_state_name(enum run_state state);
bool run_state_from_name(const char *name, enum run_state *state);
bool run_state_is_final(enum run_state state);
bool run_move_allowed(enum run_state from, enum run_state to);

const char *attempt_cause_name(enum attempt_cause cause);
bool attempt_cause_from_name(const char *name, enum attempt_cause *cause);
bool attempt_cause_restarts(enum attempt_cause cause);
const char *attempt_cause_words(enum attempt_cause cause);

#endif
