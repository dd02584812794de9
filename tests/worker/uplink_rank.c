/* A rank that tells 500 steps and then hangs until it is killed: uplink_rank DIRECTORY, with PERFORMERD_URL. */

#include <stdio.h>
#include <unistd.h>

#include "worker/uplink.h"

int main(int argc, char **argv)
{
    if (argc != 2) return 2;
    Performer__Plan plan = PERFORMER__PLAN__INIT;
    plan.run = "r7";
    plan.attempt = 2;
    plan.nonce = "abc";
    plan.directory = argv[1];
    struct uplink *uplink;
    struct fault fault;
    if (uplink_open(&plan, 1, &uplink, &fault) != ST_OK) {
        fprintf(stderr, "%s\n", fault.text);
        return 1;
    }
    for (uint64_t step = 1; step <= 500; step++) {
        uplink_metric(uplink, step, "loss", (double)step / 3);
        uplink_metric(uplink, step, "lr", 1e-3);
    }
    for (;;) pause();
}
