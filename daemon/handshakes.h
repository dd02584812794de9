#ifndef DAEMON_HANDSHAKES_H
#define DAEMON_HANDSHAKES_H

/*
 * Connections from the network that nng has accepted and not made a pipe of yet. nng 1.5 waits for a TLS handshake for ever,
 * tells nobody of it, and has no limit on how many there are; so handshakes.c takes the place of libc's accept, keeps a list,
 * and ends what is too old or too many. A socket is known by its descriptor and its peer's address together, so one that has
 * been closed, and whose number is somebody else's by now, is left alone.
 */

#include <netinet/in.h>
#include <stdint.h>

enum { HANDSHAKES_MAX = 256, HANDSHAKE_MS = 5000 };

/* The other end of a TCP connection; unused bytes are 0. */
struct tcp_peer {
    int family;
    uint8_t address[16]; /* 4 of them for IPv4 */
    in_port_t port;      /* in network order */
};

/* It has become a pipe. Any thread. */
void handshakes_done(const struct tcp_peer *peer);

/* Ends those whose time is up. Any thread. Returns how many. */
int handshakes_expire(uint64_t now_ms);

#endif
