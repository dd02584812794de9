#include "proto/client.h"

#include <nng/nng.h>
#include <nng/protocol/reqrep0/req.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "proto/wire.h"

enum { RECONNECT_MIN_MS = 10, RECONNECT_MAX_MS = 250 };

struct client {
    char *url;
    nng_socket socket;
    nng_aio *aio;
    atomic_int pipes; /* connections that are up, by nng's callbacks */
};

static enum status status_from_nng(int error)
{
    switch (error) {
    case NNG_ETIMEDOUT:
        return ST_TIMED_OUT;
    case NNG_ENOMEM:
        return ST_NO_MEMORY;
    case NNG_EMSGSIZE:
        return ST_TOO_LARGE;
    case NNG_EPERM:
        return ST_NOT_PERMITTED;
    case NNG_ENOTSUP:
        return ST_UNSUPPORTED;
    case NNG_EINVAL:
    case NNG_EADDRINVAL:
        return ST_INVALID;
    case NNG_ECONNREFUSED:
    case NNG_ECONNRESET:
    case NNG_ECONNABORTED:
    case NNG_ECONNSHUT:
    case NNG_ECLOSED:
    case NNG_ENOENT:
    case NNG_EUNREACHABLE:
        return ST_UNREACHABLE;
    default:
        return ST_SYSTEM;
    }
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static nng_duration left_ms(int64_t deadline_ms)
{
    int64_t left = deadline_ms - now_ms();
    return left > 0 ? (nng_duration)left : 0;
}

static void pipe_changed(nng_pipe pipe, nng_pipe_ev event, void *context)
{
    (void)pipe;
    struct client *client = context;
    atomic_fetch_add(&client->pipes, event == NNG_PIPE_EV_ADD_POST ? 1 : -1);
}

/* The limits hold for every connection that is made afterwards, so they come before the dialer. */
static int socket_configure(struct client *client)
{
    int error = nng_socket_set_size(client->socket, NNG_OPT_RECVMAXSZ, WIRE_BYTES_MAX);
    if (error == 0) error = nng_socket_set_ms(client->socket, NNG_OPT_RECONNMINT, RECONNECT_MIN_MS);
    if (error == 0) error = nng_socket_set_ms(client->socket, NNG_OPT_RECONNMAXT, RECONNECT_MAX_MS);
    /* A request is never sent twice behind our back: a lost connection is an error that the caller
     * sees, who knows whether asking again is harmless. */
    if (error == 0)
        error = nng_socket_set_ms(client->socket, NNG_OPT_REQ_RESENDTIME, NNG_DURATION_INFINITE);
    if (error == 0)
        error = nng_pipe_notify(client->socket, NNG_PIPE_EV_ADD_POST, pipe_changed, client);
    if (error == 0)
        error = nng_pipe_notify(client->socket, NNG_PIPE_EV_REM_POST, pipe_changed, client);
    return error;
}

enum status client_open(const char *url, struct client **client, struct fault *fault)
{
    struct client *opened = calloc(1, sizeof *opened);
    if (!opened) return fault_set(fault, ST_NO_MEMORY, "no memory for a connection to %s", url);
    opened->url = strdup(url);
    int error = opened->url ? nng_aio_alloc(&opened->aio, NULL, NULL) : NNG_ENOMEM;
    if (error != 0) goto free_client;
    error = nng_req0_open(&opened->socket);
    if (error != 0) goto free_aio;
    error = socket_configure(opened);
    if (error == 0) error = nng_dial(opened->socket, url, NULL, NNG_FLAG_NONBLOCK);
    if (error != 0) goto close_socket;
    *client = opened;
    return ST_OK;

close_socket:
    nng_close(opened->socket);
free_aio:
    nng_aio_free(opened->aio);
free_client:
    free(opened->url);
    free(opened);
    return fault_set(fault, status_from_nng(error),
                     "cannot use %.200s as the URL of performerd (%s): write ipc:///PATH or "
                     "tcp://HOST:PORT",
                     url, nng_strerror(error));
}

static int wait_for(nng_aio *aio)
{
    nng_aio_wait(aio);
    return nng_aio_result(aio);
}

/*
 * Whether anybody listens there, within the time that is left. nng's own dialer tries for ever in
 * silence, so nobody could tell a daemon that is away from one that is slow.
 */
static int probe(struct client *client, int64_t deadline_ms)
{
    nng_stream_dialer *dialer;
    int error = nng_stream_dialer_alloc(&dialer, client->url);
    if (error != 0) return error;
    nng_aio_set_timeout(client->aio, left_ms(deadline_ms));
    nng_stream_dialer_dial(dialer, client->aio);
    error = wait_for(client->aio);
    if (error == 0) nng_stream_free(nng_aio_get_output(client->aio, 0));
    nng_stream_dialer_free(dialer);
    return error;
}

static enum status unreachable(const struct client *client, int error, struct fault *fault)
{
    return fault_set(fault, ST_UNREACHABLE,
                     "no performerd at %s (%s); start it with \"performerd\", or name another with "
                     "--url or PERFORMERD_URL",
                     client->url, nng_strerror(error));
}

/* Sends `*message`, which is gone afterwards, and puts the answer there. */
static int exchange(struct client *client, nng_ctx context, int64_t deadline_ms, nng_msg **message)
{
    nng_aio_set_msg(client->aio, *message);
    nng_aio_set_timeout(client->aio, left_ms(deadline_ms));
    nng_ctx_send(context, client->aio);
    int error = wait_for(client->aio);
    if (error != 0) {
        nng_msg_free(*message);
        return error;
    }
    nng_aio_set_timeout(client->aio, left_ms(deadline_ms));
    nng_ctx_recv(context, client->aio);
    error = wait_for(client->aio);
    if (error == 0) *message = nng_aio_get_msg(client->aio);
    return error;
}

/* The request as a message of nng's. */
static enum status request_message(Performer__Request *request, nng_msg **message,
                                   struct fault *fault)
{
    uint8_t *bytes;
    size_t length;
    enum status status = wire_pack_request(request, &bytes, &length);
    if (status != ST_OK) return fault_set(fault, status, "the request is %s", status_text(status));
    int error = nng_msg_alloc(message, 0);
    if (error == 0) {
        error = nng_msg_append(*message, bytes, length);
        if (error != 0) nng_msg_free(*message);
    }
    free(bytes);
    if (error != 0) return fault_set(fault, ST_NO_MEMORY, "no memory for the request");
    return ST_OK;
}

/* What the daemon answered, as a status of ours; a number that is none of ours is not trusted. */
static enum status answer_status(const Performer__Response *response, struct fault *fault)
{
    enum status status = (enum status)response->status;
    if (status == ST_OK) return ST_OK;
    if (strcmp(status_text(status), "unknown status") == 0) status = ST_INTERNAL;
    return fault_set(fault, status, "%s", response->text[0] ? response->text : status_text(status));
}

enum status client_call(struct client *client, Performer__Request *request, int timeout_ms,
                        Performer__Response **response, struct fault *fault)
{
    int64_t deadline_ms = now_ms() + timeout_ms;
    int error = atomic_load(&client->pipes) > 0 ? 0 : probe(client, deadline_ms);
    if (error != 0) return unreachable(client, error, fault);

    nng_msg *message;
    enum status status = request_message(request, &message, fault);
    if (status != ST_OK) return status;
    /* A context for each request: when it is closed, an answer that comes too late is nobody's. */
    nng_ctx context;
    error = nng_ctx_open(&context, client->socket);
    if (error != 0) {
        nng_msg_free(message);
        return fault_set(fault, status_from_nng(error), "could not ask performerd: %s",
                         nng_strerror(error));
    }
    error = exchange(client, context, deadline_ms, &message);
    nng_ctx_close(context);
    if (error == NNG_ETIMEDOUT)
        return fault_set(fault, ST_TIMED_OUT, "performerd at %s did not answer within %d ms",
                         client->url, timeout_ms);
    if (error != 0)
        return fault_set(fault, status_from_nng(error),
                         "lost performerd at %s before it answered (%s): it may or may not have "
                         "done what was asked",
                         client->url, nng_strerror(error));

    Performer__Response *answer;
    status = wire_unpack_response(nng_msg_body(message), nng_msg_len(message), &answer, fault);
    nng_msg_free(message);
    if (status != ST_OK) return status;
    status = answer_status(answer, fault);
    if (status != ST_OK) {
        performer__response__free_unpacked(answer, NULL);
        return status;
    }
    *response = answer;
    return ST_OK;
}

void client_close(struct client *client)
{
    if (!client) return;
    nng_close(client->socket);
    nng_aio_free(client->aio);
    free(client->url);
    free(client);
}

static const char *environment(const char *name)
{
    const char *value = getenv(name);
    return value && value[0] != '\0' ? value : NULL;
}

void client_default_url(char *url, size_t size)
{
    const char *given = environment("PERFORMERD_URL");
    const char *runtime = environment("XDG_RUNTIME_DIR");
    if (given) {
        snprintf(url, size, "%s", given);
    } else if (runtime) {
        snprintf(url, size, "ipc://%s/performerd.sock", runtime);
    } else {
        char state[4096];
        default_state_directory(state, sizeof state);
        snprintf(url, size, "ipc://%s/performerd.sock", state);
    }
}

void default_state_directory(char *path, size_t size)
{
    const char *state = environment("XDG_STATE_HOME");
    const char *home = environment("HOME");
    if (state)
        snprintf(path, size, "%s/performerd", state);
    else
        snprintf(path, size, "%s/.local/state/performerd", home ? home : "");
}
