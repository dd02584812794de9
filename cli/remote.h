#ifndef CLI_REMOTE_H
#define CLI_REMOTE_H

/* The daemon as a verb sees it: one question, one answer, with a limit on the time. */

#include "cli/invocation.h"
#include "proto/client.h"
#include "proto/performer.pb-c.h"

enum {
    REMOTE_ANSWER_MS = 10000, /* of a verb that asks once */
    REMOTE_POLL_MS = 2000,    /* of one that asks again and again: ^C waits no longer than this */
};

struct remote {
    struct client *client;
    char url[512];
    int timeout_ms;
};

/* Does not ask anything yet: a daemon that is away shows at the first call. */
enum status remote_open(const struct invocation *invocation, int timeout_ms, struct remote *remote,
                        struct fault *fault);
void remote_close(struct remote *remote);

/* On ST_OK the answer has the body `expected`, and is the caller's. Any other body is ST_CORRUPT. */
enum status remote_call(struct remote *remote, Performer__Request *request,
                        Performer__Response__BodyCase expected, Performer__Response **response,
                        struct fault *fault);

/* The same for a request that has a key. A time-out says nothing of whether the daemon took it, so it goes once more. */
enum status remote_call_keyed(struct remote *remote, Performer__Request *request,
                              Performer__Response__BodyCase expected,
                              Performer__Response **response, struct fault *fault);

/* response->run_detail of the run. */
enum status remote_describe(struct remote *remote, const char *run, Performer__Response **response,
                            struct fault *fault);

/* The daemon may come back: it does not answer, or is not there. */
bool remote_is_away(enum status status);

void response_free(Performer__Response *response);

#endif
