#include "daemon/endpoint.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/supplemental/tls/tls.h>
#include <nng/transport/ipc/ipc.h>
#include <nng/transport/tls/tls.h>
#include <uv.h>

#include "daemon/clock.h"
#include "daemon/handshakes.h"
#include "proto/logline.h"
#include "proto/wire.h"

/*
 * A context holds one request from its arrival to the end of its answer:
 *
 *   RECEIVING --frame, decoded--> queued --loop--> handler --> SENDING --sent--> RECEIVING
 *   `-------- on nng's threads --------'`-- on the loop's ---'`--- nng's ------'
 *
 * Questions have a queue and a thread of their own, and so wait for no commit. What changes something is taken from its queue
 * all at once: that may share one.
 *
 * No connection proves more than a uid, so each request is identified before anything of it is looked at, and who is not
 * known hears one sentence, whatever was asked. Requests beyond CONTEXTS wait in their connections, one of each in turn.
 *
 * What rude peers can do: one that leaves before nng has greeted it makes nng pause for up to 100 ms before it
 * accepts the next, so others wait for that long.
 */

enum {
    CONTEXTS = 64,
    SEND_MS = 5000,         /* who does not take an answer for so long has no use for it */
    OVERDUE_MS = 500,       /* how often it is looked whose time is up */
    SAY_MS = 1000,          /* refusals that are logged are this far apart */
    COUNT_MS = 1000,        /* counts of failed handshakes are */
    OWN_DESCRIPTORS = 1024, /* database, files of attempts, handshakes */
};

const struct connection_limits endpoint_limits = {.total = 16384,
                                                  .of_peer = 8192,
                                                  .strangers = 256,
                                                  .stranger_ms = 5000,
                                                  .requests = 4,
                                                  .tries = 4};

struct exchange {
    struct endpoint *endpoint;
    nng_ctx context;
    nng_aio *aio;
    bool sending, begun; /* the request counts among those of its connection */
    nng_msg *request;
    Performer__Request *content; /* of the request; NULL: it cannot be read, `unread` says why */
    struct fault unread;
    uint32_t connection;   /* that the request came over */
    struct exchange *next; /* in its queue */
};

struct queue {
    struct exchange *first, *last;
};

struct endpoint {
    nng_socket socket;
    struct endpoint_service service;
    uv_async_t wake;
    uv_timer_t timer;
    int handles; /* of these two, that are not closed */
    struct exchange exchanges[CONTEXTS];
    int exchange_count;
    pthread_t answerer; /* of questions */
    bool answers;       /* it runs */

    pthread_mutex_t mutex; /* guards what follows; held for moments only */
    struct queue changes, questions;
    pthread_cond_t asked; /* a question is there, or none will come */
    struct connections *connections;
    uint64_t said_ms;
    uint64_t counted_ms; /* when nng was asked for failed handshakes; 0: never */

    atomic_uint_fast64_t rejected, handshakes_failed;
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

/* As many descriptors as connections may need, as far as the system allows it. */
static void raise_descriptor_limit(size_t connections)
{
    struct rlimit limit;
    rlim_t wanted = connections + OWN_DESCRIPTORS;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted) return;
    limit.rlim_cur = wanted < limit.rlim_max ? wanted : limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

/* ---- connections ---- */

static uint32_t id_of(nng_pipe pipe)
{
    return (uint32_t)nng_pipe_id(pipe);
}

static void close_id(uint32_t id)
{
    nng_pipe_close((nng_pipe){.id = id});
}

/* Of a pipe from the network. False: it is from this machine. */
static bool address_of(nng_pipe pipe, struct tcp_peer *peer)
{
    nng_sockaddr address;
    *peer = (struct tcp_peer){.port = 0};
    if (nng_pipe_get_addr(pipe, NNG_OPT_REMADDR, &address) != 0) return false;
    if (address.s_family == NNG_AF_INET) {
        peer->family = AF_INET;
        memcpy(peer->address, &address.s_in.sa_addr, sizeof address.s_in.sa_addr);
        peer->port = address.s_in.sa_port;
    } else if (address.s_family == NNG_AF_INET6) {
        peer->family = AF_INET6;
        memcpy(peer->address, address.s_in6.sa_addr, sizeof address.s_in6.sa_addr);
        peer->port = address.s_in6.sa_port;
    }
    return peer->port != 0;
}

static struct peer peer_of(nng_pipe pipe)
{
    struct peer peer = {.name = "unknown"};
    struct tcp_peer address;
    uint64_t uid;
    if (nng_pipe_get_uint64(pipe, NNG_OPT_IPC_PEER_UID, &uid) == 0) {
        peer.local = true;
        peer.uid = (uid_t)uid;
        snprintf(peer.name, sizeof peer.name, "uid %u", (unsigned)uid);
    } else if (address_of(pipe, &address)) {
        handshakes_done(&address);
        inet_ntop(address.family, address.address, peer.name, sizeof peer.name);
    }
    return peer;
}

/* Refusals are logged, but a crowd of them does not fill the log. */
static void say_refused(struct endpoint *endpoint, const char *peer, const char *why)
{
    uint64_t now = clock_now_ms();
    pthread_mutex_lock(&endpoint->mutex);
    bool due = now - endpoint->said_ms >= SAY_MS;
    if (due) endpoint->said_ms = now;
    pthread_mutex_unlock(&endpoint->mutex);
    atomic_fetch_add(&endpoint->rejected, 1);
    if (due) log_warn("peer-refused", "%s: %s", peer, why);
}

static void connection_opens(struct endpoint *endpoint, nng_pipe pipe)
{
    struct peer peer = peer_of(pipe);
    uint32_t left;
    pthread_mutex_lock(&endpoint->mutex);
    enum status status =
        connections_add(endpoint->connections, id_of(pipe), &peer, clock_now_ms(), &left);
    pthread_mutex_unlock(&endpoint->mutex);
    if (status != ST_OK) {
        nng_pipe_close(pipe);
        say_refused(endpoint, peer.name, "it has too many connections, or all have");
    } else if (left != 0) {
        close_id(left);
        say_refused(endpoint, peer.name, "too many connections that say nothing: one is closed");
    }
}

static void connection_ends(struct endpoint *endpoint, nng_pipe pipe)
{
    pthread_mutex_lock(&endpoint->mutex);
    bool stranger = connections_remove(endpoint->connections, id_of(pipe));
    pthread_mutex_unlock(&endpoint->mutex);
    if (stranger) atomic_fetch_add(&endpoint->rejected, 1);
}

static void pipe_changed(nng_pipe pipe, nng_pipe_ev event, void *argument)
{
    if (event == NNG_PIPE_EV_ADD_PRE)
        connection_opens(argument, pipe);
    else
        connection_ends(argument, pipe);
}

/* The loop's thread. */
static void close_overdue(uv_timer_t *timer)
{
    struct endpoint *endpoint = timer->data;
    atomic_fetch_add(&endpoint->rejected, (unsigned)handshakes_expire(clock_now_ms()));
    for (;;) {
        pthread_mutex_lock(&endpoint->mutex);
        uint32_t id = connections_overdue(endpoint->connections, clock_now_ms());
        pthread_mutex_unlock(&endpoint->mutex);
        if (id == 0) return;
        close_id(id);
        atomic_fetch_add(&endpoint->rejected, 1);
    }
}

/* ---- an exchange, on nng's threads or the loop's ---- */

static Performer__Response *refusal(enum status status, const char *text)
{
    Performer__Response *response = malloc(sizeof *response);
    if (!response) return NULL;
    performer__response__init(response);
    response->status = (int32_t)status;
    response->text = strdup(text);
    return response;
}

static void exchange_receive(struct exchange *exchange)
{
    exchange->sending = false;
    nng_aio_set_timeout(exchange->aio, NNG_DURATION_INFINITE);
    nng_ctx_recv(exchange->context, exchange->aio);
}

/* Answered, or never to be: its request counts no longer. */
static void exchange_done(struct exchange *exchange)
{
    struct endpoint *endpoint = exchange->endpoint;
    if (!exchange->begun) return;
    pthread_mutex_lock(&endpoint->mutex);
    connections_end(endpoint->connections, exchange->connection);
    pthread_mutex_unlock(&endpoint->mutex);
    exchange->begun = false;
}

static void exchange_queue(struct exchange *exchange)
{
    struct endpoint *endpoint = exchange->endpoint;
    const bool question = exchange->content && endpoint->service.is_question(exchange->content);
    struct queue *queue = question ? &endpoint->questions : &endpoint->changes;
    exchange->next = NULL;
    pthread_mutex_lock(&endpoint->mutex);
    *(queue->last ? &queue->last->next : &queue->first) = exchange;
    queue->last = exchange;
    if (question) pthread_cond_signal(&endpoint->asked);
    pthread_mutex_unlock(&endpoint->mutex);
    if (!question) uv_async_send(&endpoint->wake);
}

static void exchange_arrived(struct exchange *exchange, nng_msg *request)
{
    struct endpoint *endpoint = exchange->endpoint;
    exchange->request = request;
    exchange->connection = id_of(nng_msg_get_pipe(request));
    pthread_mutex_lock(&endpoint->mutex);
    exchange->begun = connections_begin(endpoint->connections, exchange->connection);
    pthread_mutex_unlock(&endpoint->mutex);
    exchange->content = NULL;
    if (exchange->begun)
        wire_unpack_request(nng_msg_body(request), nng_msg_len(request), &exchange->content,
                            &exchange->unread);
    exchange_queue(exchange);
}

static void exchange_sent(struct exchange *exchange, int error)
{
    if (error == 0) {
        exchange_done(exchange);
        exchange_receive(exchange);
    } else {
        exchange->request = nng_aio_get_msg(exchange->aio);
        exchange_done(exchange);
        exchange_queue(exchange);
    }
}

static void exchange_moved(void *argument)
{
    struct exchange *exchange = argument;
    int error = nng_aio_result(exchange->aio);
    if (atomic_load(&exchange->endpoint->closing)) { /* the message is ours, come or not gone */
        if ((error != 0) == exchange->sending) nng_msg_free(nng_aio_get_msg(exchange->aio));
    } else if (exchange->sending) {
        exchange_sent(exchange, error);
    } else if (error != 0) {
        exchange_receive(exchange);
    } else {
        exchange_arrived(exchange, nng_aio_get_msg(exchange->aio));
    }
}

/* ---- an answer, on the loop's thread or the answerer's ---- */

static void content_free(struct exchange *exchange)
{
    performer__request__free_unpacked(exchange->content, NULL);
    exchange->content = NULL;
}

/* No answer, and the end of the connection. On nng's threads its own close may wait for ever for what it interrupts. */
static void exchange_drop(struct exchange *exchange)
{
    exchange_done(exchange);
    content_free(exchange);
    nng_msg_free(exchange->request);
    exchange->request = NULL;
    close_id(exchange->connection);
    exchange_receive(exchange);
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

/* Takes the response. */
static void exchange_send(struct exchange *exchange, Performer__Response *response)
{
    content_free(exchange);
    nng_msg_clear(exchange->request);
    enum status status = response_write(response, exchange->request);
    if (response) performer__response__free_unpacked(response, NULL);
    if (status != ST_OK) { /* no memory to say so: the asker asks again */
        exchange_drop(exchange);
        return;
    }
    nng_aio_set_msg(exchange->aio, exchange->request);
    nng_aio_set_timeout(exchange->aio, SEND_MS);
    exchange->request = NULL;
    exchange->sending = true;
    nng_ctx_send(exchange->context, exchange->aio);
}

/* NULL: there is none. The caller holds the lock. */
static struct exchange *queue_take(struct queue *queue)
{
    struct exchange *exchange = queue->first;
    if (exchange) queue->first = exchange->next;
    if (!queue->first) queue->last = NULL;
    return exchange;
}

/* False: who asks is not known. The peer is given in any case. */
static bool identify(struct exchange *exchange, struct peer *peer, struct caller *caller)
{
    struct endpoint *endpoint = exchange->endpoint;
    const struct endpoint_service *service = &endpoint->service;
    pthread_mutex_lock(&endpoint->mutex);
    bool there = connections_peer(endpoint->connections, exchange->connection, peer);
    pthread_mutex_unlock(&endpoint->mutex);
    if (!there || service->identify(service->context, peer, exchange->content, caller) != ST_OK)
        return false;
    pthread_mutex_lock(&endpoint->mutex);
    connections_prove(endpoint->connections, exchange->connection);
    pthread_mutex_unlock(&endpoint->mutex);
    return true;
}

/* NULL: who asks is known, and their request may be answered. */
static Performer__Response *refuse_request(struct exchange *exchange, struct caller *caller)
{
    struct endpoint *endpoint = exchange->endpoint;
    struct peer peer = {.name = "a peer that has gone"};
    struct fault fault;
    if (!identify(exchange, &peer, caller)) {
        say_refused(endpoint, peer.name, "it has not proven who it is");
        return refusal(
            ST_NOT_PERMITTED,
            "performerd does not know you: show the token that its administrator gave you "
            "in PERFORMERD_TOKEN or a file named by PERFORMERD_TOKEN_FILE");
    }
    enum status status = wire_check_request(exchange->content, &fault);
    if (status == ST_OK) return NULL;
    atomic_fetch_add(&endpoint->rejected, 1);
    return refusal(status, fault.text);
}

/* What cannot be read cannot say who asks: it is told so where the connection has proven itself before. */
static void exchange_refuse_unread(struct exchange *exchange)
{
    struct endpoint *endpoint = exchange->endpoint;
    atomic_fetch_add(&endpoint->rejected, 1);
    pthread_mutex_lock(&endpoint->mutex);
    bool proven = connections_proven(endpoint->connections, exchange->connection);
    pthread_mutex_unlock(&endpoint->mutex);
    if (proven)
        exchange_send(exchange, refusal(exchange->unread.status, exchange->unread.text));
    else
        exchange_drop(exchange);
}

/* True: it is to be answered to that caller. What has not begun is dropped: who asks on without taking answers, or too often
 * without saying who it is, is cut off. */
static bool exchange_admit(struct exchange *exchange, struct caller *caller)
{
    if (!exchange->begun) {
        exchange_drop(exchange);
        return false;
    }
    if (!exchange->content) {
        exchange_refuse_unread(exchange);
        return false;
    }
    Performer__Response *refused = refuse_request(exchange, caller);
    if (refused) exchange_send(exchange, refused);
    return !refused;
}

/* All that wait, of which there are CONTEXTS at most. Returns how many did. */
static size_t changes_take(struct endpoint *endpoint, struct exchange *taken[CONTEXTS])
{
    size_t count = 0;
    pthread_mutex_lock(&endpoint->mutex);
    while (count < CONTEXTS && (taken[count] = queue_take(&endpoint->changes))) count++;
    pthread_mutex_unlock(&endpoint->mutex);
    return count;
}

/* What comes meanwhile wakes the loop again, once its timers have had their turn. */
static void wake(uv_async_t *async)
{
    struct endpoint *endpoint = async->data;
    const struct endpoint_service *service = &endpoint->service;
    struct exchange *taken[CONTEXTS];
    struct caller callers[CONTEXTS];
    struct asked asked[CONTEXTS];
    const size_t count = changes_take(endpoint, taken);
    size_t admitted = 0;
    for (size_t i = 0; i < count; i++) {
        if (!exchange_admit(taken[i], &callers[admitted])) continue;
        asked[admitted] = (struct asked){&callers[admitted], taken[i]->content, NULL};
        taken[admitted++] = taken[i];
    }
    for (size_t sent = 0; sent < admitted;) {
        const size_t end = sent + service->answer(service->context, asked + sent, admitted - sent);
        for (; sent < end; sent++) exchange_send(taken[sent], asked[sent].response);
    }
}

/* NULL: the endpoint is being closed. */
static struct exchange *question_await(struct endpoint *endpoint)
{
    struct exchange *exchange = NULL;
    pthread_mutex_lock(&endpoint->mutex);
    while (!atomic_load(&endpoint->closing) && !(exchange = queue_take(&endpoint->questions)))
        pthread_cond_wait(&endpoint->asked, &endpoint->mutex);
    pthread_mutex_unlock(&endpoint->mutex);
    return exchange;
}

static void *answer_questions(void *argument)
{
    struct endpoint *endpoint = argument;
    const struct endpoint_service *service = &endpoint->service;
    struct caller caller;
    for (struct exchange *exchange; (exchange = question_await(endpoint));)
        if (exchange_admit(exchange, &caller))
            exchange_send(exchange,
                          service->question(service->context, &caller, exchange->content));
    return NULL;
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
    content_free(exchange);
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
    pthread_mutex_lock(&endpoint->mutex);
    atomic_store(&endpoint->closing, true);
    pthread_cond_signal(&endpoint->asked);
    pthread_mutex_unlock(&endpoint->mutex);
    if (endpoint->answers) pthread_join(endpoint->answerer, NULL);
    for (int i = 0; i < endpoint->exchange_count; i++) exchange_close(&endpoint->exchanges[i]);
    nng_close(endpoint->socket);
}

static void endpoint_free(struct endpoint *endpoint)
{
    connections_free(endpoint->connections);
    pthread_cond_destroy(&endpoint->asked);
    pthread_mutex_destroy(&endpoint->mutex);
    free(endpoint);
}

static int watch_pipes(struct endpoint *endpoint)
{
    static const nng_pipe_ev events[] = {NNG_PIPE_EV_ADD_PRE, NNG_PIPE_EV_REM_POST};
    int error = 0;
    for (size_t i = 0; i < sizeof events / sizeof events[0] && error == 0; i++)
        error = nng_pipe_notify(endpoint->socket, events[i], pipe_changed, endpoint);
    return error;
}

enum status endpoint_open(struct uv_loop_s *loop, const struct endpoint_service *service,
                          struct endpoint **endpoint, struct fault *fault)
{
    struct endpoint *opened = calloc(1, sizeof *opened);
    if (!opened) return fault_set(fault, ST_NO_MEMORY, "no memory for the endpoint");
    opened->service = *service;
    opened->wake.data = opened->timer.data = opened;
    pthread_mutex_init(&opened->mutex, NULL);
    pthread_cond_init(&opened->asked, NULL);
    raise_descriptor_limit(service->limits->total);

    int error = NNG_ENOMEM;
    opened->connections = connections_new(service->limits);
    if (opened->connections) error = nng_rep0_open(&opened->socket);
    if (error != 0) goto free_endpoint;
    error = watch_pipes(opened);
    if (error == 0) error = exchanges_open(opened);
    if (error != 0) goto halt;
    if (uv_async_init(loop, &opened->wake, wake) != 0) {
        error = NNG_ENOMEM;
        goto halt;
    }
    uv_timer_init(loop, &opened->timer);
    uv_timer_start(&opened->timer, close_overdue, OVERDUE_MS, OVERDUE_MS);
    opened->handles = 2;
    for (int i = 0; i < CONTEXTS; i++) exchange_receive(&opened->exchanges[i]);
    *endpoint = opened;
    return ST_OK;

halt:
    endpoint_halt(opened);
free_endpoint:
    endpoint_free(opened);
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

/* It must be ours alone: who can write in it could put a socket of their own in our place. */
static enum status check_directory(const char *path, struct fault *fault)
{
    char directory[PATH_MAX];
    struct stat about;
    snprintf(directory, sizeof directory, "%s", path);
    char *slash = strrchr(directory, '/');
    slash[slash == directory ? 1 : 0] = '\0';
    if (stat(directory, &about) != 0)
        return fault_errno(fault, errno, "could not look at %s, where the socket shall be",
                           directory);
    if (about.st_uid == geteuid() && (about.st_mode & 077) == 0) return ST_OK;
    return fault_set(
        fault, ST_NOT_PERMITTED,
        "%s, where the socket shall be, must be a directory of your own with mode 0700 "
        "(it is of uid %u, mode %04o): chmod it, or name another with --listen",
        directory, (unsigned)about.st_uid, (unsigned)about.st_mode & 07777);
}

static enum status check_url(const char *url, bool tls, struct fault *fault)
{
    const char *path = endpoint_socket_path(url);
    if (path && path[0] != '/')
        return fault_set(fault, ST_INVALID, "%s: write the socket's whole path, ipc:///PATH", url);
    if (path) return check_directory(path, fault);
    if (starts_with(url, "tls+tcp://"))
        return tls ? ST_OK
                   : fault_set(fault, ST_INVALID,
                               "%s: a listener on the network needs --tls-cert, --tls-key and "
                               "--token-file",
                               url);
    if (starts_with(url, "tcp://"))
        return fault_set(fault, ST_UNSUPPORTED,
                         "%s: tokens would cross the network for all to read, and on loopback any "
                         "user of this machine could ask: use tls+tcp://HOST:PORT, or ipc:///PATH "
                         "on this machine",
                         url);
    return fault_set(fault, ST_UNSUPPORTED,
                     "%s: not a URL to listen on; use ipc:///PATH or tls+tcp://HOST:PORT", url);
}

static int listener_configure(nng_listener listener, bool local, struct nng_tls_config *tls)
{
    /* nng takes frames of any size otherwise, and reserves what a peer claims. */
    int error = nng_listener_set_size(listener, NNG_OPT_RECVMAXSZ, WIRE_BYTES_MAX);
    if (error != 0) return error;
    if (local) return nng_listener_set_int(listener, NNG_OPT_IPC_PERMISSIONS, 0600);
    return nng_listener_set_ptr(listener, NNG_OPT_TLS_CONFIG, tls);
}

/* Of our certificate, which any client is sent: who that is its token says. */
static enum status tls_make(const struct endpoint_tls *tls, struct nng_tls_config **config,
                            struct fault *fault)
{
    nng_tls_register();
    int error = nng_tls_config_alloc(config, NNG_TLS_MODE_SERVER);
    if (error != 0) return fault_set(fault, status_from_nng(error), "no memory for TLS");
    error = nng_tls_config_own_cert(*config, tls->certificate, tls->key, NULL);
    if (error == 0) return ST_OK;
    nng_tls_config_free(*config);
    return fault_set(fault, ST_INVALID,
                     "--tls-cert and --tls-key: not a certificate and its key in PEM, without a "
                     "passphrase (%s)",
                     nng_strerror(error));
}

/* With the first listener: whoever is called from the thread knows the endpoint by then. */
static enum status answerer_start(struct endpoint *endpoint, struct fault *fault)
{
    if (endpoint->answers) return ST_OK;
    const int error = pthread_create(&endpoint->answerer, NULL, answer_questions, endpoint);
    if (error != 0)
        return fault_errno(fault, error, "could not start the thread that answers questions");
    endpoint->answers = true;
    return ST_OK;
}

enum status endpoint_listen(struct endpoint *endpoint, const char *url,
                            const struct endpoint_tls *tls, struct fault *fault)
{
    bool local = endpoint_socket_path(url);
    nng_tls_config *config = NULL;
    enum status status = check_url(url, tls, fault);
    if (status == ST_OK) status = answerer_start(endpoint, fault);
    if (status == ST_OK && !local) status = tls_make(tls, &config, fault);
    if (status != ST_OK) return status;

    nng_listener listener;
    int error = nng_listener_create(&listener, endpoint->socket, url);
    if (error == 0) {
        error = listener_configure(listener, local, config);
        if (error == 0) error = nng_listener_start(listener, 0);
        if (error != 0) nng_listener_close(listener);
    }
    if (config) nng_tls_config_free(config); /* the listener holds it */
    if (error == 0) return ST_OK;
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

/* nng counts over all connections anew, which takes long where they are many. */
uint64_t endpoint_frames_rejected(struct endpoint *endpoint)
{
    const uint64_t now = clock_now_ms();
    pthread_mutex_lock(&endpoint->mutex);
    const bool due = endpoint->counted_ms == 0 || now - endpoint->counted_ms >= COUNT_MS;
    if (due) endpoint->counted_ms = now;
    pthread_mutex_unlock(&endpoint->mutex);
    if (due) atomic_store(&endpoint->handshakes_failed, handshakes_failed());
    return atomic_load(&endpoint->rejected) + atomic_load(&endpoint->handshakes_failed);
}

static void handle_closed(uv_handle_t *handle)
{
    struct endpoint *endpoint = handle->data;
    if (--endpoint->handles == 0) endpoint_free(endpoint);
}

void endpoint_close(struct endpoint *endpoint)
{
    if (!endpoint) return;
    endpoint_halt(endpoint);
    uv_close((uv_handle_t *)&endpoint->wake, handle_closed);
    uv_close((uv_handle_t *)&endpoint->timer, handle_closed);
}
