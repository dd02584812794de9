#ifndef TESTS_SIM_PLANT_H
#define TESTS_SIM_PLANT_H

#include <stdbool.h>

/*
 * Defects that the simulation must find, planted from outside between the driver and what it calls (product.h): the
 * product's code knows nothing of them. In a build without SIM_PLANTED there are none.
 *
 * P(enumerator, name, words)
 */
#define PLANTS(P)                                                                        \
    P(PLANT_ACK, "ack", "a commit that failed is taken for one that did not")            \
    P(PLANT_RETRY, "retry", "the answer to a report that comes again carries no orders") \
    P(PLANT_STOP, "stop", "the wish for an end is not written down")                     \
    P(PLANT_BUDGET, "budget", "a crash is counted twice")                                \
    P(PLANT_SPARED, "spared", "a launch that a full disk prevents is counted")           \
    P(PLANT_BACK_OFF, "back-off", "the next attempt begins at once")                     \
    P(PLANT_EFFECT, "effect", "a kill is sent before it is committed")                   \
    P(PLANT_METRIC, "metric", "the last row of a report is acknowledged and dropped")    \
    P(PLANT_FENCE, "fence", "the reports of any attempt are taken for the newest one's") \
    P(PLANT_FINAL, "final", "a run that has succeeded can be cancelled")                 \
    P(PLANT_REPLAY, "replay", "an attempt that resumes is told of applied orders twice") \
    P(PLANT_ADOPT, "adopt", "a new daemon looks for none of the attempts that live")     \
    P(PLANT_KEY, "key", "a submit that comes again makes a run again")                   \
    P(PLANT_HOLD, "hold", "a run that is paused keeps the order to stop")                \
    P(PLANT_REQUEUE, "requeue", "a requeue that comes again is one more")                \
    P(PLANT_FORK, "fork", "a fork leaves its checkpoint with the source")                \
    P(PLANT_AFTER, "after", "a run waits for none of those that it comes after")         \
    P(PLANT_PRIORITY, "priority", "all runs have the same priority")                     \
    P(PLANT_PROGRESS, "progress", "every attempt is taken for one that progressed")      \
    P(PLANT_STALL, "stall", "a rank is taken for one that has stood a minute longer")    \
    P(PLANT_ASIDE, "aside", "the plan does not name the checkpoint that is set aside")   \
    P(PLANT_REWIND, "rewind", "the plan does not tell that the run goes back")

#define PLANT_ENUM(enumerator, name, words) enumerator,
enum plant { PLANT_NONE, PLANTS(PLANT_ENUM) PLANT_COUNT };
#undef PLANT_ENUM

#ifdef SIM_PLANTED
extern enum plant planted;

const char *plant_name(enum plant plant);
const char *plant_words(enum plant plant);
/* False: none has that name. */
bool plant_from_name(const char *name, enum plant *plant);
#endif

#endif
