#include "daemon/endpoint.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/transport/ipc/ipc.h>
#include <uv.h>

#include "proto/wire.h"

/*
 * A context holds one request from its arrival to the end of its answer:
 *
 *   RECEIVING --frame--> queued --loop--> handler --> SENDING --sent--> RECEIVING
 *   `---- on nng's threads ----'`-- on the loop's ---'`--- nng's ------'
 *
 * Connections that have not said a word are counted in `silent`: where one ends without a request, it was
 * no client of ours (nng ends those that claim too large a frame). There is a bound on them.
 *
 * What rude peers can do: one that leaves before nng has greeted it makes nng pause for up to 100 ms before it
 * accepts the next, so others wait for that long. Who may connect at all is the socket's owner (mode 0600).
 */

enum {
    CONTEXTS = 32,
    SILENT_MAX = 256,
};

struct exchange {
    struct endpoint *endpoint;
    nng_ctx context;
    nng_aio *aio;
    bool sending;
    nng_msg *request;
    struct exchange *next; /* in the queue */
};

struct endpoint {
    nng_socket socket;
    endpoint_handler *handler;
    void *handler_context;
    uv_async_t wake;
    struct exchange exchanges[CONTEXTS];
    int exchange_count;

    pthread_mutex_t mutex; /* guards what follows; held for moments only */
    struct exchange *first, *last;
    nng_pipe silent[SILENT_MAX]; /* (silent_count), oldest first */
    int silent_count;

    atomic_uint_fast64_t rejected;
    atomic_bool closing;
};

static enum status status_from_nng(int error)
{
    switch (error) {
    case NNG_ENOMEM:
        return ST_NO_MEMORY;
    case NNG_EADDRINUSE:
        return ST_BUSY;
    case NNG_EPERM:
        return ST_NOT_PERMITTED;
    case NNG_EADDRINVAL:
    case NNG_EINVAL:
        return ST_INVALID;
    case NNG_ENOTSUP:
        return ST_UNSUPPORTED;
    default:
        return ST_SYSTEM;
    }
}

/*
 * Takes the place of libc's for nng, in performerd and wherever this file is linked: a definition in the program
 * comes before those of shared libraries, libc's and the sanitizers' among them, and before an archive's.
 * nng 1.5 greets whoever connects; where that one has gone already the kernel says EPIPE, nng makes NNG_ECLOSED
 * of it, and its listener takes that for its own end: it accepts nobody ever
 * again. A connection that was reset, which is what has happened, it passes over.
 */
__attribute__((visibility("default"))) ssize_t sendmsg(int socket, const struct msghdr *message,
                                                       int flags)
{
    ssize_t sent = syscall(SYS_sendmsg, socket, message, flags);
    if (sent < 0 && errno == EPIPE) errno = ECONNRESET;
    return sent;
}

/* ---- connections that have not said a word ---- */

/* Under the mutex; the others stay in order of age. */
static void silent_forget(struct endpoint *endpoint, int place)
{
    endpoint->silent_count--;
    memmove(&endpoint->silent[place], &endpoint->silent[place + 1],
            (size_t)(endpoint->silent_count - place) * sizeof endpoint->silent[0]);
}

/* Who has been silent for longest makes room: a crowd that says nothing keeps nobody out. */
static void silent_add(struct endpoint *endpoint, nng_pipe pipe)
{
    nng_pipe oldest = NNG_PIPE_INITIALIZER;
    pthread_mutex_lock(&endpoint->mutex);
    if (endpoint->silent_count == SILENT_MAX) {
        oldest = endpoint->silent[0];
        silent_forget(endpoint, 0);
    }
    endpoint->silent[endpoint->silent_count++] = pipe;
    pthread_mutex_unlock(&endpoint->mutex);
    if (nng_pipe_id(oldest) <= 0) return;
    atomic_fetch_add(&endpoint->rejected, 1);
    nng_pipe_close(oldest);
}

/* Forgets `pipe`; whether it was there. */
static bool silent_remove(struct endpoint *endpoint, nng_pipe pipe)
{
    bool found = false;
    pthread_mutex_lock(&endpoint->mutex);
    for (int i = 0; i < endpoint->silent_count && !found; i++) {
        if (nng_pipe_id(endpoint->silent[i]) != nng_pipe_id(pipe)) continue;
        silent_forget(endpoint, i);
        found = true;
    }
    pthread_mutex_unlock(&endpoint->mutex);
    return found;
}

static void pipe_changed(nng_pipe pipe, nng_pipe_ev event, void *argument)
{
    struct endpoint *endpoint = argument;
    if (event == NNG_PIPE_EV_ADD_PRE) {
        silent_add(endpoint, pipe);
    } else if (silent_remove(endpoint, pipe)) {
        atomic_fetch_add(&endpoint->rejected, 1);
    }
}

/* ---- nng's threads ---- */

static void exchange_receive(struct exchange *exchange)
{
    exchange->sending = false;
    nng_ctx_recv(exchange->context, exchange->aio);
}

static void exchange_queue(struct exchange *exchange, nng_msg *request)
{
    struct endpoint *endpoint = exchange->endpoint;
    exchange->request = request;
    exchange->next = NULL;
    pthread_mutex_lock(&endpoint->mutex);
    if (endpoint->last)
        endpoint->last->next = exchange;
    else
        endpoint->first = exchange;
    endpoint->last = exchange;
    pthread_mutex_unlock(&endpoint->mutex);
    uv_async_send(&endpoint->wake);
}

static void exchange_moved(void *argument)
{
    struct exchange *exchange = argument;
    int error = nng_aio_result(exchange->aio);
    if (error != 0 && exchange->sending) nng_msg_free(nng_aio_get_msg(exchange->aio));
    if (atomic_load(&exchange->endpoint->closing)) return;

    if (error != 0 || exchange->sending) {
        exchange_receive(exchange); /* also where the asker has gone */
    } else {
        nng_msg *request = nng_aio_get_msg(exchange->aio);
        silent_remove(exchange->endpoint, nng_msg_get_pipe(request));
        exchange_queue(exchange, request);
    }
}

/* ---- the loop's thread ---- */

static struct exchange *queue_take(struct endpoint *endpoint)
{
    pthread_mutex_lock(&endpoint->mutex);
    struct exchange *exchange = endpoint->first;
    if (exchange) endpoint->first = exchange->next;
    if (!endpoint->first) endpoint->last = NULL;
    pthread_mutex_unlock(&endpoint->mutex);
    return exchange;
}

static Performer__Response *refusal(enum status status, const char *text)
{
    Performer__Response *response = malloc(sizeof *response);
    if (!response) return NULL;
    performer__response__init(response);
    response->status = (int32_t)status;
    response->text = strdup(text);
    return response;
}

/* The frame's answer, whatever the frame was; NULL out of memory. */
static Performer__Response *answer_frame(struct endpoint *endpoint, nng_msg *frame)
{
    Performer__Request *request;
    struct fault fault;
    enum status status =
        wire_unpack_request(nng_msg_body(frame), nng_msg_len(frame), &request, &fault);
    if (status != ST_OK) {
        atomic_fetch_add(&endpoint->rejected, 1);
        return refusal(status, fault.text);
    }
    Performer__Response *response = endpoint->handler(endpoint->handler_context, request);
    performer__request__free_unpacked(request, NULL);
    return response;
}

/* Puts the response, or what can be said where it does not fit, into the message. */
static enum status response_write(Performer__Response *response, nng_msg *message)
{
    Performer__Response short_response = PERFORMER__RESPONSE__INIT;
    uint8_t *bytes;
    size_t length;
    enum status status = response ? wire_pack_response(response, &bytes, &length) : ST_NO_MEMORY;
    if (status != ST_OK) {
        short_response.status = (int32_t)status;
        short_response.text = (char *)status_text(status);
        status = wire_pack_response(&short_response, &bytes, &length);
        if (status != ST_OK) return status;
    }
    if (nng_msg_append(message, bytes, length) != 0) status = ST_NO_MEMORY;
    free(bytes);
    return status;
}

static void exchange_answer(struct exchange *exchange)
{
    Performer__Response *response = answer_frame(exchange->endpoint, exchange->request);
    nng_msg_clear(exchange->request);
    enum status status = response_write(response, exchange->request);
    if (response) performer__response__free_unpacked(response, NULL);
    if (status != ST_OK) { /* no memory to say so: the asker asks again */
        nng_msg_free(exchange->request);
        exchange->request = NULL;
        exchange_receive(exchange);
        return;
    }
    nng_aio_set_msg(exchange->aio, exchange->request);
    exchange->request = NULL;
    exchange->sending = true;
    nng_ctx_send(exchange->context, exchange->aio);
}

static void wake(uv_async_t *async)
{
    struct endpoint *endpoint = async->data;
    for (struct exchange *exchange; (exchange = queue_take(endpoint));) exchange_answer(exchange);
}

/* ---- open, listen, close ---- */

static int exchange_open(struct endpoint *endpoint, struct exchange *exchange)
{
    exchange->endpoint = endpoint;
    int error = nng_ctx_open(&exchange->context, endpoint->socket);
    if (error != 0) return error;
    error = nng_aio_alloc(&exchange->aio, exchange_moved, exchange);
    if (error != 0) nng_ctx_close(exchange->context);
    return error;
}

static void exchange_close(struct exchange *exchange)
{
    nng_ctx_close(exchange->context);
    nng_aio_stop(exchange->aio); /* waits for the callback: after it nobody touches the exchange */
    nng_aio_free(exchange->aio);
    if (exchange->request) nng_msg_free(exchange->request);
}

static int exchanges_open(struct endpoint *endpoint)
{
    while (endpoint->exchange_count < CONTEXTS) {
        int error = exchange_open(endpoint, &endpoint->exchanges[endpoint->exchange_count]);
        if (error != 0) return error;
        endpoint->exchange_count++;
    }
    return 0;
}

/* What the loop must not run: threads are stopped, the rest waits for the handle's close callback. */
static void endpoint_halt(struct endpoint *endpoint)
{
    atomic_store(&endpoint->closing, true);
    for (int i = 0; i < endpoint->exchange_count; i++) exchange_close(&endpoint->exchanges[i]);
    nng_close(endpoint->socket);
}

static int watch_pipes(struct endpoint *endpoint)
{
    static const nng_pipe_ev events[] = {NNG_PIPE_EV_ADD_PRE, NNG_PIPE_EV_REM_POST};
    int error = 0;
    for (size_t i = 0; i < sizeof events / sizeof events[0] && error == 0; i++)
        error = nng_pipe_notify(endpoint->socket, events[i], pipe_changed, endpoint);
    return error;
}

enum status endpoint_open(struct uv_loop_s *loop, endpoint_handler *handler, void *context,
                          struct endpoint **endpoint, struct fault *fault)
{
    struct endpoint *opened = calloc(1, sizeof *opened);
    if (!opened) return fault_set(fault, ST_NO_MEMORY, "no memory for the endpoint");
    opened->handler = handler;
    opened->handler_context = context;
    opened->wake.data = opened;
    pthread_mutex_init(&opened->mutex, NULL);

    int error = nng_rep0_open(&opened->socket);
    if (error != 0) goto free_endpoint;
    error = watch_pipes(opened);
    if (error == 0) error = exchanges_open(opened);
    if (error != 0) goto halt;
    if (uv_async_init(loop, &opened->wake, wake) != 0) {
        error = NNG_ENOMEM;
        goto halt;
    }
    for (int i = 0; i < CONTEXTS; i++) exchange_receive(&opened->exchanges[i]);
    *endpoint = opened;
    return ST_OK;

halt:
    endpoint_halt(opened);
free_endpoint:
    pthread_mutex_destroy(&opened->mutex);
    free(opened);
    return fault_set(fault, status_from_nng(error), "could not open the endpoint: %s",
                     nng_strerror(error));
}

static bool starts_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

const char *endpoint_socket_path(const char *url)
{
    return starts_with(url, "ipc://") ? url + strlen("ipc://") : NULL;
}

static enum status check_url(const char *url, struct fault *fault)
{
    const char *path = endpoint_socket_path(url);
    if (path && path[0] != '/')
        return fault_set(fault, ST_INVALID, "%s: write the socket's whole path, ipc:///PATH", url);
    if (path || starts_with(url, "inproc://")) return ST_OK;
    if (starts_with(url, "tcp://") || starts_with(url, "tls+tcp://"))
        return fault_set(fault, ST_UNSUPPORTED,
                         "%s: not built yet: a listener on the network needs TLS and a token; "
                         "use ipc:///PATH",
                         url);
    return fault_set(fault, ST_UNSUPPORTED, "%s: not a URL to listen on; use ipc:///PATH", url);
}

enum status endpoint_listen(struct endpoint *endpoint, const char *url, struct fault *fault)
{
    enum status status = check_url(url, fault);
    if (status != ST_OK) return status;

    nng_listener listener;
    int error = nng_listener_create(&listener, endpoint->socket, url);
    if (error != 0) goto fail;
    /* Before the start: nng takes frames of any size otherwise, and reserves what a peer claims. */
    error = nng_listener_set_size(listener, NNG_OPT_RECVMAXSZ, WIRE_BYTES_MAX);
    if (error == NNG_ENOTSUP && !endpoint_socket_path(url)) error = 0; /* inproc passes pointers */
    if (error == 0 && endpoint_socket_path(url))
        error = nng_listener_set_int(listener, NNG_OPT_IPC_PERMISSIONS, 0600);
    if (error == 0) error = nng_listener_start(listener, 0);
    if (error == 0) return ST_OK;
    nng_listener_close(listener);
fail:
    return fault_set(fault, status_from_nng(error), "could not listen on %s: %s", url,
                     error == NNG_EADDRINUSE ? "another process listens there"
                                             : nng_strerror(error));
}

/* Peers that did not speak nng's protocol never became a connection; nng counts them itself. */
static uint64_t handshakes_failed(void)
{
    nng_stat *all;
    if (nng_stats_get(&all) != 0) return 0;
    uint64_t failed = 0;
    for (nng_stat *scope = nng_stat_child(all); scope; scope = nng_stat_next(scope)) {
        for (nng_stat *item = nng_stat_child(scope); item; item = nng_stat_next(item))
            if (strcmp(nng_stat_name(item), "proto") == 0) failed += nng_stat_value(item);
    }
    nng_stats_free(all);
    return failed;
}

uint64_t endpoint_frames_rejected(const struct endpoint *endpoint)
{
    return atomic_load(&endpoint->rejected) + handshakes_failed();
}

static void endpoint_free(uv_handle_t *handle)
{
    struct endpoint *endpoint = handle->data;
    pthread_mutex_destroy(&endpoint->mutex);
    free(endpoint);
}

void endpoint_close(struct endpoint *endpoint)
{
    if (!endpoint) return;
    endpoint_halt(endpoint);
    uv_close((uv_handle_t *)&endpoint->wake, endpoint_free);
}
