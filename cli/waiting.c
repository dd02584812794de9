#include "cli/waiting.h"

#include <stdio.h>
#include <string.h>

#include "cli/quantity.h"
#include "cli/report.h"
#include "cli/run_json.h"
#include "cli/verbs.h"

enum { POLL_MS = 500 };

enum status waiting_open(const struct invocation *invocation, struct waiting *waiting,
                         struct fault *fault)
{
    struct waiting opened = {0};

    enum status status = interrupts_open(&opened.interrupts, fault);
    if (status != ST_OK) return status;
    status = remote_open(invocation, REMOTE_POLL_MS, &opened.remote, fault);
    if (status != ST_OK) goto close_interrupts;
    *waiting = opened;
    return ST_OK;
close_interrupts:
    interrupts_close(&opened.interrupts);
    return status;
}

void waiting_close(struct waiting *waiting)
{
    remote_close(&waiting->remote);
    interrupts_close(&waiting->interrupts);
}

bool waiting_pause(struct waiting *waiting, int pause_ms, int *signal)
{
    enum wakeup wakeup = interrupts_wait(&waiting->interrupts, pause_ms, signal);

    if (wakeup == WAKEUP_STOP) interrupts_suspend();
    return wakeup == WAKEUP_END;
}

bool summary_is_final(const Performer__RunSummary *summary, enum run_state *state)
{
    enum run_state known;

    if (!run_state_from_name(summary->state, &known) || !run_state_is_final(known)) return false;
    *state = known;
    return true;
}

void waiting_tell(const struct invocation *invocation, struct waiting *waiting, enum status status,
                  const struct fault *fault)
{
    bool away = remote_is_away(status);

    if (away && !waiting->away)
        report_words(invocation, "performerctl: %s; waiting for it to come back", fault->text);
    if (!away && waiting->away) report_words(invocation, "performerctl: the daemon is back");
    waiting->away = away;
}

enum exit_code waiting_interrupted(const struct invocation *invocation, const char *run, int signal)
{
    report_words(invocation, "performerctl: run %s goes on; `performerctl cancel %s` stops it", run,
                 run);
    return (enum exit_code)(128 + signal);
}

enum exit_code run_end_tell(const struct invocation *invocation,
                            const Performer__RunSummary *summary)
{
    enum run_state state = RUN_FAILED;

    summary_is_final(summary, &state);
    if (state != RUN_SUCCEEDED)
        report_words(invocation, "performerctl: run %s %s%s%s; see `performerctl describe %s`",
                     summary->id, state == RUN_CANCELLED ? "was cancelled" : "failed",
                     summary->reason[0] ? ": " : "", summary->reason, summary->id);
    return exit_code_of_state(state);
}

static enum exit_code tell_timed_out(const struct invocation *invocation, const char *run)
{
    struct fault fault;

    fault_set(&fault, ST_TIMED_OUT, "run %s has not ended after %s s", run,
              invocation->options[OPTION_TIMEOUT].text);
    report_fault(invocation, &fault);
    return EXIT_CODE_WAIT_TIMED_OUT;
}

/* One look: whether the story ended, and how. */
static bool look(const struct invocation *invocation, struct waiting *waiting, const char *run,
                 bool first, enum exit_code *code)
{
    Performer__Response *response;
    struct fault fault;
    enum run_state state;

    enum status status = remote_describe(&waiting->remote, run, &response, &fault);
    if (status != ST_OK && (first || !remote_is_away(status))) {
        *code = report_fault(invocation, &fault);
        return true;
    }
    waiting_tell(invocation, waiting, status, &fault);
    if (status != ST_OK) return false;
    bool final = summary_is_final(response->run_detail->summary, &state);
    if (final) {
        if (invocation_json(invocation))
            report_json(run_summary_json(response->run_detail->summary));
        *code = run_end_tell(invocation, response->run_detail->summary);
    }
    response_free(response);
    return final;
}

enum exit_code wait_for_end(const struct invocation *invocation, struct waiting *waiting,
                            const char *run)
{
    const struct option_value *timeout = &invocation->options[OPTION_TIMEOUT];
    uint64_t begin_ms = clock_monotonic_ms();
    enum exit_code code;
    int signal;

    for (bool first = true; !look(invocation, waiting, run, first, &code); first = false) {
        double left_ms = timeout->number * 1000 - (double)(clock_monotonic_ms() - begin_ms);
        if (timeout->given && left_ms <= 0) return tell_timed_out(invocation, run);
        int pause_ms = timeout->given && left_ms < POLL_MS ? (int)left_ms + 1 : POLL_MS;
        if (waiting_pause(waiting, pause_ms, &signal))
            return waiting_interrupted(invocation, run, signal);
    }
    return code;
}

enum exit_code verb_wait(const struct invocation *invocation)
{
    struct waiting waiting;
    struct fault fault;

    enum status status = waiting_open(invocation, &waiting, &fault);
    if (status != ST_OK) return report_fault(invocation, &fault);
    enum exit_code code = wait_for_end(invocation, &waiting, invocation->argument);
    waiting_close(&waiting);
    return code;
}
