#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/remote.h"
#include "cli/report.h"
#include "cli/request_key.h"
#include "cli/verbs.h"

/* What a fork has of its own where --set does not say otherwise: a name, nothing to wait for, and no use for other weights. */
enum { OWN_MAX = 3 };

struct fork {
    const struct invocation *invocation;
    struct remote remote;
    char source[64], name[160];
    struct jobspec_override overrides[OWN_MAX + OVERRIDES_MAX]; /* the later of two counts */
    size_t override_count;
};

static void add_override(struct fork *fork, const char *text)
{
    fork->overrides[fork->override_count++].text = text;
}

/* On EXIT_CODE_OK the job is the caller's, to be freed. What is wrong has been said. */
static enum exit_code make_job(struct fork *fork, const Performer__RunDetail *detail,
                               struct jobspec *job)
{
    const struct invocation *invocation = fork->invocation;
    struct diagnostics diagnostics = {0};
    struct fault fault;

    snprintf(fork->source, sizeof fork->source, "%s", detail->summary->id);
    snprintf(fork->name, sizeof fork->name, "job.name=\"%.95s-fork\"", detail->summary->name);
    add_override(fork, fork->name);
    add_override(fork, "queue.after=[]");
    add_override(fork, "model.init=\"\"");
    for (size_t i = 0; i < invocation->override_count; i++)
        add_override(fork, invocation->overrides[i].text);
    enum status status = jobspec_parse(detail->config, strlen(detail->config), fork->source,
                                       fork->overrides, fork->override_count, &diagnostics, job);
    report_diagnostics(invocation, fork->source, &diagnostics);
    bool said = diagnostics.errors > 0;
    diagnostics_free(&diagnostics);
    if (status == ST_OK) return EXIT_CODE_OK;
    if (said) return EXIT_CODE_JOB_INVALID;
    fault_set(&fault, status, "the job file of %s: %s", fork->source, status_text(status));
    return report_fault(invocation, &fault);
}

static void tell(const struct fork *fork, const struct jobspec *job,
                 const Performer__Submitted *submitted)
{
    unsigned long long step = submitted->forked_step;

    if (invocation_json(fork->invocation))
        report_json(json_pack("{s:s,s:s,s:s,s:I}", "id", submitted->run, "name", job->job.name,
                              "forked_from", fork->source, "forked_step", (json_int_t)step));
    else if (fork->invocation->options[OPTION_PARSABLE].given)
        printf("%s\n", submitted->run);
    else
        printf("%s  %s, from %s after step %llu\n", submitted->run, job->job.name, fork->source,
               step);
}

static enum exit_code submit(struct fork *fork, const struct jobspec *job)
{
    Performer__Submit submit = PERFORMER__SUBMIT__INIT;
    Performer__Request request = PERFORMER__REQUEST__INIT;
    Performer__Response *response;
    struct request_key key;
    struct fault fault;
    char *resolved;

    enum status status = request_key_make(&key, &fault);
    if (status != ST_OK) return report_fault(fork->invocation, &fault);
    if (jobspec_print(job, &resolved) != ST_OK) {
        fault_set(&fault, ST_NO_MEMORY, "could not print the resolved job file");
        return report_fault(fork->invocation, &fault);
    }
    submit.text = submit.resolved = resolved;
    submit.key = key.text;
    submit.fork_of = fork->source;
    submit.fork_step = invocation_count(fork->invocation, OPTION_STEP, 0);
    request.body_case = PERFORMER__REQUEST__BODY_SUBMIT;
    request.submit = &submit;
    status = remote_call_keyed(&fork->remote, &request, PERFORMER__RESPONSE__BODY_SUBMITTED,
                               &response, &fault);
    free(resolved);
    if (status != ST_OK) return report_fault(fork->invocation, &fault);
    tell(fork, job, response->submitted);
    response_free(response);
    return EXIT_CODE_OK;
}

enum exit_code verb_fork(const struct invocation *invocation)
{
    struct fork fork = {.invocation = invocation};
    struct jobspec job = {0};
    Performer__Response *response;
    struct fault fault;

    enum status status = remote_open(invocation, REMOTE_ANSWER_MS, &fork.remote, &fault);
    if (status != ST_OK) return report_fault(invocation, &fault);
    status = remote_describe(&fork.remote, invocation->argument, &response, &fault);
    enum exit_code code;
    if (status == ST_OK) {
        code = make_job(&fork, response->run_detail, &job);
        response_free(response);
        if (code == EXIT_CODE_OK) code = submit(&fork, &job);
    } else {
        code = report_fault(invocation, &fault);
    }
    jobspec_free(&job);
    remote_close(&fork.remote);
    return code;
}
