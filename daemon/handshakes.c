#include "daemon/handshakes.h"

#include "daemon/clock.h"
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

struct handshake {
    int socket;
    struct tcp_peer peer;
    uint64_t since_ms;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct handshake handshakes[HANDSHAKES_MAX]; /* (count), oldest first; under the mutex */
static int count;

/* False: it has none, for it is no TCP connection, or has ended. */
static bool peer_of(int socket, struct tcp_peer *peer)
{
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    if (getpeername(socket, (struct sockaddr *)&address, &length) != 0) return false;
    *peer = (struct tcp_peer){.family = address.ss_family};
    if (address.ss_family == AF_INET) {
        const struct sockaddr_in *inet = (const struct sockaddr_in *)&address;
        memcpy(peer->address, &inet->sin_addr, sizeof inet->sin_addr);
        peer->port = inet->sin_port;
    } else if (address.ss_family == AF_INET6) {
        const struct sockaddr_in6 *inet6 = (const struct sockaddr_in6 *)&address;
        memcpy(peer->address, &inet6->sin6_addr, sizeof inet6->sin6_addr);
        peer->port = inet6->sin6_port;
    }
    return peer->port != 0;
}

static bool is_same(const struct tcp_peer *a, const struct tcp_peer *b)
{
    return a->family == b->family && a->port == b->port &&
           memcmp(a->address, b->address, sizeof a->address) == 0;
}

/* Under the mutex; the others stay in order of age. */
static void forget(int place)
{
    count--;
    memmove(&handshakes[place], &handshakes[place + 1],
            (size_t)(count - place) * sizeof handshakes[0]);
}

/* Under the mutex. nng, which owns the socket, sees its end and closes it. */
static void end_oldest(void)
{
    struct tcp_peer peer;
    if (peer_of(handshakes[0].socket, &peer) && is_same(&peer, &handshakes[0].peer))
        shutdown(handshakes[0].socket, SHUT_RDWR);
    forget(0);
}

static void handshake_begins(int socket)
{
    struct handshake handshake = {.socket = socket, .since_ms = clock_now_ms()};
    if (!peer_of(socket, &handshake.peer)) return;
    pthread_mutex_lock(&mutex);
    if (count == HANDSHAKES_MAX) end_oldest();
    handshakes[count++] = handshake;
    pthread_mutex_unlock(&mutex);
}

/* In performerd, and wherever this file is linked, nng calls this one: a definition in the program comes before those of
 * shared libraries, libc's and the sanitizers' among them. */
__attribute__((visibility("default"))) int accept(int socket, __SOCKADDR_ARG address,
                                                  socklen_t *restrict length)
{
    int accepted = (int)syscall(SYS_accept, socket, address.__sockaddr__, length);
    if (accepted >= 0) handshake_begins(accepted);
    return accepted;
}

void handshakes_done(const struct tcp_peer *peer)
{
    pthread_mutex_lock(&mutex);
    for (int i = count; i-- > 0;)
        if (is_same(&handshakes[i].peer, peer)) forget(i);
    pthread_mutex_unlock(&mutex);
}

int handshakes_expire(uint64_t now_ms)
{
    int ended = 0;
    pthread_mutex_lock(&mutex);
    for (; count > 0 && now_ms - handshakes[0].since_ms >= HANDSHAKE_MS; ended++) end_oldest();
    pthread_mutex_unlock(&mutex);
    return ended;
}
