#ifndef DAEMON_CONNECTIONS_H
#define DAEMON_CONNECTIONS_H

/*
 * The connections there are, and how many of what kind there may be. One is a stranger until a request over it has proven
 * who asks; a stranger has a deadline, and where there are too many the oldest makes room, so that a crowd which says
 * nothing keeps nobody out. Where one peer has too many, that of its own which has been quiet for the longest makes room: whoever
 * is there will connect again. No I/O and no clock: it says what is to be closed. Not for two threads at once.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/access.h"

struct connection_limits {
    size_t total;
    size_t of_peer; /* one uid, or one address */
    size_t strangers;
    uint32_t stranger_ms; /* the time that one has */
    uint32_t requests;    /* of one connection, that are not answered */
    uint32_t tries;       /* requests of a stranger, in its life */
};

struct connections;

/* NULL: out of memory. */
struct connections *connections_new(const struct connection_limits *limits);
void connections_free(struct connections *connections);

/* A new stranger; ids are not 0. ST_BUSY: there is no room for it, close it; `*left` is then 0. On ST_OK `*left` is 0, or the
 * one that made room and is forgotten: close it. ST_NO_MEMORY. */
enum status connections_add(struct connections *connections, uint32_t id, const struct peer *peer,
                            uint64_t now_ms, uint32_t *left);

/* It has ended. True: as a stranger. Unknown ids are ignored. */
bool connections_remove(struct connections *connections, uint32_t id);

/* False: it is none, or has ended. */
bool connections_peer(const struct connections *connections, uint32_t id, struct peer *peer);

/* A request of it begins, and ends when its answer is taken. False: it has as many as it may, or a stranger has had its
 * tries; such a request must not be ended. */
bool connections_begin(struct connections *connections, uint32_t id);
void connections_end(struct connections *connections, uint32_t id);

/* A request has proven who asks: it is no stranger from now on. */
void connections_prove(struct connections *connections, uint32_t id);
bool connections_proven(const struct connections *connections, uint32_t id);

/* A stranger whose time is up, which is forgotten: close it. 0: none. */
uint32_t connections_overdue(struct connections *connections, uint64_t now_ms);

#endif
