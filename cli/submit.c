#include <stdio.h>
#include <stdlib.h>

#include "cli/job_file.h"
#include "cli/remote.h"
#include "cli/report.h"
#include "cli/request_key.h"
#include "cli/verbs.h"
#include "cli/waiting.h"

static enum status submit_job(struct remote *remote, const struct job_file *job, char run[64],
                              struct fault *fault)
{
    Performer__Submit submit = PERFORMER__SUBMIT__INIT;
    Performer__Request request = PERFORMER__REQUEST__INIT;
    Performer__Response *response;
    struct request_key key;
    char *resolved;

    enum status status = request_key_make(&key, fault);
    if (status != ST_OK) return status;
    status = jobspec_print(&job->spec, &resolved);
    if (status != ST_OK) return fault_set(fault, status, "could not print the resolved job file");
    submit.text = job->text;
    submit.resolved = resolved;
    submit.key = key.text;
    request.body_case = PERFORMER__REQUEST__BODY_SUBMIT;
    request.submit = &submit;
    status =
        remote_call_keyed(remote, &request, PERFORMER__RESPONSE__BODY_SUBMITTED, &response, fault);
    if (status != ST_OK) goto free_resolved;
    snprintf(run, 64, "%s", response->submitted->run);
    response_free(response);
free_resolved:
    free(resolved);
    return status;
}

static void tell_submitted(const struct invocation *invocation, const struct job_file *job,
                           const char *run)
{
    if (invocation_json(invocation)) {
        report_json(json_pack("{s:s,s:s}", "id", run, "name", job->spec.job.name));
        fflush(stdout);
        return;
    }
    if (invocation->options[OPTION_PARSABLE].given) {
        printf("%s\n", run);
        fflush(stdout);
        return;
    }
    printf("%s  %s\n", run, job->spec.job.name);
    fflush(stdout);
    if (invocation->options[OPTION_WAIT].given) return;
    report_words(invocation,
                 "next:\n"
                 "  performerctl status %s --watch   watch it\n"
                 "  performerctl logs %s -f          read along\n"
                 "  performerctl wait %s             wait for the end\n"
                 "  performerctl cancel %s           save, then stop",
                 run, run, run, run);
}

static enum exit_code submit_and_wait(const struct invocation *invocation,
                                      const struct job_file *job)
{
    struct waiting waiting;
    struct fault fault;
    char run[64];
    enum exit_code code;

    enum status status = waiting_open(invocation, &waiting, &fault);
    if (status != ST_OK) return report_fault(invocation, &fault);
    waiting.remote.timeout_ms = REMOTE_ANSWER_MS;
    status = submit_job(&waiting.remote, job, run, &fault);
    if (status != ST_OK) {
        code = report_fault(invocation, &fault);
    } else {
        tell_submitted(invocation, job, run);
        waiting.remote.timeout_ms = REMOTE_POLL_MS;
        code = wait_for_end(invocation, &waiting, run);
    }
    waiting_close(&waiting);
    return code;
}

static enum exit_code submit_only(const struct invocation *invocation, const struct job_file *job)
{
    struct remote remote;
    struct fault fault;
    char run[64];

    enum status status = remote_open(invocation, REMOTE_ANSWER_MS, &remote, &fault);
    if (status != ST_OK) return report_fault(invocation, &fault);
    status = submit_job(&remote, job, run, &fault);
    remote_close(&remote);
    if (status != ST_OK) return report_fault(invocation, &fault);
    tell_submitted(invocation, job, run);
    return EXIT_CODE_OK;
}

enum exit_code verb_submit(const struct invocation *invocation)
{
    struct job_file job;
    enum exit_code code = job_file_read(invocation, &job);

    if (code != EXIT_CODE_OK)
        ; /* said already */
    else if (invocation->options[OPTION_DRY_RUN].given)
        job_file_print_cost(invocation, &job);
    else if (invocation->options[OPTION_WAIT].given)
        code = submit_and_wait(invocation, &job);
    else
        code = submit_only(invocation, &job);
    job_file_fini(&job);
    return code;
}
