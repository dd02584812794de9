#ifndef DAEMON_ENDPOINT_H
#define DAEMON_ENDPOINT_H

/*
 * Where requests come in: an nng REP socket whose frames are handed to the libuv loop. All
 * functions are for the loop's thread alone, none of them blocks, and the handler runs on that
 * thread too: nng's own threads only queue frames. No peer can make it hold more than CONTEXTS
 * requests of WIRE_BYTES_MAX.
 */

#include <stdint.h>

#include "proto/performer.pb-c.h"
#include "proto/status.h"

struct uv_loop_s;
struct endpoint;

/*
 * Answers one request. The response is made with malloc, as protobuf-c does, and goes to the
 * endpoint, which frees it with performer__response__free_unpacked; its version is filled in. NULL:
 * out of memory, and the asker is told so.
 */
typedef Performer__Response *endpoint_handler(void *context, const Performer__Request *request);

/* Listens nowhere yet. The endpoint is the caller's, to be closed. */
enum status endpoint_open(struct uv_loop_s *loop, endpoint_handler *handler, void *context,
                          struct endpoint **endpoint, struct fault *fault);

/*
 * Takes requests at `url` as well: ipc:///PATH or inproc://NAME. The socket of a daemon that is no
 * more is replaced, so hold the lock of the state directory; the new one is for its owner alone.
 * ST_BUSY: somebody else listens there. ST_UNSUPPORTED: another kind of URL, with the reason.
 */
enum status endpoint_listen(struct endpoint *endpoint, const char *url, struct fault *fault);

/* Frames that were no request of ours: undecodable, of another version, too large, or no frames at
 * all. */
uint64_t endpoint_frames_rejected(const struct endpoint *endpoint);

/* Ends all connections, drops what was not answered, and frees once the loop has run its close
 * callbacks: run the loop on. NULL is allowed. */
void endpoint_close(struct endpoint *endpoint);

/* The path of the socket that `url` (ipc:///PATH) names; NULL for another kind of URL. */
const char *endpoint_socket_path(const char *url);

#endif
