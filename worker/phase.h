#ifndef WORKER_PHASE_H
#define WORKER_PHASE_H

/* What a rank is doing, as its heartbeats tell it. P(enumerator, name) */
#define PHASES(P)                     \
    P(PHASE_LOAD, "load")             \
    P(PHASE_BATCH, "batch")           \
    P(PHASE_FORWARD, "forward")       \
    P(PHASE_BACKWARD, "backward")     \
    P(PHASE_REDUCE, "reduce")         \
    P(PHASE_UPDATE, "update")         \
    P(PHASE_EVALUATE, "evaluate")     \
    P(PHASE_CHECKPOINT, "checkpoint") \
    P(PHASE_DONE, "done")

#define PHASE_ENUM(enumerator, name) enumerator,
enum phase { PHASES(PHASE_ENUM) };
#undef PHASE_ENUM

static inline const char *phase_name(enum phase phase)
{
#define PHASE_NAME(enumerator, name) name,
    static const char *const names[] = {PHASES(PHASE_NAME)};
#undef PHASE_NAME
    return names[phase];
}

#endif
