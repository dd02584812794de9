#include "daemon/connections.h"

#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 1024 };

struct connection {
    uint32_t id;
    struct peer peer;
    bool proven;
    uint32_t requests; /* that are not answered */
    uint32_t tries;    /* as a stranger */
    uint64_t since_ms;
    struct connection *next;            /* in its bucket */
    struct connection *older, *younger; /* strangers, by age */
};

struct connections {
    struct connection_limits limits;
    struct connection *buckets[BUCKETS];
    struct connection *oldest, *youngest; /* strangers */
    size_t count, strangers;
};

struct connections *connections_new(const struct connection_limits *limits)
{
    struct connections *connections = calloc(1, sizeof *connections);
    if (connections) connections->limits = *limits;
    return connections;
}

void connections_free(struct connections *connections)
{
    if (!connections) return;
    for (int i = 0; i < BUCKETS; i++)
        for (struct connection *next, *one = connections->buckets[i]; one; one = next) {
            next = one->next;
            free(one);
        }
    free(connections);
}

static struct connection *find(const struct connections *connections, uint32_t id)
{
    struct connection *one = connections->buckets[id % BUCKETS];
    while (one && one->id != id) one = one->next;
    return one;
}

static size_t count_of_peer(const struct connections *connections, const struct peer *peer)
{
    size_t count = 0;
    for (int i = 0; i < BUCKETS; i++)
        for (const struct connection *one = connections->buckets[i]; one; one = one->next)
            count += strcmp(one->peer.name, peer->name) == 0;
    return count;
}

/* ---- strangers ---- */

static void stranger_append(struct connections *connections, struct connection *one)
{
    one->older = connections->youngest;
    *(one->older ? &one->older->younger : &connections->oldest) = one;
    connections->youngest = one;
    connections->strangers++;
}

static void stranger_unlink(struct connections *connections, struct connection *one)
{
    *(one->older ? &one->older->younger : &connections->oldest) = one->younger;
    *(one->younger ? &one->younger->older : &connections->youngest) = one->older;
    connections->strangers--;
}

/* ---- all of them ---- */

enum status connections_add(struct connections *connections, uint32_t id, const struct peer *peer,
                            uint64_t now_ms, uint32_t *oldest)
{
    const struct connection_limits *limits = &connections->limits;
    *oldest = 0;
    if (count_of_peer(connections, peer) >= limits->of_peer) return ST_BUSY;
    bool full = connections->count >= limits->total || connections->strangers >= limits->strangers;
    if (full && !connections->oldest) return ST_BUSY;
    struct connection *one = calloc(1, sizeof *one);
    if (!one) return ST_NO_MEMORY;
    if (full) {
        *oldest = connections->oldest->id;
        connections_remove(connections, *oldest);
    }
    *one = (struct connection){
        .id = id, .peer = *peer, .since_ms = now_ms, .next = connections->buckets[id % BUCKETS]};
    connections->buckets[id % BUCKETS] = one;
    connections->count++;
    stranger_append(connections, one);
    return ST_OK;
}

bool connections_remove(struct connections *connections, uint32_t id)
{
    struct connection **link = &connections->buckets[id % BUCKETS];
    while (*link && (*link)->id != id) link = &(*link)->next;
    struct connection *one = *link;
    if (!one) return false;
    bool stranger = !one->proven;
    if (stranger) stranger_unlink(connections, one);
    *link = one->next;
    connections->count--;
    free(one);
    return stranger;
}

bool connections_peer(const struct connections *connections, uint32_t id, struct peer *peer)
{
    const struct connection *one = find(connections, id);
    if (one) *peer = one->peer;
    return one;
}

bool connections_begin(struct connections *connections, uint32_t id)
{
    struct connection *one = find(connections, id);
    const struct connection_limits *limits = &connections->limits;
    if (!one || one->requests >= limits->requests) return false;
    if (!one->proven && one->tries++ >= limits->tries) return false;
    one->requests++;
    return true;
}

void connections_end(struct connections *connections, uint32_t id)
{
    struct connection *one = find(connections, id);
    if (one) one->requests--;
}

void connections_prove(struct connections *connections, uint32_t id)
{
    struct connection *one = find(connections, id);
    if (!one || one->proven) return;
    stranger_unlink(connections, one);
    one->proven = true;
}

bool connections_proven(const struct connections *connections, uint32_t id)
{
    const struct connection *one = find(connections, id);
    return one && one->proven;
}

uint32_t connections_overdue(struct connections *connections, uint64_t now_ms)
{
    const struct connection *oldest = connections->oldest;
    if (!oldest || now_ms - oldest->since_ms < connections->limits.stranger_ms) return 0;
    uint32_t id = oldest->id;
    connections_remove(connections, id);
    return id;
}
