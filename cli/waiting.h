#ifndef CLI_WAITING_H
#define CLI_WAITING_H

/* Asking again and again until a run is final: what wait, submit --wait, logs -f and --watch share. */

#include "cli/interrupt.h"
#include "cli/invocation.h"
#include "cli/remote.h"

struct waiting {
    struct interrupts interrupts;
    struct remote remote;
    bool away; /* the daemon did not answer the last time, and that has been said */
};

enum status waiting_open(const struct invocation *invocation, struct waiting *waiting,
                         struct fault *fault);
void waiting_close(struct waiting *waiting);

/*
 * Polls until the run is final. Silent but for a daemon that goes away, which is waited for, and for a run
 * that did not succeed. The exit code of the final state; 8 after --timeout, 130 after ^C.
 */
enum exit_code wait_for_end(const struct invocation *invocation, struct waiting *waiting,
                            const char *run);

/* Sleeps. True: a signal ended the wait, waiting_interrupted tells of it. */
bool waiting_pause(struct waiting *waiting, int pause_ms, int *signal);

/* Says on stderr that the daemon went away or came back, once each. */
void waiting_tell(const struct invocation *invocation, struct waiting *waiting, enum status status,
                  const struct fault *fault);

/* ^C and its like: says that the run goes on; 128 + signal. */
enum exit_code waiting_interrupted(const struct invocation *invocation, const char *run,
                                   int signal);

/* The end of a run: words on stderr unless it succeeded, and the exit code. */
enum exit_code run_end_tell(const struct invocation *invocation,
                            const Performer__RunSummary *summary);

/* Whether the run is in a final state; then `*state` says in which. */
bool summary_is_final(const Performer__RunSummary *summary, enum run_state *state);

#endif
