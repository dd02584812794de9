#include <stdio.h>

#include "cli/remote.h"
#include "cli/report.h"
#include "cli/request_key.h"
#include "cli/verbs.h"

struct wish {
    Performer__Action action;
    bool keyed;             /* a second one with its key changes nothing, so it may go once more */
    const char *with_order; /* what to say where the workers have something to do */
    const char *without_order; /* and where they have not */
};

static void tell(const struct invocation *invocation, const Performer__Acted *acted,
                 const struct wish *wish)
{
    if (invocation_json(invocation)) {
        report_json(json_pack("{s:s,s:s,s:o}", "id", acted->run, "action", invocation->verb->name,
                              "order",
                              acted->order ? json_integer((json_int_t)acted->order) : json_null()));
        return;
    }
    printf("%s  ", acted->run);
    if (acted->order) printf("order %llu: ", (unsigned long long)acted->order);
    printf("%s\n", acted->order ? wish->with_order : wish->without_order);
}

static enum exit_code act(const struct invocation *invocation, const struct wish *wish)
{
    Performer__Act act = PERFORMER__ACT__INIT;
    Performer__Request request = PERFORMER__REQUEST__INIT;
    Performer__Response *response;
    struct request_key key;
    struct remote remote;
    struct fault fault;

    enum status status = request_key_make(&key, &fault);
    if (status == ST_OK) status = remote_open(invocation, REMOTE_ANSWER_MS, &remote, &fault);
    if (status != ST_OK) return report_fault(invocation, &fault);
    act.run = (char *)invocation->argument;
    act.action = wish->action;
    if (wish->keyed) act.key = key.text;
    request.body_case = PERFORMER__REQUEST__BODY_ACT;
    request.act = &act;
    status = (wish->keyed ? remote_call_keyed : remote_call)(
        &remote, &request, PERFORMER__RESPONSE__BODY_ACTED, &response, &fault);
    remote_close(&remote);
    if (status != ST_OK) return report_fault(invocation, &fault);
    tell(invocation, response->acted, wish);
    response_free(response);
    return EXIT_CODE_OK;
}

enum exit_code verb_cancel(const struct invocation *invocation)
{
    static const struct wish wish = {
        PERFORMER__ACTION__ACTION_CANCEL,
        false,
        "the ranks save a checkpoint at their next step edge, then end",
        "cancelled",
    };
    return act(invocation, &wish);
}

enum exit_code verb_kill(const struct invocation *invocation)
{
    static const struct wish wish = {
        PERFORMER__ACTION__ACTION_KILL,
        false,
        "the ranks are being killed",
        "the ranks are being killed; nothing is saved",
    };
    return act(invocation, &wish);
}

enum exit_code verb_pause(const struct invocation *invocation)
{
    static const struct wish wish = {
        PERFORMER__ACTION__ACTION_PAUSE,
        false,
        "the ranks save a checkpoint at their next step edge, then are free",
        "paused",
    };
    return act(invocation, &wish);
}

enum exit_code verb_resume(const struct invocation *invocation)
{
    static const struct wish wish = {
        PERFORMER__ACTION__ACTION_RESUME,
        false,
        "it queues again once its ranks have saved a checkpoint",
        "it waits for its turn, or runs",
    };
    return act(invocation, &wish);
}

enum exit_code verb_requeue(const struct invocation *invocation)
{
    static const struct wish wish = {
        PERFORMER__ACTION__ACTION_REQUEUE,
        true,
        "the ranks save a checkpoint at their next step edge, then it queues again",
        "it waits for its turn, with a whole budget of restarts",
    };
    return act(invocation, &wish);
}

enum exit_code verb_checkpoint(const struct invocation *invocation)
{
    static const struct wish wish = {
        PERFORMER__ACTION__ACTION_CHECKPOINT,
        false,
        "a checkpoint at the next step edge that all ranks agree on",
        "nothing to do",
    };
    return act(invocation, &wish);
}

enum exit_code verb_redraw(const struct invocation *invocation)
{
    static const struct wish wish = {
        PERFORMER__ACTION__ACTION_REDRAW,
        false,
        "new features from the next step edge that all ranks agree on",
        "nothing to do",
    };
    return act(invocation, &wish);
}

enum exit_code verb_evaluate(const struct invocation *invocation)
{
    static const struct wish wish = {
        PERFORMER__ACTION__ACTION_EVALUATE,
        false,
        "an evaluation at the next step edge that all ranks agree on",
        "nothing to do",
    };
    return act(invocation, &wish);
}
