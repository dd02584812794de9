#include "daemon/endpoint.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <nng/nng.h>
#include <nng/protocol/reqrep0/req.h>
#include <uv.h>

#include "daemon/response.h"
#include "proto/client.h"
#include "proto/wire.h"
#include "tests/daemon/scratch.h"

/* An endpoint on a loop of its own, which answers pings; the tests are its peers, good and bad. */

static struct scratch scratch;
static char url[128];
static struct endpoint *endpoint;
static uv_loop_t loop;
static uv_async_t stop;
static pthread_t thread;
static atomic_int handled;

/* Who shows the token "wrong" is nobody; the others are who their sockets prove. */
static enum status identify(void *context, const struct peer *peer,
                            const Performer__Request *request, struct caller *caller)
{
    cr_assert_eq(context, &handled);
    cr_assert(peer->local);
    cr_assert_eq(peer->uid, geteuid());
    if (strcmp(request->token, "wrong") == 0) return ST_NOT_PERMITTED;
    *caller = (struct caller){.user = "tester"};
    return ST_OK;
}

static Performer__Response *answer(void *context, const struct caller *caller,
                                   const Performer__Request *request)
{
    cr_assert_eq(context, &handled);
    cr_assert_str_eq(caller->user, "tester");
    atomic_fetch_add(&handled, 1);
    if (request->body_case != PERFORMER__REQUEST__BODY_PING)
        return response_refuse(ST_UNSUPPORTED, "pings only");
    Performer__Response *response = response_new();
    response->body_case = PERFORMER__RESPONSE__BODY_PONG;
    response->pong = calloc(1, sizeof *response->pong);
    performer__pong__init(response->pong);
    response->pong->frames_rejected = endpoint_frames_rejected(endpoint);
    return response;
}

/* Pings alone are questions. */
static bool is_question(const Performer__Request *request)
{
    return request->body_case == PERFORMER__REQUEST__BODY_PING;
}

/* Two at a time, where there are two. */
static size_t answer_changes(void *context, struct asked *asked, size_t count)
{
    const size_t few = count < 2 ? count : 2;
    for (size_t i = 0; i < few; i++)
        asked[i].response = answer(context, asked[i].caller, asked[i].request);
    return few;
}

static const struct connection_limits limits = {
    .total = 400, .of_peer = 300, .strangers = 256, .stranger_ms = 700, .requests = 4, .tries = 4};
static const struct endpoint_service service = {&handled, &limits,        is_question,
                                                identify, answer_changes, answer};

static void stop_loop(uv_async_t *async)
{
    endpoint_close(endpoint);
    uv_close((uv_handle_t *)async, NULL);
}

static void *run_loop(void *argument)
{
    uv_run(&loop, UV_RUN_DEFAULT);
    return argument;
}

static void setup(void)
{
    struct fault fault;
    scratch = scratch_new();
    snprintf(url, sizeof url, "ipc://%s", scratch_path(&scratch, "socket"));
    cr_assert_eq(uv_loop_init(&loop), 0);
    cr_assert_eq(uv_async_init(&loop, &stop, stop_loop), 0);
    cr_assert_eq(endpoint_open(&loop, &service, &endpoint, &fault), ST_OK);
    cr_assert_eq(endpoint_listen(endpoint, url, NULL, &fault), ST_OK, "%s", fault.text);
    cr_assert_eq(pthread_create(&thread, NULL, run_loop, NULL), 0);
}

static void teardown(void)
{
    uv_async_send(&stop);
    pthread_join(thread, NULL);
    cr_assert_eq(uv_loop_close(&loop), 0, "a handle was left open");
    scratch_remove(&scratch);
}

TestSuite(endpoint, .init = setup, .fini = teardown);

/* A ping from a client of its own. */
static enum status try_ping(uint64_t *rejected, struct fault *fault)
{
    struct client *client;
    Performer__Request request = PERFORMER__REQUEST__INIT;
    Performer__Ping body = PERFORMER__PING__INIT;
    Performer__Response *response;
    request.body_case = PERFORMER__REQUEST__BODY_PING;
    request.ping = &body;
    cr_assert_eq(client_open(url, &client, fault), ST_OK);
    enum status status = client_call(client, &request, 10000, &response, fault);
    client_close(client);
    if (status != ST_OK) return status;
    *rejected = response->pong->frames_rejected;
    performer__response__free_unpacked(response, NULL);
    return ST_OK;
}

/* The count of rejected frames; the ping must be answered. */
static uint64_t ping(void)
{
    uint64_t rejected = 0;
    struct fault fault;
    cr_assert_eq(try_ping(&rejected, &fault), ST_OK, "%s", fault.text);
    return rejected;
}

/* The count grows to `least` within a generous while: a connection's end is noticed a moment later. */
static void rejected_reaches(uint64_t least)
{
    uint64_t rejected = 0;
    for (int tries = 0; tries < 500 && rejected < least; tries++) {
        rejected = ping();
        usleep(10000);
    }
    cr_assert_geq(rejected, least);
}

static int connect_raw(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", scratch_path(&scratch, "socket"));
    int peer = socket(AF_UNIX, SOCK_STREAM, 0);
    cr_assert_eq(connect(peer, (struct sockaddr *)&address, sizeof address), 0);
    return peer;
}

static void send_raw(int peer, const void *bytes, size_t length)
{
    ssize_t sent = send(peer, bytes, length, MSG_NOSIGNAL);
    cr_assert(sent == (ssize_t)length || errno == EPIPE || errno == ECONNRESET);
}

/* What a REQ socket says first, then the claim of `length` bytes to come. */
static void send_claim(int peer, uint64_t length)
{
    unsigned char claim[9] = {1};
    for (int i = 0; i < 8; i++) claim[1 + i] = (unsigned char)(length >> (56 - 8 * i));
    send_raw(peer, "\0SP\0\0\x30\0\0", 8);
    send_raw(peer, claim, sizeof claim);
}

static long virtual_kib(void)
{
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    cr_assert_eq(fscanf(file, "%ld", &pages), 1);
    fclose(file);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

Test(endpoint, answers)
{
    for (int i = 0; i < 20; i++) cr_assert_eq(ping(), 0);
    cr_assert_eq(atomic_load(&handled), 20);
}

Test(endpoint, answers_a_crowd_at_once)
{
    enum { CROWD = 100 };
    nng_socket peers[CROWD];
    Performer__Request request = PERFORMER__REQUEST__INIT;
    Performer__Ping body = PERFORMER__PING__INIT;
    request.body_case = PERFORMER__REQUEST__BODY_PING;
    request.ping = &body;
    uint8_t *bytes;
    size_t length;
    cr_assert_eq(wire_pack_request(&request, &bytes, &length), ST_OK);
    for (int i = 0; i < CROWD; i++) {
        cr_assert_eq(nng_req0_open(&peers[i]), 0);
        cr_assert_eq(nng_dial(peers[i], url, NULL, 0), 0);
        cr_assert_eq(nng_socket_set_ms(peers[i], NNG_OPT_RECVTIMEO, 20000), 0);
        cr_assert_eq(nng_send(peers[i], bytes, length, 0), 0);
    }
    for (int i = 0; i < CROWD; i++) {
        char *answered;
        size_t size;
        cr_assert_eq(nng_recv(peers[i], &answered, &size, NNG_FLAG_ALLOC), 0, "peer %d", i);
        nng_free(answered, size);
        nng_close(peers[i]);
    }
    free(bytes);
    cr_assert_eq(atomic_load(&handled), CROWD);
}

Test(endpoint, the_socket_is_its_owners_alone)
{
    struct stat stat_;
    cr_assert_eq(stat(scratch_path(&scratch, "socket"), &stat_), 0);
    cr_assert(S_ISSOCK(stat_.st_mode));
    cr_assert_eq(stat_.st_mode & 0777, 0600);
}

Test(endpoint, random_bytes_cost_a_count)
{
    for (int i = 0; i < 50; i++) {
        unsigned char noise[64];
        srand((unsigned)i + 1);
        for (size_t k = 0; k < sizeof noise; k++) noise[k] = (unsigned char)(rand() >> 7);
        noise[0] = 0xff; /* not by chance the right greeting */
        int peer = connect_raw();
        send_raw(peer, noise, sizeof noise);
        usleep(2000);
        close(peer);
    }
    ping();
    rejected_reaches(1);
}

/* nng before 2.0 has no limit of its own, and would reserve all that is claimed. */
Test(endpoint, oversized_frames_cost_a_count_and_no_memory)
{
    ping();
    long before_kib = virtual_kib();
    int peers[4];
    for (int i = 0; i < 4; i++) {
        peers[i] = connect_raw();
        send_claim(peers[i], UINT64_C(4) << 30);
        ping(); /* others are served meanwhile */
    }
    rejected_reaches(4);
    cr_assert_lt(virtual_kib() - before_kib, 256 * 1024);
    for (int i = 0; i < 4; i++) close(peers[i]);
}

Test(endpoint, half_a_frame_holds_nobody_up)
{
    int peers[40];
    for (int i = 0; i < 40; i++) {
        peers[i] = connect_raw();
        send_claim(peers[i], 1000);
        send_raw(peers[i], "abc", 3);
    }
    ping();
    for (int i = 0; i < 40; i++) close(peers[i]);
    rejected_reaches(40);
}

/* More strangers than there may be. */
Test(endpoint, a_crowd_that_greets_and_says_nothing_keeps_nobody_out)
{
    enum { CROWD = 300 };
    int peers[CROWD];
    for (int i = 0; i < CROWD; i++) {
        char greeting[8];
        peers[i] = connect_raw();
        send_raw(peers[i], "\0SP\0\0\x30\0\0", 8);
        cr_assert_eq(recv(peers[i], greeting, sizeof greeting, MSG_WAITALL), 8, "peer %d", i);
    }
    for (int i = 0; i < 5; i++) ping();
    rejected_reaches(CROWD - 256);
    for (int i = 0; i < CROWD; i++) close(peers[i]);
}

/* nng 1.5 went deaf here: see sendmsg in endpoint.c. */
Test(endpoint, peers_that_leave_before_the_greeting_do_not_deafen_it)
{
    for (int i = 0; i < 10; i++) {
        close(connect_raw());
        usleep(120000); /* beyond nng's pause after a failure, in which it would not notice */
    }
    for (int i = 0; i < 300; i++) close(connect_raw());
    for (int i = 0; i < 5; i++) ping();
}

static nng_socket connect_req(void)
{
    nng_socket peer;
    cr_assert_eq(nng_req0_open(&peer), 0);
    cr_assert_eq(nng_socket_set_ms(peer, NNG_OPT_REQ_RESENDTIME, NNG_DURATION_INFINITE), 0);
    cr_assert_eq(nng_dial(peer, url, NULL, 0), 0);
    cr_assert_eq(nng_socket_set_ms(peer, NNG_OPT_RECVTIMEO, 10000), 0);
    return peer;
}

static void send_ping(nng_socket peer, const char *token)
{
    Performer__Request request = PERFORMER__REQUEST__INIT;
    Performer__Ping body = PERFORMER__PING__INIT;
    uint8_t *bytes;
    size_t length;
    request.body_case = PERFORMER__REQUEST__BODY_PING;
    request.ping = &body;
    request.token = (char *)token;
    cr_assert_eq(wire_pack_request(&request, &bytes, &length), ST_OK);
    cr_assert_eq(nng_send(peer, bytes, length, 0), 0);
    free(bytes);
}

static void expect_answer(nng_socket peer, enum status expected)
{
    char *answered;
    size_t size;
    struct fault fault;
    Performer__Response *response;
    cr_assert_eq(nng_recv(peer, &answered, &size, NNG_FLAG_ALLOC), 0);
    cr_assert_eq(wire_unpack_response((uint8_t *)answered, size, &response, &fault), ST_OK);
    cr_expect_eq(response->status, expected, "%s", response->text);
    performer__response__free_unpacked(response, NULL);
    nng_free(answered, size);
}

Test(endpoint, who_is_not_known_hears_one_sentence_whatever_was_asked)
{
    nng_socket peer = connect_req();
    send_ping(peer, "wrong");
    expect_answer(peer, ST_NOT_PERMITTED);
    cr_assert_eq(atomic_load(&handled), 0);
    send_ping(peer, ""); /* a second try, with a better proof */
    expect_answer(peer, ST_OK);
    nng_close(peer);
    cr_assert_eq(atomic_load(&handled), 1);
}

/* It could be anybody: not even that it is no request is said. */
Test(endpoint, what_cannot_be_read_from_a_stranger_ends_its_connection)
{
    nng_socket peer = connect_req();
    char *answered;
    size_t size;
    cr_assert_eq(nng_send(peer, "\xff\xff\xff\xff", 4, 0), 0);
    cr_assert_eq(nng_recv(peer, &answered, &size, NNG_FLAG_ALLOC), NNG_ECONNRESET);
    nng_close(peer);
    rejected_reaches(1);
    cr_assert_gt(atomic_load(&handled), 0, "others were answered");
}

static bool is_closed_within(int peer, int ms)
{
    char byte;
    const struct timeval limit = {ms / 1000, ms % 1000 * 1000};
    setsockopt(peer, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    ssize_t got;
    while ((got = recv(peer, &byte, 1, 0)) > 0) continue;
    return got == 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
}

Test(endpoint, who_says_nothing_or_drips_is_closed_in_time)
{
    nng_socket proven = connect_req();
    send_ping(proven, "");
    expect_answer(proven, ST_OK);
    int silent = connect_raw(), slow = connect_raw();
    send_raw(silent, "\0SP\0\0\x30\0\0", 8);
    send_claim(slow, 1000);
    for (int i = 0; i < 4; i++) { /* one byte now and then */
        send_raw(slow, "x", 1);
        ping();
        usleep(100000);
    }
    cr_assert(is_closed_within(silent, 10000));
    cr_assert(is_closed_within(slow, 10000));
    close(silent);
    close(slow);
    send_ping(proven, ""); /* who has proven itself may rest for as long as it likes */
    expect_answer(proven, ST_OK);
    nng_close(proven);
}

/* A REQ socket sends one at a time; this peer does not wait for answers. */
Test(endpoint, a_flood_over_one_connection_holds_nobody_up)
{
    Performer__Request request = PERFORMER__REQUEST__INIT;
    Performer__Ping body = PERFORMER__PING__INIT;
    uint8_t *bytes;
    size_t length;
    request.body_case = PERFORMER__REQUEST__BODY_PING;
    request.ping = &body;
    cr_assert_eq(wire_pack_request(&request, &bytes, &length), ST_OK);
    unsigned char frame[256] = {1};
    cr_assert_leq(length, sizeof frame - 13);
    frame[8] = (unsigned char)(4 + length);
    memcpy(frame + 9, "\x80\0\0\1", 4);
    memcpy(frame + 13, bytes, length);
    free(bytes);
    int peer = connect_raw();
    send_raw(peer, "\0SP\0\0\x30\0\0", 8);
    fcntl(peer, F_SETFL, O_NONBLOCK);
    for (int round = 0; round < 200; round++) {
        for (int i = 0; i < 100; i++) (void)!send(peer, frame, 13 + length, MSG_NOSIGNAL);
        if (round % 20 == 0) ping();
    }
    close(peer);
    ping();
}

Test(endpoint, a_token_can_be_guessed_a_few_times_only)
{
    nng_socket peer = connect_req();
    for (int i = 0; i < 4; i++) {
        send_ping(peer, "wrong");
        expect_answer(peer, ST_NOT_PERMITTED);
    }
    char *answered;
    size_t size;
    send_ping(peer, "wrong");
    cr_assert_eq(nng_recv(peer, &answered, &size, NNG_FLAG_ALLOC), NNG_ECONNRESET);
    nng_close(peer);
    ping();
}

/* Beyond its share the connection that has been quiet for the longest makes room: its client connects again, and is answered
 * too. */
Test(endpoint, a_peer_with_many_connections_keeps_none_of_its_clients_out)
{
    enum { CROWD = 310 };
    static nng_socket crowd[CROWD];
    int open = 0;
    for (int i = 0; i < CROWD; i++) {
        cr_assert_eq(nng_req0_open(&crowd[i]), 0);
        cr_assert_eq(nng_socket_set_ms(crowd[i], NNG_OPT_RECVTIMEO, 2000), 0);
        if (nng_dial(crowd[i], url, NULL, 0) != 0) break;
        send_ping(crowd[i], "");
        char *answered;
        size_t size;
        if (nng_recv(crowd[i], &answered, &size, NNG_FLAG_ALLOC) != 0) break;
        nng_free(answered, size);
        open++;
    }
    cr_assert_eq(open, CROWD);
    send_ping(crowd[0], "");
    expect_answer(crowd[0], ST_OK);
    ping();
    for (int i = 0; i < open; i++) nng_close(crowd[i]);
}

static void expect_refused(const void *bytes, size_t length, enum status expected)
{
    nng_socket peer = connect_req();
    char *answered;
    size_t size;
    struct fault fault;
    send_ping(peer, ""); /* it proves who asks */
    expect_answer(peer, ST_OK);
    cr_assert_eq(nng_send(peer, (void *)bytes, length, 0), 0);
    cr_assert_eq(nng_recv(peer, &answered, &size, NNG_FLAG_ALLOC), 0);
    Performer__Response *response;
    cr_assert_eq(wire_unpack_response((uint8_t *)answered, size, &response, &fault), ST_OK);
    cr_expect_eq(response->status, expected, "%s", response->text);
    cr_expect_neq(response->text[0], '\0');
    performer__response__free_unpacked(response, NULL);
    nng_free(answered, size);
    nng_close(peer);
}

Test(endpoint, frames_that_are_no_requests_are_told_so)
{
    expect_refused("\xff\xff\xff\xff", 4, ST_CORRUPT);
    expect_refused("", 0, ST_UNSUPPORTED);               /* no version, no body */
    expect_refused("\x08\x63\x12\0", 4, ST_UNSUPPORTED); /* version 99 */
    expect_refused("\x08\x01", 2, ST_UNSUPPORTED);       /* no body */
    cr_assert_eq(atomic_load(&handled), 4, "but for what proved who asked");
    cr_assert_eq(ping(), 4);
}

Test(endpoint, a_second_one_on_the_same_socket_is_refused)
{
    struct endpoint *second;
    struct fault fault;
    uv_loop_t other;
    cr_assert_eq(uv_loop_init(&other), 0);
    cr_assert_eq(endpoint_open(&other, &service, &second, &fault), ST_OK);
    cr_assert_eq(endpoint_listen(second, url, NULL, &fault), ST_BUSY);
    cr_assert_not_null(strstr(fault.text, "another process listens there"));
    endpoint_close(second);
    uv_run(&other, UV_RUN_DEFAULT);
    cr_assert_eq(uv_loop_close(&other), 0);
    ping();
}

Test(endpoint, urls_that_are_refused)
{
    static const struct {
        const char *url;
        enum status status;
        const char *word;
    } rows[] = {
        {"tcp://127.0.0.1:5000", ST_UNSUPPORTED, "any user of this machine"},
        {"tls+tcp://127.0.0.1:5000", ST_INVALID, "--token-file"},
        {"ipc:///tmp/performerd.sock", ST_NOT_PERMITTED, "mode 0700"},
        {"ws://x", ST_UNSUPPORTED, "ipc:///PATH"},
        {"/run/x.sock", ST_UNSUPPORTED, "ipc:///PATH"},
        {"ipc://relative", ST_INVALID, "whole path"},
        {"ipc:///nowhere/at/all/socket", ST_NOT_FOUND, "/nowhere/at/all"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct fault fault;
        enum status status = endpoint_listen(endpoint, rows[i].url, NULL, &fault);
        cr_expect_eq(status, rows[i].status, "%s: %s", rows[i].url, fault.text);
        cr_expect_not_null(strstr(fault.text, rows[i].word), "%s", fault.text);
    }
}
