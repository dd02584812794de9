#ifndef TESTS_SIM_WORLD_H
#define TESTS_SIM_WORLD_H

/*
 * One simulated world at a time: its chance, its clocks, what will happen when, and how bad the weather is. The
 * product's code runs in it as it is; what it asks of the machine is answered here, where the linker puts __wrap_NAME
 * in the place of NAME (CMakeLists.txt has the list).
 *
 * The daemon dies like this: from its last deed on, nothing that it does reaches the world any more: no write, no
 * launch, no answer. Its code comes to its end by itself, is cleared away, and a new daemon starts from the disk.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/sim/chance.h"

/* How often things go wrong, of thousand, while the storm lasts; drawn for each history, most are 0 in most. */
struct weather {
    unsigned message_lost, message_doubled, message_slow;
    unsigned launch_fails, launcher_slow, start_fails;
    unsigned checkpoint_spoilt, checkpoint_deadly;
    unsigned diverges; /* at a step, with some features; the same whenever it is done again */
    unsigned sbatch_refuses;
    /* and each second */
    unsigned rank_dies, rank_hangs, rank_fails, launcher_dies;
    unsigned daemon_dies, power_fails, disk_fills, sync_fails, clock_jumps;
    unsigned slurm_silent, job_ends;
    unsigned act, fork;
};

struct world {
    uint64_t seed;
    struct chance chance;
    struct weather weather;
    bool calm; /* nothing goes wrong any more */
    bool trace;
    uint64_t now_ms;  /* since the history began */
    uint64_t boot_ms; /* when the machine was last started: the monotonic clock counts from there */
    int64_t wall_offset_ms; /* of the clock on the wall */
    bool disk_full;
    bool sync_fails; /* the next one */

    /* the daemon */
    bool reaching_out;   /* its code runs */
    bool dead;           /* and reaches nobody */
    uint64_t deeds_left; /* until it dies; 0: it does not die of that */
    bool sync_failed;    /* since it started: it commits nothing more */
    /* One has failed: the kernel holds for written what is not, and SQLite cannot know. A power cut later on is one
     * fault too many. */
    bool disk_lies;

    struct block *blocks; /* memory */
};

extern struct world world;

/* Something that will happen: `act(what, stamp)`; the stamp tells whether it is still of interest. */
typedef void world_act(void *what, uint64_t stamp);
void world_in(uint64_t delay_ms, world_act *act, void *what, uint64_t stamp);

/* Lets the next thing happen. False: it lies behind `until_ms`, or there is none; the time is `until_ms` then. */
bool world_step(uint64_t until_ms);

void world_begin(uint64_t seed);
void world_end(void);

/* Zeroed memory that lasts as long as the world. */
void *world_memory(size_t bytes);
void *world_copy(const void *bytes, size_t length);

/* True while the weather lets it happen: `per_mille` of thousand times, never in the calm. */
bool world_strikes(unsigned per_mille);

/* Before each deed of the daemon. False: it is dead, and the deed does not happen. */
bool world_reach_out(void);
bool world_sync_fails(void);

uint64_t world_wall_ms(void);

void world_trace(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* What must never be was seen. The history ends here, and with it the process. */
_Noreturn void world_violation(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Told of the words of a violation, before the process ends. */
extern void (*world_violated)(const char *words);

#endif
