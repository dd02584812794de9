#ifndef DAEMON_ENDPOINT_H
#define DAEMON_ENDPOINT_H

/*
 * Where requests come in: an nng REP socket whose frames are decoded on nng's threads. What changes something is handed to
 * the libuv loop, and questions to a thread of the endpoint's own, so that they wait for nothing else. All functions are for
 * the loop's thread alone, and none of them blocks. No peer can make it hold more than CONTEXTS requests of WIRE_BYTES_MAX, and
 * nothing is answered before it is known who asks.
 */

#include <stdint.h>

#include "daemon/connections.h"
#include "daemon/response.h"
#include "proto/performer.pb-c.h"
#include "proto/status.h"

struct uv_loop_s;
struct endpoint;

struct endpoint_service {
    void *context;
    const struct connection_limits *limits;

    /* On any thread: whether it changes nothing. */
    bool (*is_question)(const Performer__Request *request);

    /* Whose request it is; of it only the token and the name of what a report is about may count. Not ST_OK: nobody's that
     * is known here, and that alone is answered. On the thread that answers it. */
    enum status (*identify)(void *context, const struct peer *peer,
                            const Performer__Request *request, struct caller *caller);

    /* On the loop's thread: answers the first, or the first few, of `count` requests that are no questions, and returns how
     * many; the others come again. A response is made with malloc, as protobuf-c does, and goes to the endpoint, which frees
     * it with performer__response__free_unpacked; its version is filled in. NULL: out of memory, and the asker is told so. */
    size_t (*answer)(void *context, struct asked *asked, size_t count);

    /* On the endpoint's own: one question. */
    Performer__Response *(*question)(void *context, const struct caller *caller,
                                     const Performer__Request *request);
};

/* PEM texts: the certificate, followed by those that it stands on, and its key. */
struct endpoint_tls {
    const char *certificate, *key;
};

/* Those of performerd. */
extern const struct connection_limits endpoint_limits;

/* Listens nowhere yet. Raises the process's limit of open files to what the connections may need.
 * The endpoint is the caller's, to be closed. */
enum status endpoint_open(struct uv_loop_s *loop, const struct endpoint_service *service,
                          struct endpoint **endpoint, struct fault *fault);

/*
 * Takes requests at `url` as well: ipc:///PATH, or tls+tcp://HOST:PORT with `tls`. The socket of a daemon that is no more is
 * replaced, so hold the lock of the state directory; the new one is for its owner alone. ST_BUSY: somebody else listens
 * there. ST_NOT_PERMITTED: others may use the socket's directory. ST_INVALID: the certificate or key will not do.
 * ST_UNSUPPORTED: another kind of URL, with the reason.
 */
enum status endpoint_listen(struct endpoint *endpoint, const char *url,
                            const struct endpoint_tls *tls, struct fault *fault);

/* Frames that were no request of ours: undecodable, of another version, too large, of nobody that is known, or no frames at
 * all, these as of a second ago. For any thread. */
uint64_t endpoint_frames_rejected(struct endpoint *endpoint);

/* Ends all connections, drops what was not answered, and frees once the loop has run its close
 * callbacks: run the loop on. NULL is allowed. */
void endpoint_close(struct endpoint *endpoint);

/* The path of the socket that `url` (ipc:///PATH) names; NULL for another kind of URL. */
const char *endpoint_socket_path(const char *url);

#endif
