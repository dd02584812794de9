#include <stdio.h>
#include <time.h>

#include "cli/quantity.h"
#include "cli/report.h"
#include "cli/verbs.h"
#include "cli/waiting.h"
#include "proto/lifecycle.h"

enum { POLL_MS = 200 };

static enum status ask(struct remote *remote, const char *run, struct fault *fault)
{
    Performer__Act act = PERFORMER__ACT__INIT;
    Performer__Request request = PERFORMER__REQUEST__INIT;
    Performer__Response *response;
    act.run = (char *)run;
    act.action = PERFORMER__ACTION__ACTION_DRILL;
    request.body_case = PERFORMER__REQUEST__BODY_ACT;
    request.act = &act;
    enum status status =
        remote_call(remote, &request, PERFORMER__RESPONSE__BODY_ACTED, &response, fault);
    if (status == ST_OK) response_free(response);
    return status;
}

static enum exit_code tell(const struct invocation *invocation, const Performer__RunDetail *detail)
{
    const Performer__Drill *drill = detail->drill;
    const bool fits = drill->exit_ms <= detail->grace_ms;
    if (invocation_json(invocation)) {
        report_json(json_pack("{s:s,s:I,s:I,s:I,s:I,s:I,s:b}", "id", detail->summary->id, "attempt",
                              (json_int_t)drill->attempt, "step", (json_int_t)drill->step,
                              "save_ms", (json_int_t)drill->save_ms, "exit_ms",
                              (json_int_t)drill->exit_ms, "grace_ms", (json_int_t)detail->grace_ms,
                              "fits", (int)fits));
        return EXIT_CODE_OK;
    }
    printf("%s  attempt %u was asked to stop as before a preemption\n", detail->summary->id,
           drill->attempt);
    printf("checkpoint of step %llu  %s after the request\n", (unsigned long long)drill->step,
           span_text((double)drill->save_ms).text);
    printf("ranks ended  %s after it\n", span_text((double)drill->exit_ms).text);
    printf("grace  %s: %s\n", span_text((double)detail->grace_ms).text,
           fits ? "it fits"
                : "it does NOT fit, and what was done since the last checkpoint would be lost");
    printf("attempt %u goes on\n", detail->summary->attempt);
    return EXIT_CODE_OK;
}

/* The attempt that was to be stopped is over: another has begun, or none will before somebody wants it, who has asked for a
 * pause or a requeue meanwhile. */
static bool is_over(const Performer__RunDetail *detail, uint32_t attempt)
{
    enum run_state state;
    if (detail->summary->attempt > attempt) return true;
    return run_state_from_name(detail->summary->state, &state) &&
           (run_state_is_final(state) || state == RUN_PAUSED || state == RUN_QUEUED);
}

static enum exit_code tell_end(const struct invocation *invocation,
                               const Performer__RunDetail *detail, uint32_t attempt)
{
    struct fault fault;
    if (detail->drill && detail->drill->attempt == attempt) return tell(invocation, detail);
    fault_set(&fault, ST_REFUSED,
              "attempt %u of %s ended otherwise: see `performerctl describe %s`", attempt,
              detail->summary->id, detail->summary->id);
    return report_fault(invocation, &fault);
}

static double clock_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Until the next attempt has begun. */
static enum exit_code await_end(const struct invocation *invocation, struct waiting *waiting,
                                uint32_t attempt)
{
    const struct option_value *timeout = &invocation->options[OPTION_TIMEOUT];
    const double until_s = clock_s() + timeout->number;
    for (;;) {
        Performer__Response *response;
        struct fault fault;
        int signal;
        enum status status =
            remote_describe(&waiting->remote, invocation->argument, &response, &fault);
        waiting_tell(invocation, waiting, status, &fault);
        if (status != ST_OK && !remote_is_away(status)) return report_fault(invocation, &fault);
        if (status == ST_OK && is_over(response->run_detail, attempt)) {
            const enum exit_code code = tell_end(invocation, response->run_detail, attempt);
            response_free(response);
            return code;
        }
        if (status == ST_OK) response_free(response);
        if (timeout->given && clock_s() >= until_s) return EXIT_CODE_WAIT_TIMED_OUT;
        if (waiting_pause(waiting, POLL_MS, &signal))
            return waiting_interrupted(invocation, invocation->argument, signal);
    }
}

enum exit_code verb_drill(const struct invocation *invocation)
{
    Performer__Response *response;
    struct waiting waiting;
    struct fault fault;
    enum exit_code code;

    enum status status = waiting_open(invocation, &waiting, &fault);
    if (status != ST_OK) return report_fault(invocation, &fault);
    status = remote_describe(&waiting.remote, invocation->argument, &response, &fault);
    if (status == ST_OK) {
        const uint32_t attempt = response->run_detail->summary->attempt;
        response_free(response);
        status = ask(&waiting.remote, invocation->argument, &fault);
        if (status == ST_OK) code = await_end(invocation, &waiting, attempt);
    }
    if (status != ST_OK) code = report_fault(invocation, &fault);
    waiting_close(&waiting);
    return code;
}
