#include "cli/remote.h"

#include <stdio.h>

enum status remote_open(const struct invocation *invocation, int timeout_ms, struct remote *remote,
                        struct fault *fault)
{
    struct remote opened = {.timeout_ms = timeout_ms};

    if (invocation->options[OPTION_URL].given)
        snprintf(opened.url, sizeof opened.url, "%s", invocation->options[OPTION_URL].text);
    else
        client_default_url(opened.url, sizeof opened.url);
    enum status status = client_open(opened.url, &opened.client, fault);
    /* Others are said of job files and runs; here it is a daemon that cannot be reached. */
    if (status != ST_OK && status != ST_NOT_PERMITTED) status = fault->status = ST_UNREACHABLE;
    if (status == ST_OK) *remote = opened;
    return status;
}

void remote_close(struct remote *remote)
{
    client_close(remote->client);
    remote->client = NULL;
}

enum status remote_call(struct remote *remote, Performer__Request *request,
                        Performer__Response__BodyCase expected, Performer__Response **response,
                        struct fault *fault)
{
    Performer__Response *answer;
    enum status status = client_call(remote->client, request, remote->timeout_ms, &answer, fault);

    if (status != ST_OK) return status;
    if (answer->body_case != expected) {
        response_free(answer);
        return fault_set(fault, ST_CORRUPT, "%s answered something else than it was asked",
                         remote->url);
    }
    *response = answer;
    return ST_OK;
}

enum status remote_call_keyed(struct remote *remote, Performer__Request *request,
                              Performer__Response__BodyCase expected,
                              Performer__Response **response, struct fault *fault)
{
    enum status status = remote_call(remote, request, expected, response, fault);

    return status == ST_TIMED_OUT ? remote_call(remote, request, expected, response, fault)
                                  : status;
}

enum status remote_describe(struct remote *remote, const char *run, Performer__Response **response,
                            struct fault *fault)
{
    Performer__DescribeRun describe = PERFORMER__DESCRIBE_RUN__INIT;
    Performer__Request request = PERFORMER__REQUEST__INIT;

    describe.run = (char *)run;
    request.body_case = PERFORMER__REQUEST__BODY_DESCRIBE_RUN;
    request.describe_run = &describe;
    return remote_call(remote, &request, PERFORMER__RESPONSE__BODY_RUN_DETAIL, response, fault);
}

bool remote_is_away(enum status status)
{
    return status == ST_UNREACHABLE || status == ST_TIMED_OUT;
}

void response_free(Performer__Response *response)
{
    if (response) performer__response__free_unpacked(response, NULL);
}
