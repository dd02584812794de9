#ifndef PROTO_CLIENT_H
#define PROTO_CLIENT_H

/*
 * The one nng client, of performerctl and of a worker's uplink. It sends a request and blocks for its
 * answer, with a limit on time and size. Not for two threads at once.
 */

#include "proto/performer.pb-c.h"
#include "proto/status.h"

struct client;

/* Makes a socket to ipc:///PATH or tls+tcp://HOST:PORT; the daemon need not be there yet. What it shows of itself comes from the environment
 * (proto/credentials.h). The client is the caller's, to be closed. ST_INVALID: another kind of URL, or no certificate to trust; or what credentials_load answers. */
enum status client_open(const char *url, struct client **client, struct fault *fault);

/*
 * Sends and waits for the answer. ST_UNREACHABLE: nobody took the connection within 500 ms, or 5 s on a network (a daemon
 * that is away, or stopped), with the URL and the cure in words; ST_TIMED_OUT: it is there and silent; otherwise the status that the daemon answered, its words in
 * `fault`. On ST_OK the response is the caller's, freed with performer__response__free_unpacked.
 */
enum status client_call(struct client *client, Performer__Request *request, int timeout_ms,
                        Performer__Response **response, struct fault *fault);

void client_close(struct client *client);

/* The URL used where none is given: $PERFORMERD_URL, else ipc://$XDG_RUNTIME_DIR/performerd.sock, else the
 * socket in the default state directory. Written into `url`. */
void client_default_url(char *url, size_t size);

/* $XDG_STATE_HOME/performerd, else ~/.local/state/performerd. Written into `path`. */
void default_state_directory(char *path, size_t size);

#endif
