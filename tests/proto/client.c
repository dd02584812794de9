#include <criterion/criterion.h>
#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/supplemental/util/platform.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "proto/client.h"
#include "proto/wire.h"

static char directory[64], url[128];
static struct fault fault;

static void make_directory(void)
{
    snprintf(directory, sizeof directory, "/tmp/client.XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
    snprintf(url, sizeof url, "ipc://%s/daemon.sock", directory);
}

static void remove_directory(void)
{
    unlink(url + strlen("ipc://"));
    rmdir(directory);
}

TestSuite(client, .init = make_directory, .fini = remove_directory, .timeout = 60);

static enum status ping(struct client *client, int timeout_ms, Performer__Response **response)
{
    Performer__Request request = PERFORMER__REQUEST__INIT;
    Performer__Ping body = PERFORMER__PING__INIT;
    request.body_case = PERFORMER__REQUEST__BODY_PING;
    request.ping = &body;
    return client_call(client, &request, timeout_ms, response, &fault);
}

static struct client *opened(const char *at)
{
    struct client *client = NULL;
    cr_assert_eq(client_open(at, &client, &fault), ST_OK, "%s", fault.text);
    return client;
}

/* ---- a daemon of the test's own, which answers by a script ---- */

struct server {
    nng_socket socket;
    pthread_t thread;
    int (*answer)(int number, Performer__Response *response); /* how long to wait first, in ms */
    int requests;
};

static void *serve(void *argument)
{
    struct server *server = argument;
    for (;;) {
        nng_msg *message;
        if (nng_recvmsg(server->socket, &message, 0) != 0) return NULL;
        nng_msg_free(message);
        Performer__Response response = PERFORMER__RESPONSE__INIT;
        Performer__Pong pong = PERFORMER__PONG__INIT;
        response.body_case = PERFORMER__RESPONSE__BODY_PONG;
        response.pong = &pong;
        nng_msleep(server->answer(server->requests++, &response));
        uint8_t *bytes;
        size_t length;
        if (wire_pack_response(&response, &bytes, &length) != ST_OK) return NULL;
        nng_send(server->socket, bytes, length, 0);
        free(bytes);
    }
}

static void server_start(struct server *server, int (*answer)(int, Performer__Response *))
{
    *server = (struct server){.answer = answer};
    cr_assert_eq(nng_rep0_open(&server->socket), 0);
    cr_assert_eq(nng_listen(server->socket, url, NULL, 0), 0);
    pthread_create(&server->thread, NULL, serve, server);
}

static void server_stop(struct server *server)
{
    nng_close(server->socket);
    pthread_join(server->thread, NULL);
}

static int answer_number(int number, Performer__Response *response)
{
    response->pong->pid = (uint64_t)number;
    return 0;
}

Test(client, an_answer_comes_back)
{
    struct server server;
    Performer__Response *response;
    server_start(&server, answer_number);
    struct client *client = opened(url);
    for (uint64_t i = 0; i < 3; i++) {
        cr_assert_eq(ping(client, 20000, &response), ST_OK, "%s", fault.text);
        cr_assert_eq(response->pong->pid, i);
        performer__response__free_unpacked(response, NULL);
    }
    client_close(client);
    server_stop(&server);
}

static int refuse(int number, Performer__Response *response)
{
    response->body_case = PERFORMER__RESPONSE__BODY__NOT_SET;
    response->status = number == 0 ? ST_NOT_FOUND : 12345;
    response->text = number == 0 ? "no run r7" : "";
    return 0;
}

Test(client, the_daemons_no_is_told_in_its_words)
{
    struct server server;
    Performer__Response *response = NULL;
    server_start(&server, refuse);
    struct client *client = opened(url);
    cr_assert_eq(ping(client, 20000, &response), ST_NOT_FOUND);
    cr_assert_str_eq(fault.text, "no run r7");
    cr_assert_eq(ping(client, 20000, &response), ST_INTERNAL, "a status that is none of ours");
    cr_assert_null(response);
    client_close(client);
    server_stop(&server);
}

Test(client, without_a_daemon_it_says_where_it_looked_and_what_to_do)
{
    Performer__Response *response = NULL;
    struct client *client = opened("ipc:///none/daemon.sock");
    cr_assert_eq(ping(client, 20000, &response), ST_UNREACHABLE, "%s", fault.text);
    cr_assert(strstr(fault.text, "ipc:///none/daemon.sock"), "%s", fault.text);
    cr_assert(strstr(fault.text, "No such file"), "%s", fault.text);
    cr_assert(strstr(fault.text, "start it with \"performerd\""), "%s", fault.text);
    cr_assert(strstr(fault.text, "PERFORMERD_URL"), "%s", fault.text);
    cr_assert_null(response);
    client_close(client);
}

static int raw_listener(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s/daemon.sock", directory);
    cr_assert_eq(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

Test(client, a_socket_that_nobody_listens_on_is_no_daemon)
{
    Performer__Response *response;
    int fd = raw_listener();
    struct client *client = opened(url);
    cr_assert_eq(ping(client, 20000, &response), ST_UNREACHABLE, "%s", fault.text);
    client_close(client);
    close(fd);
}

/* The kernel took the connection and nobody ever greeted: a stopped daemon looks like this. */
Test(client, a_peer_that_never_greets_is_no_daemon)
{
    Performer__Response *response;
    int fd = raw_listener();
    cr_assert_eq(listen(fd, 16), 0);
    struct client *client = opened(url);
    cr_assert_eq(ping(client, 20000, &response), ST_UNREACHABLE, "%s", fault.text);
    cr_assert(strstr(fault.text, "nobody takes the connection"), "%s", fault.text);
    client_close(client);
    close(fd);
}

static int first_one_late(int number, Performer__Response *response)
{
    response->pong->pid = (uint64_t)number;
    return number == 0 ? 600 : 0;
}

Test(client, a_late_answer_is_not_taken_for_the_next)
{
    struct server server;
    Performer__Response *response;
    server_start(&server, first_one_late);
    struct client *client = opened(url);
    cr_assert_eq(ping(client, 200, &response), ST_TIMED_OUT, "%s", fault.text);
    cr_assert(strstr(fault.text, "200 ms"), "%s", fault.text);
    cr_assert_eq(ping(client, 20000, &response), ST_OK, "%s", fault.text);
    cr_assert_eq(response->pong->pid, 1, "the answer to the second request");
    performer__response__free_unpacked(response, NULL);
    client_close(client);
    server_stop(&server);
    cr_assert_eq(server.requests, 2, "nothing was asked twice");
}

Test(client, a_daemon_that_comes_back_is_found_again)
{
    struct server server;
    Performer__Response *response;
    struct client *client = opened(url);
    cr_assert_eq(ping(client, 20000, &response), ST_UNREACHABLE);
    for (int life = 0; life < 2; life++) {
        server_start(&server, answer_number);
        cr_assert_eq(ping(client, 20000, &response), ST_OK, "life %d: %s", life, fault.text);
        performer__response__free_unpacked(response, NULL);
        server_stop(&server);
        enum status status = ping(client, 20000, &response);
        cr_assert_eq(status, ST_UNREACHABLE, "life %d: %s", life, fault.text);
    }
    client_close(client);
}

static struct server *dying;
static sem_t asked;

static void *die_when_asked(void *argument)
{
    (void)argument;
    sem_wait(&asked);
    nng_close(dying->socket);
    return NULL;
}

static int never(int number, Performer__Response *response)
{
    (void)number, (void)response;
    sem_post(&asked);
    return 1000;
}

/* Whether it was done nobody knows, and it is not asked again behind the caller's back. */
Test(client, a_daemon_that_dies_before_it_answers_is_reported)
{
    struct server server;
    Performer__Response *response;
    pthread_t killer;
    server_start(&server, never);
    struct client *client = opened(url);
    dying = &server;
    sem_init(&asked, 0, 0);
    pthread_create(&killer, NULL, die_when_asked, NULL);
    cr_assert_eq(ping(client, 20000, &response), ST_UNREACHABLE, "%s", fault.text);
    cr_assert(strstr(fault.text, "may or may not"), "%s", fault.text);
    pthread_join(killer, NULL);
    pthread_join(server.thread, NULL);
    client_close(client);
}

/* Larger than nng is told to take: the connection is dropped, nothing of it is kept. */
static void *send_too_much(void *argument)
{
    struct server *server = argument;
    nng_msg *message;
    if (nng_recvmsg(server->socket, &message, 0) != 0) return NULL;
    nng_msg_clear(message);
    static uint8_t bytes[WIRE_BYTES_MAX + 1];
    nng_msg_append(message, bytes, sizeof bytes);
    if (nng_sendmsg(server->socket, message, 0) != 0) nng_msg_free(message);
    return NULL;
}

Test(client, an_answer_too_large_is_an_error)
{
    struct server server = {.requests = 0};
    Performer__Response *response;
    cr_assert_eq(nng_rep0_open(&server.socket), 0);
    cr_assert_eq(nng_listen(server.socket, url, NULL, 0), 0);
    pthread_create(&server.thread, NULL, send_too_much, &server);
    struct client *client = opened(url);
    cr_assert_eq(ping(client, 20000, &response), ST_UNREACHABLE, "%s", fault.text);
    client_close(client);
    pthread_join(server.thread, NULL);
    nng_close(server.socket);
}

Test(client, a_url_that_is_none_is_refused_with_an_example)
{
    static const char *const bad[] = {"", "daemon.sock", "http://localhost/",
                                      "tcp://localhost:5000", "inproc://x"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct client *client = NULL;
        enum status status = client_open(bad[i], &client, &fault);
        cr_expect_neq(status, ST_OK, "%s", bad[i]);
        cr_expect_null(client);
        if (status != ST_OK) cr_expect(strstr(fault.text, "ipc:///PATH"), "%s", fault.text);
    }
}

Test(client, a_network_needs_a_certificate_to_trust)
{
    struct client *client = NULL;
    unsetenv("PERFORMERD_TLS_CA");
    cr_assert_eq(client_open("tls+tcp://localhost:5000", &client, &fault), ST_INVALID);
    cr_assert(strstr(fault.text, "PERFORMERD_TLS_CA"), "%s", fault.text);
    setenv("PERFORMERD_TLS_CA", "/nowhere/ca.pem", 1);
    cr_assert_eq(client_open("tls+tcp://localhost:5000", &client, &fault), ST_NOT_FOUND);
    cr_assert(strstr(fault.text, "/nowhere/ca.pem"), "%s", fault.text);
    setenv("PERFORMERD_TLS_CA", "/etc/passwd", 1);
    cr_assert_eq(client_open("tls+tcp://localhost:5000", &client, &fault), ST_SYSTEM);
    cr_assert(strstr(fault.text, "PERFORMERD_TLS_CA"), "%s", fault.text);
    cr_assert_null(client);
}

Test(client, the_default_url_follows_the_environment)
{
    char found[200], state[200];
    unsetenv("PERFORMERD_URL");
    unsetenv("XDG_RUNTIME_DIR");
    unsetenv("XDG_STATE_HOME");
    setenv("HOME", "/home/u", 1);
    default_state_directory(state, sizeof state);
    cr_expect_str_eq(state, "/home/u/.local/state/performerd");
    client_default_url(found, sizeof found);
    cr_expect_str_eq(found, "ipc:///home/u/.local/state/performerd/performerd.sock");
    setenv("XDG_STATE_HOME", "/state", 1);
    default_state_directory(state, sizeof state);
    cr_expect_str_eq(state, "/state/performerd");
    setenv("XDG_RUNTIME_DIR", "/run/user/7", 1);
    client_default_url(found, sizeof found);
    cr_expect_str_eq(found, "ipc:///run/user/7/performerd.sock");
    setenv("PERFORMERD_URL", "", 1);
    client_default_url(found, sizeof found);
    cr_expect_str_eq(found, "ipc:///run/user/7/performerd.sock", "an empty one is none");
    setenv("PERFORMERD_URL", "tcp://host:5000", 1);
    client_default_url(found, sizeof found);
    cr_expect_str_eq(found, "tcp://host:5000");
}

Test(client, half_opened_ends_quietly)
{
    client_close(NULL);
    client_close(opened("ipc:///none/daemon.sock"));
}
