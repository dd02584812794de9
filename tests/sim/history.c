#include "tests/sim/history.h"

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/sim/disk.h"
#include "tests/sim/gang.h"
#include "tests/sim/host.h"
#include "tests/sim/ledger.h"
#include "tests/sim/people.h"
#include "tests/sim/slurm.h"
#include "tests/sim/world.h"

enum {
    STORM_MS_MIN = 15000,
    STORM_MS_MAX = 60000,
    QUIET_MS = 5000,           /* a storm over nothing ends after it */
    CALM_MS_MAX = 1800 * 1000, /* in which every run must come to its end */
    FULL_MS_MAX = 20000,
    AWAY_MS_MAX = 20000,
    DAY_MS = 24 * 3600 * 1000,
    DEEDS_MAX = 60, /* of a daemon that is to die, at most */
};

static void make_database(void)
{
    struct store *store;
    struct fault fault;
    if (store_open("performerd.db", &store, &fault) != ST_OK) {
        fprintf(stderr, "no database: %s\n", fault.text);
        exit(EXIT_FAILURE);
    }
    store_close(store);
}

void histories_begin(void)
{
    jobs_make();
    disk_install();
    make_database();
    disk_keep();
}

void histories_end(void)
{
    jobs_free();
}

/* ---- the storm ---- */

/* Half of all dangers are absent from a history: what hides behind another shows then. */
static unsigned draw(unsigned per_mille_max)
{
    if (chance_below(&world.chance, 2) == 0) return 0;
    return (unsigned)chance_between(&world.chance, 1, per_mille_max);
}

static void draw_weather(struct weather *weather)
{
    *weather = (struct weather){
        .message_lost = draw(200),
        .message_doubled = draw(200),
        .message_slow = draw(200),
        .launch_fails = draw(300),
        .launcher_slow = draw(400),
        .start_fails = draw(300),
        .checkpoint_spoilt = draw(200),
        .checkpoint_deadly = draw(300),
        .diverges = draw(150),
        .rank_dies = draw(200),
        .rank_hangs = draw(100),
        .rank_fails = draw(20),
        .launcher_dies = draw(80),
        .daemon_dies = draw(200),
        .power_fails = draw(40),
        .disk_fills = draw(60),
        .sync_fails = draw(30),
        .clock_jumps = draw(30),
        .sbatch_refuses = draw(50),
        .slurm_silent = draw(60),
        .job_ends = draw(80),
        .act = draw(800),
        .fork = draw(100),
    };
}

static void disk_drains(void *what, uint64_t stamp)
{
    (void)what, (void)stamp;
    world.disk_full = false;
}

static void fill_disk(void)
{
    world_trace("the disk is full");
    world.disk_full = true;
    world_in(chance_between(&world.chance, 200, FULL_MS_MAX), disk_drains, NULL, 0);
}

static void jump_clock(void)
{
    world.wall_offset_ms += (int64_t)chance_below(&world.chance, 2 * DAY_MS) - DAY_MS;
    world_trace("the clock on the wall jumps");
}

/* At once, with a word, or in the middle of what it does next. */
static void end_daemon(void)
{
    uint64_t away_ms = chance_between(&world.chance, 50, AWAY_MS_MAX);
    switch (chance_below(&world.chance, 4)) {
    case 0:
        host_kill(away_ms);
        return;
    case 1:
        host_stop(away_ms);
        return;
    default:
        world.deeds_left = chance_between(&world.chance, 1, DEEDS_MAX);
    }
}

static void storm_blows(void *what, uint64_t stamp)
{
    const struct weather *weather = &world.weather;
    if (world.calm) return;
    if (world_strikes(weather->rank_dies)) gang_strike_rank_dies();
    if (world_strikes(weather->rank_hangs)) gang_strike_rank_hangs();
    if (world_strikes(weather->rank_fails)) gang_strike_rank_fails();
    if (world_strikes(weather->launcher_dies)) gang_strike_launcher_dies();
    if (world_strikes(weather->disk_fills)) fill_disk();
    if (world_strikes(weather->sync_fails)) world.sync_fails = true;
    if (world_strikes(weather->clock_jumps)) jump_clock();
    if (world_strikes(weather->daemon_dies)) end_daemon();
    if (!world.disk_lies && world_strikes(weather->power_fails))
        host_lose_power(chance_between(&world.chance, 50, AWAY_MS_MAX));
    if (world_strikes(weather->slurm_silent)) slurm_strike_silence();
    if (world_strikes(weather->job_ends)) slurm_strike_job_ends();
    if (world_strikes(weather->act)) people_strike_act();
    if (world_strikes(weather->fork)) people_strike_fork();
    world_in(chance_between(&world.chance, 500, 1500), storm_blows, what, stamp);
}

/* ---- from beginning to end ---- */

static int remove_one(const char *path, const struct stat *stat, int kind, struct FTW *place)
{
    (void)stat, (void)kind, (void)place;
    return remove(path);
}

static void clear_runs(void)
{
    if (nftw("runs", remove_one, 16, FTW_DEPTH | FTW_PHYS) != 0 && errno != ENOENT)
        world_violation("could not clear the files: %s", strerror(errno));
}

static bool something_goes_on(void)
{
    return people_wait() || !ledger_all_final() || gangs_live();
}

static void let_storm_blow(void)
{
    uint64_t until_ms = world.now_ms + chance_between(&world.chance, STORM_MS_MIN, STORM_MS_MAX);
    uint64_t busy_ms = world.now_ms;
    world_in(0, storm_blows, NULL, 0);
    while (world.now_ms - busy_ms < QUIET_MS && world_step(until_ms))
        if (something_goes_on()) busy_ms = world.now_ms;
}

static void let_calm_come(void)
{
    world_trace("calm");
    world.calm = true;
    host_recover();
    gangs_wake();
    slurm_recover();
    people_resume_paused();
}

static void let_all_end(void)
{
    uint64_t until_ms = world.now_ms + CALM_MS_MAX;
    while (!host.up || something_goes_on())
        if (!world_step(until_ms))
            world_violation("nothing goes wrong any more, and after %d s %s", CALM_MS_MAX / 1000,
                            people_wait()         ? "a submit is not answered"
                            : !ledger_all_final() ? "a run has not ended"
                                                  : "something of an attempt lives");
}

void history_tell(uint64_t seed)
{
    world_begin(seed);
    disk_reset();
    draw_weather(&world.weather);
    ledger_begin();
    gangs_begin();
    slurm_begin();
    host_begin();
    people_begin();
    let_storm_blow();
    let_calm_come();
    let_all_end();
    ledger_close(host.store);
    host_end();
    gangs_end();
    ledger_end();
    world_end();
    clear_runs();
}
