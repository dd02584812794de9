#include "daemon/connections.h"

#include <criterion/criterion.h>
#include <stdio.h>

static struct connections *connections;
static const struct connection_limits limits = {
    .total = 6, .of_peer = 4, .strangers = 3, .stranger_ms = 1000, .requests = 2, .tries = 3};

static void setup(void)
{
    connections = connections_new(&limits);
}

static void teardown(void)
{
    connections_free(connections);
}

TestSuite(connections, .init = setup, .fini = teardown);

/* The id of who made room; -1: refused. */
static int add(uint32_t id, const char *name, uint64_t now_ms)
{
    struct peer peer = {.name = ""};
    uint32_t oldest = 99;
    snprintf(peer.name, sizeof peer.name, "%s", name);
    enum status status = connections_add(connections, id, &peer, now_ms, &oldest);
    if (status == ST_OK) return (int)oldest;
    cr_assert_eq(status, ST_BUSY);
    cr_assert_eq(oldest, 0);
    return -1;
}

Test(connections, the_oldest_stranger_makes_room)
{
    cr_assert_eq(add(1, "a", 0), 0);
    cr_assert_eq(add(2, "b", 0), 0);
    cr_assert_eq(add(3, "c", 0), 0);
    connections_prove(connections, 1);
    cr_assert_eq(add(4, "d", 0), 0);
    cr_assert_eq(add(5, "e", 0), 2, "the first has proven itself");
    cr_assert_eq(add(6, "f", 0), 3);
    struct peer peer;
    cr_assert_not(connections_peer(connections, 3, &peer));
    cr_assert(connections_peer(connections, 6, &peer));
    cr_assert_str_eq(peer.name, "f");
}

Test(connections, total_is_never_passed)
{
    for (uint32_t id = 1; id <= 6; id++) {
        char name[8];
        snprintf(name, sizeof name, "%u", id);
        cr_assert_eq(add(id, name, 0), 0);
        if (id < 6) connections_prove(connections, id);
    }
    cr_assert_eq(add(7, "7", 0), 6);
    connections_prove(connections, 7);
    cr_assert_eq(add(8, "8", 0), -1, "all have proven themselves");
    cr_assert_not(connections_remove(connections, 1));
    cr_assert_eq(add(8, "8", 0), 0);
}

Test(connections, a_peer_has_its_share)
{
    for (uint32_t id = 1; id <= 4; id++) {
        cr_assert_eq(add(id, "a", 0), 0);
        connections_prove(connections, id);
    }
    cr_assert_eq(add(5, "b", 0), 0);
    connections_prove(connections, 5);
    connections_remove(connections, 2);
    cr_assert_eq(add(6, "a", 0), 0);
}

/* The first has asked again since, and the third waits for its answer. */
Test(connections, a_peer_that_has_its_share_gives_up_its_quietest)
{
    cr_assert_eq(add(9, "b", 0), 0);
    connections_prove(connections, 9);
    for (uint32_t id = 1; id <= 4; id++) {
        cr_assert_eq(add(id, "a", 0), 0);
        connections_prove(connections, id);
    }
    cr_assert(connections_begin(connections, 3));
    cr_assert(connections_begin(connections, 1));
    connections_end(connections, 1);
    cr_assert_eq(add(5, "a", 0), 2);
    connections_prove(connections, 5);
    cr_assert_eq(add(6, "a", 0), 4);
    connections_prove(connections, 6);
    for (uint32_t id = 1; id <= 6; id++) connections_begin(connections, id);
    cr_assert_eq(add(7, "a", 0), -1, "all of its wait for answers");
    cr_assert(connections_proven(connections, 9), "another's made room");
}

/* Of three proven and a stranger none makes room for a stranger more, where there are as many as may be. */
Test(connections, a_peer_that_has_its_share_adds_no_stranger_to_a_crowd)
{
    for (uint32_t id = 1; id <= 4; id++) {
        cr_assert_eq(add(id, "a", 0), 0);
        if (id < 4) connections_prove(connections, id);
    }
    cr_assert_eq(add(5, "b", 0), 0);
    cr_assert_eq(add(6, "c", 0), 0);
    cr_assert_eq(add(7, "a", 0), -1);
    connections_remove(connections, 6);
    cr_assert_eq(add(7, "a", 0), 1);
}

Test(connections, requests_at_once)
{
    add(1, "a", 0);
    connections_prove(connections, 1);
    cr_assert(connections_begin(connections, 1));
    cr_assert(connections_begin(connections, 1));
    cr_assert_not(connections_begin(connections, 1));
    connections_end(connections, 1);
    cr_assert(connections_begin(connections, 1));
    cr_assert_not(connections_begin(connections, 2), "there is no such");
    connections_remove(connections, 1);
    connections_end(connections, 1);
}

Test(connections, strangers_have_a_few_tries)
{
    add(1, "a", 0);
    for (int i = 0; i < 3; i++) {
        cr_assert(connections_begin(connections, 1));
        connections_end(connections, 1);
    }
    cr_assert_not(connections_begin(connections, 1));
    connections_prove(connections, 1);
    cr_assert(connections_begin(connections, 1));
}

Test(connections, strangers_have_a_deadline)
{
    add(1, "a", 0);
    add(2, "b", 500);
    add(3, "c", 600);
    connections_prove(connections, 1);
    cr_assert_eq(connections_overdue(connections, 1499), 0);
    cr_assert_eq(connections_overdue(connections, 1500), 2);
    cr_assert_eq(connections_overdue(connections, 1500), 0);
    cr_assert(connections_remove(connections, 3), "it ended as a stranger");
    cr_assert_not(connections_remove(connections, 2), "it was forgotten");
    cr_assert_eq(connections_overdue(connections, 99999), 0);
    cr_assert(connections_proven(connections, 1));
}
