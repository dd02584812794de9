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
    struct connection *older, *younger; /* in the line that it stands in */
};

struct line {
    struct connection *oldest, *youngest;
    size_t count;
};

struct connections {
    struct connection_limits limits;
    struct connection *buckets[BUCKETS];
    struct line strangers; /* by age */
    struct line proven;    /* by when they last asked */
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

/* ---- lines ---- */

static void line_append(struct line *line, struct connection *one)
{
    one->older = line->youngest;
    one->younger = NULL;
    *(one->older ? &one->older->younger : &line->oldest) = one;
    line->youngest = one;
    line->count++;
}

static void line_unlink(struct line *line, struct connection *one)
{
    *(one->older ? &one->older->younger : &line->oldest) = one->younger;
    *(one->younger ? &one->younger->older : &line->youngest) = one->older;
    line->count--;
}

static struct line *line_of(struct connections *connections, const struct connection *one)
{
    return one->proven ? &connections->proven : &connections->strangers;
}

/* The one of that peer that has asked for the longest time nothing, and waits for no answer. */
static const struct connection *quietest_of_peer(const struct connections *connections,
                                                 const struct peer *peer)
{
    const struct connection *one = connections->proven.oldest;
    while (one && (one->requests > 0 || strcmp(one->peer.name, peer->name) != 0))
        one = one->younger;
    return one;
}

/* ---- all of them ---- */

/* Who is to make room for one more of that peer; NULL: nobody need or nobody can, `*room` says which. */
static const struct connection *who_makes_room(const struct connections *connections,
                                               const struct peer *peer, bool *room)
{
    const struct connection_limits *limits = &connections->limits;
    const struct connection *one = NULL;
    const size_t count = connections->strangers.count + connections->proven.count;
    const bool has_share = count_of_peer(connections, peer) >= limits->of_peer;
    const bool crowded = connections->strangers.count >= limits->strangers;
    const bool full = count >= limits->total || crowded;
    if (has_share)
        one = quietest_of_peer(connections, peer);
    else if (full)
        one = connections->strangers.oldest;
    if (one && one->proven && crowded) one = NULL; /* who comes is one stranger more */
    *room = one || (!has_share && !full);
    return one;
}

enum status connections_add(struct connections *connections, uint32_t id, const struct peer *peer,
                            uint64_t now_ms, uint32_t *left)
{
    bool room;
    *left = 0;
    const struct connection *leaves = who_makes_room(connections, peer, &room);
    if (!room) return ST_BUSY;
    struct connection *one = calloc(1, sizeof *one);
    if (!one) return ST_NO_MEMORY;
    if (leaves) {
        *left = leaves->id;
        connections_remove(connections, *left);
    }
    *one = (struct connection){
        .id = id, .peer = *peer, .since_ms = now_ms, .next = connections->buckets[id % BUCKETS]};
    connections->buckets[id % BUCKETS] = one;
    line_append(&connections->strangers, one);
    return ST_OK;
}

bool connections_remove(struct connections *connections, uint32_t id)
{
    struct connection **link = &connections->buckets[id % BUCKETS];
    while (*link && (*link)->id != id) link = &(*link)->next;
    struct connection *one = *link;
    if (!one) return false;
    bool stranger = !one->proven;
    line_unlink(line_of(connections, one), one);
    *link = one->next;
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
    struct line *line = line_of(connections, one);
    if (line == &connections->proven) {
        line_unlink(line, one);
        line_append(line, one);
    }
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
    line_unlink(&connections->strangers, one);
    one->proven = true;
    line_append(&connections->proven, one);
}

bool connections_proven(const struct connections *connections, uint32_t id)
{
    const struct connection *one = find(connections, id);
    return one && one->proven;
}

uint32_t connections_overdue(struct connections *connections, uint64_t now_ms)
{
    const struct connection *oldest = connections->strangers.oldest;
    if (!oldest || now_ms - oldest->since_ms < connections->limits.stranger_ms) return 0;
    uint32_t id = oldest->id;
    connections_remove(connections, id);
    return id;
}
