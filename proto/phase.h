#ifndef PROTO_PHASE_H
#define PROTO_PHASE_H

/*
 * What a rank is doing, as its heartbeats tell it. `first_s`: how long a phase may take, in seconds, before a rank is taken
 * for one that stands still, as long as it has never finished one: data are read and pages touched for the first time.
 *
 * P(enumerator, name, first_s)
 */
#define PHASES(P)                           \
    P(PHASE_LOAD, "load", 3600)             \
    P(PHASE_BATCH, "batch", 600)            \
    P(PHASE_FORWARD, "forward", 600)        \
    P(PHASE_BACKWARD, "backward", 600)      \
    P(PHASE_REDUCE, "reduce", 600)          \
    P(PHASE_UPDATE, "update", 600)          \
    P(PHASE_EVALUATE, "evaluate", 600)      \
    P(PHASE_CHECKPOINT, "checkpoint", 1800) \
    P(PHASE_DONE, "done", 120)

#include <stdbool.h>
#include <stdint.h>

#define PHASE_ENUM(enumerator, name, first_s) enumerator,
enum phase { PHASES(PHASE_ENUM) PHASE_COUNT };
#undef PHASE_ENUM

const char *phase_name(enum phase phase);
/* False: it is of a newer worker, or none was told. */
bool phase_from_name(const char *name, enum phase *phase);
uint64_t phase_first_ms(enum phase phase);

#endif
