/*
 * Writes the plan of an attempt as a daemon would, and the fence.
 *
 * usage: write_plan RUN_DIRECTORY ATTEMPT NONCE RANKS [REDRAW_STEP...]; the redraws get the ids 101, 102, ...; the
 * checkpoint of step $SET_ASIDE, where that is set, is to be passed over, the run began from one of step $FIRST_STEP, and it
 * goes back to a step with other features: $REWIND is "STEP DRAW"
 */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/durable.h"
#include "proto/performer.pb-c.h"

enum { APPLIED_MAX = 8 };

static void must_write(const char *path, const void *bytes, size_t length)
{
    struct fault fault;
    if (durable_write(path, bytes, length, &fault) == ST_OK) return;
    fprintf(stderr, "write_plan: %s\n", fault.text);
    exit(EXIT_FAILURE);
}

int main(int argc, char **argv)
{
    if (argc < 5 || argc > 5 + APPLIED_MAX) return EXIT_FAILURE;
    Performer__AppliedOrder applied[APPLIED_MAX], *pointers[APPLIED_MAX];
    for (int i = 0; i < argc - 5; i++) {
        performer__applied_order__init(&applied[i]);
        applied[i].id = 101 + (uint64_t)i;
        applied[i].kind = PERFORMER__ORDER__KIND__REDRAW;
        applied[i].step = strtoull(argv[5 + i], NULL, 10);
        pointers[i] = &applied[i];
    }

    char path[4200];
    Performer__Plan plan = PERFORMER__PLAN__INIT;
    plan.run = "r1";
    plan.attempt = (uint32_t)atoi(argv[2]);
    plan.nonce = argv[3];
    plan.ranks = (uint32_t)atoi(argv[4]);
    plan.directory = argv[1];
    plan.n_applied = (size_t)(argc - 5);
    plan.applied = pointers;

    const char *aside = getenv("SET_ASIDE");
    uint64_t aside_step = aside ? strtoull(aside, NULL, 10) : 0;
    plan.n_set_aside = aside ? 1 : 0;
    plan.set_aside = &aside_step;

    const char *first_step = getenv("FIRST_STEP");
    if (first_step) plan.first_step = strtoull(first_step, NULL, 10);

    Performer__Rewind rewind = PERFORMER__REWIND__INIT, *rewinds[] = {&rewind};
    const char *back = getenv("REWIND");
    rewind.number = 1;
    if (back && sscanf(back, "%" SCNu64 " %" SCNu64, &rewind.step, &rewind.draw) != 2)
        return EXIT_FAILURE;
    plan.n_rewinds = back ? 1 : 0;
    plan.rewinds = rewinds;

    uint8_t bytes[8192];
    if (performer__plan__get_packed_size(&plan) > sizeof bytes) return EXIT_FAILURE;
    size_t length = performer__plan__pack(&plan, bytes);
    snprintf(path, sizeof path, "%s/attempt-%s", argv[1], argv[2]);
    if (make_directories(path, NULL) != ST_OK) return EXIT_FAILURE;
    snprintf(path, sizeof path, "%s/attempt-%s/plan", argv[1], argv[2]);
    must_write(path, bytes, length);
    snprintf(path, sizeof path, "%s/fence", argv[1]);
    must_write(path, argv[3], strlen(argv[3]));
    return EXIT_SUCCESS;
}
