#include "proto/client.h"

#include <errno.h>
#include <nng/nng.h>
#include <nng/protocol/reqrep0/req.h>
#include <nng/supplemental/tls/tls.h>
#include <nng/transport/tls/tls.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "proto/credentials.h"
#include "proto/wire.h"

enum {
    RECONNECT_MIN_MS = 10,
    RECONNECT_MAX_MS = 250,
    CONNECT_MS = 500,          /* a daemon that has not taken the connection by then is away */
    NETWORK_CONNECT_MS = 5000, /* the same on a network, of many journeys for a handshake */
    LOOK_MS = 250,
};

struct client {
    char *url;
    struct credentials credentials;
    nng_socket socket;
    nng_dialer dialer;
    nng_aio *aio;
    pthread_mutex_t lock;
    pthread_cond_t connected;
    int pipes; /* connections that are up; under the lock, by nng's callbacks */
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
    pthread_mutex_lock(&client->lock);
    client->pipes += event == NNG_PIPE_EV_ADD_POST ? 1 : -1;
    pthread_cond_broadcast(&client->connected);
    pthread_mutex_unlock(&client->lock);
}

static void lock_init(struct client *client)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&client->connected, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&client->lock, NULL);
}

static void client_free(struct client *client)
{
    pthread_cond_destroy(&client->connected);
    pthread_mutex_destroy(&client->lock);
    credentials_free(&client->credentials);
    free(client->url);
    free(client);
}

/* nng's dialer tries again in silence, but counts: connections "refused", and those whose certificate failed, "auth". */
static uint64_t dialer_count(const struct client *client, const char *name)
{
    nng_stat *all;
    uint64_t found = 0;
    if (nng_stats_get(&all) != 0) return 0;
    for (nng_stat *scope = nng_stat_child(all); scope; scope = nng_stat_next(scope)) {
        bool ours = false;
        uint64_t count = 0;
        if (strcmp(nng_stat_name(scope), "dialer") != 0) continue;
        for (nng_stat *item = nng_stat_child(scope); item; item = nng_stat_next(item)) {
            if (strcmp(nng_stat_name(item), "id") == 0)
                ours = nng_stat_value(item) == (uint64_t)nng_dialer_id(client->dialer);
            if (strcmp(nng_stat_name(item), name) == 0) count = nng_stat_value(item);
        }
        if (ours) found = count;
    }
    nng_stats_free(all);
    return found;
}

/* True as soon as a connection is up, false when none is until then. */
static bool connection_awaited(struct client *client, nng_duration wait_ms)
{
    int64_t until_ms = now_ms() + wait_ms;
    const struct timespec until = {.tv_sec = until_ms / 1000, .tv_nsec = until_ms % 1000 * 1000000};
    int error = 0;
    pthread_mutex_lock(&client->lock);
    while (client->pipes == 0 && error == 0)
        error = pthread_cond_timedwait(&client->connected, &client->lock, &until);
    bool connected = client->pipes > 0;
    pthread_mutex_unlock(&client->lock);
    return connected;
}

static bool is_local(const char *url)
{
    return strncmp(url, "ipc://", strlen("ipc://")) == 0;
}

static bool is_network(const char *url)
{
    return strncmp(url, "tls+tcp://", strlen("tls+tcp://")) == 0;
}

/* Over a network it takes a few journeys, but who has been turned away need not wait. */
static bool connected_within(struct client *client, nng_duration wait_ms)
{
    if (!is_network(client->url)) return connection_awaited(client, wait_ms);
    for (; wait_ms > 0; wait_ms -= LOOK_MS) {
        if (connection_awaited(client, wait_ms < LOOK_MS ? wait_ms : LOOK_MS)) return true;
        if (dialer_count(client, "auth") + dialer_count(client, "refused") > 0) return false;
    }
    return false;
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

/* Nothing else is dialled: a token must not cross a network for all to read. */
static enum status url_check(const char *url, const struct credentials *credentials,
                             struct fault *fault)
{
    if (!is_local(url) && !is_network(url))
        return fault_set(fault, ST_INVALID,
                         "cannot use %.200s as the URL of performerd: write ipc:///PATH or "
                         "tls+tcp://HOST:PORT",
                         url);
    if (is_network(url) && !credentials->authorities)
        return fault_set(fault, ST_INVALID,
                         "%.200s: set PERFORMERD_TLS_CA to a file with the certificate of that "
                         "performerd, or of the authority behind it",
                         url);
    return ST_OK;
}

/* The certificate must be one that we trust, and hold the name of the host. */
static int tls_configure(nng_dialer dialer, const char *url, const char *authorities)
{
    nng_tls_config *config;
    nng_url *parts;
    int error = nng_url_parse(&parts, url);
    if (error != 0) return error;
    error = nng_tls_config_alloc(&config, NNG_TLS_MODE_CLIENT);
    if (error != 0) goto free_url;
    error = nng_tls_config_ca_chain(config, authorities, NULL);
    if (error == 0) error = nng_tls_config_auth_mode(config, NNG_TLS_AUTH_MODE_REQUIRED);
    if (error == 0) error = nng_tls_config_server_name(config, parts->u_hostname);
    if (error == 0) error = nng_dialer_set_ptr(dialer, NNG_OPT_TLS_CONFIG, config);
    nng_tls_config_free(config); /* the dialer holds it */
free_url:
    nng_url_free(parts);
    return error;
}

/* Begins to connect, and goes on trying. */
static int client_dial(struct client *client)
{
    if (is_network(client->url)) nng_tls_register();
    int error = nng_dialer_create(&client->dialer, client->socket, client->url);
    if (error == 0 && is_network(client->url))
        error = tls_configure(client->dialer, client->url, client->credentials.authorities);
    if (error == 0) error = nng_dialer_start(client->dialer, NNG_FLAG_NONBLOCK);
    return error;
}

enum status client_open(const char *url, struct client **client, struct fault *fault)
{
    struct client *opened = calloc(1, sizeof *opened);
    if (!opened) return fault_set(fault, ST_NO_MEMORY, "no memory for a connection to %s", url);
    lock_init(opened);
    enum status status = credentials_load(&opened->credentials, fault);
    if (status == ST_OK) status = url_check(url, &opened->credentials, fault);
    if (status != ST_OK) {
        client_free(opened);
        return status;
    }
    opened->url = strdup(url);
    int error = opened->url ? nng_aio_alloc(&opened->aio, NULL, NULL) : NNG_ENOMEM;
    if (error != 0) goto free_client;
    error = nng_req0_open(&opened->socket);
    if (error != 0) goto free_aio;
    error = socket_configure(opened);
    if (error == 0) error = client_dial(opened);
    if (error != 0) goto close_socket;
    *client = opened;
    return ST_OK;

close_socket:
    nng_close(opened->socket);
free_aio:
    nng_aio_free(opened->aio);
free_client:
    client_free(opened);
    return fault_set(fault, status_from_nng(error),
                     error == NNG_ECRYPTO
                         ? "%.200s: PERFORMERD_TLS_CA is no file of certificates in PEM (%s)"
                         : "cannot use %.200s as the URL of performerd (%s): write ipc:///PATH or "
                           "tls+tcp://HOST:PORT",
                     url, nng_strerror(error));
}

static int wait_for(nng_aio *aio)
{
    nng_aio_wait(aio);
    return nng_aio_result(aio);
}

static enum status silent(const struct client *client, int timeout_ms, struct fault *fault)
{
    return fault_set(fault, ST_TIMED_OUT, "performerd at %s did not answer within %d ms",
                     client->url, timeout_ms);
}

/* What can be seen of it. */
static const char *why_unreachable(const struct client *client)
{
    if (is_local(client->url))
        return access(client->url + strlen("ipc://"), R_OK | W_OK) != 0
                   ? strerror(errno)
                   : "nobody takes the connection";
    return dialer_count(client, "auth") > 0
               ? "its certificate is not trusted: it has expired, is for another host's name, or is "
                 "not of those in PERFORMERD_TLS_CA"
               : "nobody takes the connection";
}

static enum status unreachable(const struct client *client, struct fault *fault)
{
    return fault_set(fault, ST_UNREACHABLE,
                     "no performerd at %s (%s); start it with \"performerd\", or name another with "
                     "--url or PERFORMERD_URL",
                     client->url, why_unreachable(client));
}

static enum status lost(const struct client *client, int error, struct fault *fault)
{
    return fault_set(fault, status_from_nng(error),
                     "lost performerd at %s before it answered (%s): it may or may not have done "
                     "what was asked",
                     client->url, nng_strerror(error));
}

/*
 * Gives the request to a connection; NNG_ECONNREFUSED where none comes up. A connection that is lost just before it takes the request leaves nng
 * waiting for another one, so it waits for short times, and looks in between whether anybody is there.
 */
static int deliver(struct client *client, nng_ctx context, int64_t deadline_ms, nng_msg *message)
{
    for (;;) {
        nng_duration left = left_ms(deadline_ms);
        nng_duration limit = is_network(client->url) ? NETWORK_CONNECT_MS : CONNECT_MS;
        nng_duration wait = left < limit ? left : limit;
        if (!connected_within(client, wait)) return NNG_ECONNREFUSED;
        nng_aio_set_timeout(client->aio, wait);
        nng_aio_set_msg(client->aio, message);
        nng_ctx_send(context, client->aio);
        int error = wait_for(client->aio);
        if (error != NNG_ETIMEDOUT || left <= limit) return error;
    }
}

/* Sends the request, which is gone afterwards, and waits for the answer. */
static enum status exchange(struct client *client, nng_ctx context, int timeout_ms,
                            nng_msg *request, nng_msg **answer, struct fault *fault)
{
    int64_t deadline_ms = now_ms() + timeout_ms;
    int error = deliver(client, context, deadline_ms, request);
    if (error != 0) nng_msg_free(request);
    if (error == NNG_ECONNREFUSED) return unreachable(client, fault);
    if (error == NNG_ETIMEDOUT) return silent(client, timeout_ms, fault);
    if (error != 0) return lost(client, error, fault);

    nng_aio_set_timeout(client->aio, left_ms(deadline_ms));
    nng_ctx_recv(context, client->aio);
    error = wait_for(client->aio);
    if (error == NNG_ETIMEDOUT) return silent(client, timeout_ms, fault);
    if (error != 0) return lost(client, error, fault);
    *answer = nng_aio_get_msg(client->aio);
    return ST_OK;
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
    nng_msg *message;
    request->token = client->credentials.token;
    enum status status = request_message(request, &message, fault);
    request->token = (char *)protobuf_c_empty_string;
    if (status != ST_OK) return status;
    /* A context for each request: when it is closed, an answer that comes too late is nobody's. */
    nng_ctx context;
    int error = nng_ctx_open(&context, client->socket);
    if (error != 0) {
        nng_msg_free(message);
        return fault_set(fault, status_from_nng(error), "could not ask performerd: %s",
                         nng_strerror(error));
    }
    status = exchange(client, context, timeout_ms, message, &message, fault);
    nng_ctx_close(context);
    if (status != ST_OK) return status;

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
    client_free(client);
}

void client_default_url(char *url, size_t size)
{
    const char *given = environment_variable("PERFORMERD_URL");
    const char *runtime = environment_variable("XDG_RUNTIME_DIR");
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
    const char *state = environment_variable("XDG_STATE_HOME");
    const char *home = environment_variable("HOME");
    if (state)
        snprintf(path, size, "%s/performerd", state);
    else
        snprintf(path, size, "%s/.local/state/performerd", home ? home : "");
}
