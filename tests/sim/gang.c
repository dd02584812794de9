#include "tests/sim/gang.h"

#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/environment.h"
#include "daemon/memory.h"
#include "proto/durable.h"
#include "tests/sim/ledger.h"
#include "tests/sim/world.h"
#include "worker/outbox.h"
#include "worker/rewind.h"

enum {
    RANK_TICK_MS = 500,
    HEARTBEAT_MS = 1000,
    CALL_MS = 5000,
    BACK_OFF_MS_MIN = 200,
    BACK_OFF_MS_MAX_RANK = 5000,
    LAST_WORDS_MS = 3000,
    CHECKPOINTS_KEPT = 2,
    CHECKPOINTS_MAX = 64,
    HANDLED_MAX = 128,
    SLOW_LAUNCHER_MS_MAX = 40000,
    HANG_MS_MAX = 90000,
    LONG_PAUSE_MS = 20000,
    NEWS_MS_MAX = 15000, /* until the daemon hears that a pause is over */
};

struct gang;

struct rank {
    struct gang *gang;
    uint32_t number;
    bool alive, hung;
    bool silent; /* while it hangs: its uplink hangs as well */
    uint64_t hung_until_ms;
    /* the uplink */
    struct report_items items;
    struct outbox outbox;
    struct report_origin origin;
    Performer__Heartbeat heartbeat;
    bool fenced, silenced;
    struct wanted_order wanted[REPLY_ORDERS_MAX];
    int wanted_count;
    uint64_t told[HANDLED_MAX]; /* orders that it has told to be applied: not wanted any more */
    size_t told_count;
    uint64_t call, call_deadline_ms; /* the call under way; deadline 0: none */
    uint64_t retry_ms, back_off_ms, reported_ms;
    uint64_t close_deadline_ms; /* 0: not closing */
    enum status end_status;     /* what its own word of its end will say */
    bool end_stopped, end_written;
    bool settled;         /* its last words are in the spool and synced */
    size_t settled_bytes; /* of the spool */
};

struct gang {
    struct gang *next;
    uint64_t run;
    uint32_t attempt, rank_count;
    char directory[LAUNCHER_PATH_MAX], run_directory[LAUNCHER_PATH_MAX];
    char nonce[64];
    const char *token;
    enum gang_phase {
        GANG_SPAWNED, /* performer-launch has not written launcher.json */
        GANG_LAUNCHED,
        GANG_TRAINS,
        GANG_CLOSES, /* ranks say their last words */
        GANG_ENDED,  /* exit.json is there */
        GANG_GONE,   /* and no exit.json */
        GANG_DOWN,   /* nor the machine */
    } phase;
    bool launcher_dead;
    bool remote; /* on hosts of a Slurm */
    int pid;
    uint64_t step_ms;
    uint64_t moved_ms; /* when the last step was done */
    uint64_t woke_ms;  /* the same of a step after a long pause, 0: there was none */
    bool asked_to_end; /* by SIGTERM */
    uint64_t resumed_step;
    Performer__Plan *plan;
    struct applied_order *replay;
    const struct job *job;
    struct orders orders;
    struct checkpoint_state *state;
    struct rank *ranks;
};

/* Checkpoints of a run, in order of step. */
struct vault {
    struct vault *next;
    uint64_t run;
    size_t count;
    struct checkpoint_state *states[CHECKPOINTS_MAX];
    bool deadly[CHECKPOINTS_MAX];   /* whoever resumes from it dies of it */
    bool held_one;                  /* ever */
    struct checkpoint_state *aside; /* a fork's, before it has its place */
};

static struct gang *gangs;
static struct vault *vaults;
static int next_pid;

/* ---- files that launcher and ranks leave ---- */

static void leave_file(const struct gang *gang, const char *name, const char *text)
{
    char path[LAUNCHER_PATH_MAX + 64];
    if (world.disk_full) return;
    snprintf(path, sizeof path, "%s/%s", gang->directory, name);
    FILE *file = fopen(path, "w");
    if (!file) world_violation("%s: no directory for %s", gang->directory, name);
    fputs(text, file);
    fclose(file);
}

static bool fence_holds(const struct gang *gang)
{
    char path[LAUNCHER_PATH_MAX + 64], *text;
    size_t length;
    snprintf(path, sizeof path, "%s/fence", gang->run_directory);
    if (file_read(path, 256, &text, &length, NULL) != ST_OK) return false;
    bool same = strcmp(text, gang->nonce) == 0;
    free(text);
    return same;
}

/* ---- checkpoints ---- */

static struct vault *vault_of(uint64_t run)
{
    for (struct vault *vault = vaults; vault; vault = vault->next)
        if (vault->run == run) return vault;
    struct vault *vault = world_memory(sizeof *vault);
    vault->run = run;
    vault->next = vaults;
    vaults = vault;
    return vault;
}

const struct checkpoint_state *gang_newest_state(uint64_t run)
{
    const struct vault *vault = vault_of(run);
    return vault->count > 0 ? vault->states[vault->count - 1] : NULL;
}

static void vault_remove(struct vault *vault, size_t place)
{
    vault->count--;
    memmove(vault->states + place, vault->states + place + 1,
            (vault->count - place) * sizeof vault->states[0]);
    memmove(vault->deadly + place, vault->deadly + place + 1,
            (vault->count - place) * sizeof vault->deadly[0]);
}

/* In order of step; what was there of that step is replaced. */
static void vault_put(struct vault *vault, const struct checkpoint_state *state)
{
    size_t place = vault->count;
    while (place > 0 && vault->states[place - 1]->step >= state->step) place--;
    if (place < vault->count && vault->states[place]->step == state->step)
        vault_remove(vault, place);
    memmove(vault->states + place + 1, vault->states + place,
            (vault->count - place) * sizeof vault->states[0]);
    memmove(vault->deadly + place + 1, vault->deadly + place,
            (vault->count - place) * sizeof vault->deadly[0]);
    vault->count++;
    vault->held_one = true;
    vault->states[place] = world_copy(state, sizeof *state);
    vault->deadly[place] = world_strikes(world.weather.checkpoint_deadly);
}

/* ---- the checkpoint that a fork begins from, as daemon/fork.c does it ---- */

enum status __wrap_fork_stage(const char *checkpoint, const char *run_directory,
                              struct fault *fault);
enum status __wrap_fork_settle(const char *run_directory, uint64_t step, struct fault *fault);
void __wrap_fork_discard(const char *run_directory);

static struct vault *vault_in(const char *run_directory)
{
    return vault_of(strtoull(strrchr(run_directory, '/') + 2, NULL, 10));
}

/* The daemon lives, and there is room on the disk. */
static enum status may_write(struct fault *fault)
{
    if (!world_reach_out()) return fault_set(fault, ST_IO, "nobody is there to write");
    return world.disk_full ? fault_set(fault, ST_NO_SPACE, "no space") : ST_OK;
}

enum status __wrap_fork_stage(const char *checkpoint, const char *run_directory,
                              struct fault *fault)
{
    uint64_t run, step;
    if (sscanf(checkpoint, "runs/r%" SCNu64 "/checkpoints/step-%" SCNu64, &run, &step) != 2)
        world_violation("%s is no checkpoint", checkpoint);
    enum status status = may_write(fault);
    if (status != ST_OK) return status;
    const struct vault *source = vault_of(run);
    for (size_t i = 0; i < source->count; i++) {
        if (source->states[i]->step != step) continue;
        vault_in(run_directory)->aside = world_copy(source->states[i], sizeof *source->states[i]);
        return ST_OK;
    }
    return fault_set(fault, ST_REFUSED, "%s is not there any more", checkpoint);
}

enum status __wrap_fork_settle(const char *run_directory, uint64_t step, struct fault *fault)
{
    struct vault *vault = vault_in(run_directory);
    if (!vault->aside) return ST_OK;
    if (vault->aside->step != step)
        world_violation("%s: another checkpoint was put aside", run_directory);
    enum status status = may_write(fault);
    if (status != ST_OK) return status;
    vault_put(vault, vault->aside);
    vault->aside = NULL;
    return ST_OK;
}

void __wrap_fork_discard(const char *run_directory)
{
    if (world_reach_out()) vault_in(run_directory)->aside = NULL;
}

/* ---- what a rank tells ---- */

static void notice(struct rank *rank, uint64_t step, Performer__Notice *told)
{
    told->step = step;
    told->time_ms = world_wall_ms();
    report_items_add_notice(&rank->items, told);
}

static void tell_started(struct rank *rank)
{
    Performer__Started started = PERFORMER__STARTED__INIT;
    Performer__Notice told = PERFORMER__NOTICE__INIT;
    started.resumed_step = rank->gang->state->step;
    started.backend = "simulated";
    started.libraries = "none";
    told.what_case = PERFORMER__NOTICE__WHAT_STARTED;
    told.started = &started;
    notice(rank, rank->gang->state->step, &told);
}

static void tell_applied(struct rank *rank, uint64_t step, const struct wanted_order *order)
{
    Performer__OrderApplied applied = PERFORMER__ORDER_APPLIED__INIT;
    Performer__Notice told = PERFORMER__NOTICE__INIT;
    applied.order = order->id;
    applied.kind = order->kind;
    told.what_case = PERFORMER__NOTICE__WHAT_ORDER_APPLIED;
    told.order_applied = &applied;
    notice(rank, step, &told);
    rank->told[rank->told_count++ % HANDLED_MAX] = order->id;
    int kept = 0;
    for (int i = 0; i < rank->wanted_count; i++)
        if (rank->wanted[i].id != order->id) rank->wanted[kept++] = rank->wanted[i];
    rank->wanted_count = kept;
}

/* The features of a draw are the same whoever draws them. */
static void tell_redrawn(struct rank *rank, uint64_t step, uint64_t order)
{
    char hash[17];
    Performer__Redrawn redrawn = PERFORMER__REDRAWN__INIT;
    Performer__Notice told = PERFORMER__NOTICE__INIT;
    snprintf(hash, sizeof hash, "%016" PRIx64, rank->gang->run << 32 | rank->gang->state->draw);
    redrawn.draw = rank->gang->state->draw;
    redrawn.hash = hash;
    redrawn.order = order;
    told.what_case = PERFORMER__NOTICE__WHAT_REDRAWN;
    told.redrawn = &redrawn;
    notice(rank, step, &told);
}

static void checkpoint_path(const struct gang *gang, uint64_t step, char *path, size_t size)
{
    snprintf(path, size, "runs/r%" PRIu64 "/checkpoints/step-%010" PRIu64, gang->run, step);
}

static void tell_saved(struct rank *rank, uint64_t step)
{
    char path[64];
    Performer__CheckpointSaved saved = PERFORMER__CHECKPOINT_SAVED__INIT;
    Performer__Notice told = PERFORMER__NOTICE__INIT;
    checkpoint_path(rank->gang, step, path, sizeof path);
    saved.path = path;
    saved.bytes = 4096;
    saved.valid_loss = NAN;
    told.what_case = PERFORMER__NOTICE__WHAT_CHECKPOINT_SAVED;
    told.checkpoint_saved = &saved;
    notice(rank, step, &told);
}

static void tell_removed(struct rank *rank, uint64_t step)
{
    char path[64];
    Performer__CheckpointRemoved removed = PERFORMER__CHECKPOINT_REMOVED__INIT;
    Performer__Notice told = PERFORMER__NOTICE__INIT;
    checkpoint_path(rank->gang, step, path, sizeof path);
    removed.path = path;
    told.what_case = PERFORMER__NOTICE__WHAT_CHECKPOINT_REMOVED;
    told.checkpoint_removed = &removed;
    notice(rank, step, &told);
}

static void tell_rejected(struct rank *rank, uint64_t step)
{
    char path[64];
    Performer__CheckpointRejected rejected = PERFORMER__CHECKPOINT_REJECTED__INIT;
    Performer__Notice told = PERFORMER__NOTICE__INIT;
    checkpoint_path(rank->gang, step, path, sizeof path);
    rejected.path = path;
    rejected.text = "a checksum does not match";
    told.what_case = PERFORMER__NOTICE__WHAT_CHECKPOINT_REJECTED;
    told.checkpoint_rejected = &rejected;
    notice(rank, step, &told);
}

static void tell_failed(struct rank *rank, uint64_t step)
{
    Performer__CheckpointFailed failed = PERFORMER__CHECKPOINT_FAILED__INIT;
    Performer__Notice told = PERFORMER__NOTICE__INIT;
    failed.text = "no space";
    told.what_case = PERFORMER__NOTICE__WHAT_CHECKPOINT_FAILED;
    told.checkpoint_failed = &failed;
    notice(rank, step, &told);
}

static void tell_ended(struct rank *rank, enum status status, bool stopped)
{
    Performer__Ended ended = PERFORMER__ENDED__INIT;
    Performer__Notice told = PERFORMER__NOTICE__INIT;
    ended.status = status;
    ended.stopped = stopped;
    told.what_case = PERFORMER__NOTICE__WHAT_ENDED;
    told.ended = &ended;
    notice(rank, rank->gang->state->step, &told);
}

double gang_loss(uint64_t run, uint32_t attempt, uint64_t step)
{
    return (double)(run * 1000000 + attempt * 1000 + step);
}

static void tell_metrics(struct rank *rank, uint64_t step)
{
    const struct gang *gang = rank->gang;
    struct metric_item row = {.step = step, .time_ms = world_wall_ms(), .name = "loss"};
    row.value = gang_loss(gang->run, gang->attempt, step);
    report_items_add_row(&rank->items, &row);
}

static bool gang_waits(const struct gang *gang)
{
    for (uint32_t r = 0; r < gang->rank_count; r++)
        if (!gang->ranks[r].alive || gang->ranks[r].hung) return true;
    return false;
}

/* ---- the uplink, as worker/uplink.c does it ---- */

static enum status put_report(void *context, uint8_t *packed, size_t length, uint64_t sequence,
                              size_t rows)
{
    return outbox_put(context, packed, length, sequence, rows);
}

/* Whoever hangs is in the middle of a step, and the others wait for it at its end. */
static void beat(struct rank *rank)
{
    const struct gang *gang = rank->gang;
    const bool done = gang->phase == GANG_CLOSES;
    const enum phase phase = done               ? PHASE_DONE
                             : rank->hung       ? PHASE_BACKWARD
                             : gang_waits(gang) ? PHASE_REDUCE
                                                : PHASE_FORWARD;
    rank->heartbeat.phase = (char *)phase_name(phase);
    rank->heartbeat.step = gang->state->step + !done;
    rank->heartbeat.stood_ms = world.now_ms - gang->moved_ms;
    rank->heartbeat.usual_ms = gang->state->step > gang->resumed_step ? gang->step_ms : 0;
}

static void make_reports(struct rank *rank)
{
    struct report_items *items = &rank->items;
    bool something = items->row_count > 0 || items->notice_count > 0;
    bool heartbeat = !rank->silenced && rank->outbox.count == 0 &&
                     world.now_ms - rank->reported_ms >= HEARTBEAT_MS;
    if (!something && !heartbeat) return;
    rank->reported_ms = world.now_ms;
    beat(rank);
    const struct report_sink sink = {&rank->outbox, put_report};
    report_items_send(items, &rank->origin, &sink);
    report_items_clear(items);
}

static bool was_told(const struct rank *rank, uint64_t id)
{
    size_t count = rank->told_count < HANDLED_MAX ? rank->told_count : HANDLED_MAX;
    for (size_t i = 0; i < count; i++)
        if (rank->told[i] == id) return true;
    return false;
}

static int wanted_compare(const void *a, const void *b)
{
    uint64_t x = ((const struct wanted_order *)a)->id, y = ((const struct wanted_order *)b)->id;
    return (x > y) - (x < y);
}

static void take_reply(struct rank *rank, const struct reply *reply)
{
    rank->fenced = rank->fenced || reply->fenced;
    rank->silenced = rank->silenced || reply->fenced;
    rank->wanted_count = 0;
    for (int i = 0; i < reply->order_count; i++)
        if (!was_told(rank, reply->orders[i].id))
            rank->wanted[rank->wanted_count++] = reply->orders[i];
    qsort(rank->wanted, (size_t)rank->wanted_count, sizeof rank->wanted[0], wanted_compare);
}

static void back_off(struct rank *rank)
{
    rank->retry_ms = world.now_ms + rank->back_off_ms / 2 +
                     chance_below(&world.chance, rank->back_off_ms / 2 + 1);
    rank->back_off_ms *= 2;
    if (rank->back_off_ms > BACK_OFF_MS_MAX_RANK) rank->back_off_ms = BACK_OFF_MS_MAX_RANK;
}

static void deliver(struct rank *rank);

static void answered(void *who, uint64_t number, const struct reply *reply)
{
    struct rank *rank = who;
    if (!rank->alive || rank->call_deadline_ms == 0 || number != rank->call) return;
    rank->call_deadline_ms = 0;
    if (reply->status != ST_OK) {
        rank->silenced = rank->silenced || reply->status == ST_NOT_FOUND;
        back_off(rank);
        return;
    }
    outbox_answered(&rank->outbox);
    rank->back_off_ms = BACK_OFF_MS_MIN;
    take_reply(rank, reply);
    if (!rank->hung || !rank->silent) deliver(rank);
}

/* The oldest report, until it is answered. */
static void deliver(struct rank *rank)
{
    if (rank->call_deadline_ms > 0 && world.now_ms >= rank->call_deadline_ms) {
        rank->call_deadline_ms = 0;
        back_off(rank);
    }
    if (rank->silenced || rank->call_deadline_ms > 0 || world.now_ms < rank->retry_ms) return;
    const struct outbox_entry *entry = outbox_next(&rank->outbox);
    if (!entry) return;
    rank->call++;
    rank->call_deadline_ms = world.now_ms + CALL_MS;
    network_send(&(struct request){.kind = REQUEST_REPORT,
                                   .report = world_copy(entry->packed, entry->length),
                                   .report_length = entry->length,
                                   .token = rank->gang->token,
                                   .who = rank,
                                   .answered = answered,
                                   .number = rank->call});
}

/* ---- ends ---- */

/* A process that is killed closes nothing: its spool stays as it is. */
static void rank_drop(struct rank *rank)
{
    if (rank->outbox.spool >= 0) close(rank->outbox.spool);
    for (size_t i = 0; i < rank->outbox.count; i++)
        free(rank->outbox.entries[rank->outbox.first + i].packed);
    free(rank->outbox.entries);
    report_items_fini(&rank->items);
    rank->alive = false;
}

static bool ranks_live(const struct gang *gang)
{
    for (uint32_t r = 0; gang->ranks && r < gang->rank_count; r++)
        if (gang->ranks[r].alive) return true;
    return false;
}

static void kill_ranks(struct gang *gang)
{
    for (uint32_t r = 0; gang->ranks && r < gang->rank_count; r++)
        if (gang->ranks[r].alive) rank_drop(&gang->ranks[r]);
}

static void write_exit(struct gang *gang, int exit_code)
{
    char text[64];
    snprintf(text, sizeof text, "{\"exit_code\":%d,\"signal\":0}", exit_code);
    leave_file(gang, "exit.json", text);
    gang->phase = world.disk_full ? GANG_GONE : GANG_ENDED;
    world_trace("r%" PRIu64 " attempt %" PRIu32 ": the launcher ends with %d%s", gang->run,
                gang->attempt, exit_code, world.disk_full ? " and cannot say so" : "");
}

/* mpirun has ended with that exit code, and nothing of the attempt lives. */
static void launcher_ends(void *what, uint64_t exit_code)
{
    struct gang *gang = what;
    if (gang->phase >= GANG_ENDED) return;
    kill_ranks(gang);
    if (gang->launcher_dead)
        gang->phase = GANG_GONE;
    else
        write_exit(gang, (int)exit_code);
}

/* One rank has died of a signal: mpirun says so and takes the others down. */
static void rank_dies(struct rank *rank)
{
    struct gang *gang = rank->gang;
    char text[160];
    world_trace("r%" PRIu64 " attempt %" PRIu32 ": rank %" PRIu32 " dies", gang->run, gang->attempt,
                rank->number);
    snprintf(text, sizeof text,
             "mpirun noticed that process rank %" PRIu32 " with PID 0 on node here exited on"
             " signal 9 (Killed).\n",
             rank->number);
    leave_file(gang, "launcher.log", text);
    rank_drop(rank);
    world_in(chance_between(&world.chance, 1, 1500), launcher_ends, gang, 137);
}

/* Where it goes back to when it diverges, which in this world it does with its first loss that is none. */
static void write_end(const struct rank *rank, enum status status, bool stopped)
{
    const struct gang *gang = rank->gang;
    const bool back =
        status == ST_DIVERGED && gang->job->spec.train.on_divergence == DIVERGENCE_BACK;
    char name[32], text[300];
    snprintf(name, sizeof name, "rank-%" PRIu32 ".end.json", rank->number);
    snprintf(text, sizeof text,
             "{\"status_code\":%d,\"stopped\":%s,\"step\":%" PRIu64 ",\"time_ms\":%" PRIu64
             ",\"text\":\"\",\"host\":\"here\",\"goes_back\":%s,\"rewind_step\":%" PRIu64
             ",\"draw\":%" PRIu64 "}",
             (int)status, stopped ? "true" : "false", gang->state->step, world.now_ms,
             back ? "true" : "false", rewind_step(&gang->job->spec, gang->plan, gang->state->step),
             gang->state->draw);
    leave_file(gang, name, text);
}

/* A moment after the spool is settled, in which it may be killed. */
static void end_is_written(void *what, uint64_t stamp)
{
    struct rank *rank = what;
    (void)stamp;
    if (!rank->alive) return;
    write_end(rank, rank->end_status, rank->end_stopped);
    rank->end_written = true;
}

/* As performer-worker says its last words: what is left to tell is made safe, then the end, then the daemon is waited
 * for. */
static void rank_ends(struct rank *rank, enum status status, bool stopped)
{
    struct fault fault;
    tell_ended(rank, status, stopped);
    make_reports(rank);
    rank->end_status = status;
    rank->end_stopped = stopped;
    rank->close_deadline_ms = world.now_ms + LAST_WORDS_MS;
    rank->back_off_ms = BACK_OFF_MS_MIN;
    rank->settled = outbox_settle(&rank->outbox, &fault) == ST_OK;
    if (!rank->settled) return;
    rank->settled_bytes = rank->outbox.spool_length;
    world_in(chance_below(&world.chance, 50), end_is_written, rank, 0);
}

/* All ranks end alike. */
static void gang_closes(struct gang *gang, enum status status, bool stopped)
{
    world_trace("r%" PRIu64 " attempt %" PRIu32 ": the ranks end after step %" PRIu64 ": %s%s",
                gang->run, gang->attempt, gang->state->step, status_text(status),
                stopped ? ", stopped" : "");
    gang->phase = GANG_CLOSES;
    for (uint32_t r = 0; r < gang->rank_count; r++) rank_ends(&gang->ranks[r], status, stopped);
}

static void rank_closes(struct rank *rank)
{
    struct gang *gang = rank->gang;
    struct fault fault;
    enum status kept = outbox_close(&rank->outbox, &fault);
    if (!rank->settled)
        write_end(rank, rank->end_status == ST_OK ? kept : rank->end_status, rank->end_stopped);
    report_items_fini(&rank->items);
    rank->alive = false;
    if (!ranks_live(gang)) world_in(chance_between(&world.chance, 1, 200), launcher_ends, gang, 0);
}

/* ---- a rank's life ---- */

static void rank_tick(void *what, uint64_t stamp)
{
    struct rank *rank = what;
    if (!rank->alive) return;
    world_in(RANK_TICK_MS, rank_tick, rank, stamp);
    if (world.now_ms >= rank->hung_until_ms) rank->hung = false;
    if (rank->hung && rank->silent) return;
    make_reports(rank);
    deliver(rank);
    if (rank->hung || rank->close_deadline_ms == 0 || (rank->settled && !rank->end_written)) return;
    if (rank->outbox.count == 0 || rank->silenced || world.now_ms >= rank->close_deadline_ms)
        rank_closes(rank);
}

static enum status save(struct gang *gang)
{
    struct rank *first = &gang->ranks[0];
    struct vault *vault = vault_of(gang->run);
    uint64_t step = gang->state->step;
    if (!fence_holds(gang)) {
        tell_failed(first, step);
        return ST_FENCED;
    }
    if (world.disk_full || vault->count == CHECKPOINTS_MAX) {
        tell_failed(first, step);
        return ST_NO_SPACE;
    }
    ledger_saved(gang->run, gang->attempt);
    vault_put(vault, gang->state);
    tell_saved(first, step);
    for (size_t kept = 0, i = vault->count; i-- > 0;) {
        if (vault->states[i]->step > step || kept++ < CHECKPOINTS_KEPT) continue;
        tell_removed(first, vault->states[i]->step);
        vault_remove(vault, i);
    }
    return ST_OK;
}

static void gather(const struct gang *gang, struct control *records)
{
    for (uint32_t r = 0; r < gang->rank_count; r++) {
        const struct rank *rank = &gang->ranks[r];
        records[r].fenced = rank->fenced;
        records[r].stop_asked = gang->asked_to_end;
        for (int i = 0; i < rank->wanted_count && i < ORDERS_HEARD_MAX; i++)
            records[r].heard[records[r].heard_count++] = rank->wanted[i];
    }
}

/* Redraws are told before the step's metrics, the others once they are done. */
static void tell_orders(struct gang *gang, const struct edge *edge, bool redraws)
{
    for (int i = 0; i < edge->applied_count; i++) {
        const struct wanted_order *order = &edge->applied[i];
        if ((order->kind == PERFORMER__ORDER__KIND__REDRAW) != redraws) continue;
        world_trace("r%" PRIu64 " attempt %" PRIu32 ": order %" PRIu64
                    " applied after step %" PRIu64,
                    gang->run, gang->attempt, order->id, gang->state->step);
        for (uint32_t r = 0; r < gang->rank_count; r++)
            tell_applied(&gang->ranks[r], gang->state->step, order);
    }
}

static void tell_redrawn_by_all(struct gang *gang, uint64_t order)
{
    for (uint32_t r = 0; r < gang->rank_count; r++)
        tell_redrawn(&gang->ranks[r], gang->state->step, order);
}

/* What an evaluation finds: the same for the same weights, so for the same draw after the same step. */
static double error_of(const struct gang *gang)
{
    struct chance chance = {gang->run << 32 | gang->state->step << 16 | gang->state->draw};
    return (double)chance_below(&chance, 1000) / 1e3;
}

static void do_edge(struct gang *gang, const struct edge *edge)
{
    uint64_t step = gang->state->step, steps = (uint64_t)gang->job->spec.train.steps;
    bool last = edge->stop || step >= steps;
    enum status status = ST_OK;
    tell_orders(gang, edge, true);
    tell_metrics(&gang->ranks[0], step);
    if (edge->redraw) tell_redrawn_by_all(gang, edge->redraw_order);
    if (edge->evaluate && orders_redraw_by_error(&gang->orders, step, error_of(gang), gang->state))
        tell_redrawn_by_all(gang, 0);
    if (edge->checkpoint) status = save(gang);
    bool goes_on = status == ST_OK || (status != ST_FENCED && !last);
    if (goes_on) tell_orders(gang, edge, false);
    if (last || !goes_on) gang_closes(gang, status, status == ST_OK && edge->stop && step < steps);
}

/* The step that comes next: the same for the same weights, so for the same draw at the same step. */
static bool diverges(const struct gang *gang)
{
    const struct checkpoint_state *state = gang->state;
    struct chance chance = {~(gang->run << 32 | state->step << 16 | state->draw)};
    return gang->job->spec.train.on_divergence == DIVERGENCE_BACK &&
           chance_hits(&chance, world.weather.diverges);
}

static void meet_rewind(struct gang *gang)
{
    const Performer__Rewind *due = rewind_due(gang->plan, gang->state);
    if (!due) return;
    rewind_meet(due, gang->state);
    tell_redrawn_by_all(gang, 0);
}

static void gang_step(void *what, uint64_t stamp)
{
    struct gang *gang = what;
    if (gang->phase != GANG_TRAINS) return;
    if (gang_waits(gang)) {
        world_in(RANK_TICK_MS, gang_step, gang, stamp);
        return;
    }
    meet_rewind(gang);
    if (diverges(gang)) {
        gang_closes(gang, ST_DIVERGED, false);
        return;
    }
    struct control records[JOBS_RANKS_MAX] = {0};
    struct edge edge;
    gather(gang, records);
    gang->state->step++;
    if (world.now_ms - gang->moved_ms > LONG_PAUSE_MS) gang->woke_ms = world.now_ms;
    gang->moved_ms = world.now_ms;
    orders_decide(&gang->orders, gang->state->step, records, (int)gang->rank_count, gang->state,
                  &edge);
    if (edge.fenced)
        gang_closes(gang, ST_FENCED, false);
    else
        do_edge(gang, &edge);
    world_in(gang->step_ms, gang_step, gang, stamp);
}

/* ---- a launch ---- */

static void read_plan(struct gang *gang)
{
    char path[LAUNCHER_PATH_MAX + 64], *bytes;
    size_t length;
    snprintf(path, sizeof path, "%s/plan", gang->directory);
    if (file_read(path, 1 << 20, &bytes, &length, NULL) != ST_OK)
        world_violation("%s: launched without a plan", gang->directory);
    gang->plan = performer__plan__unpack(NULL, length, (const uint8_t *)bytes);
    free(bytes);
    if (!gang->plan || strcmp(gang->plan->nonce, gang->nonce) != 0)
        world_violation("%s: the plan is another attempt's", gang->directory);
    gang->replay = world_memory((gang->plan->n_applied + 1) * sizeof *gang->replay);
    for (size_t i = 0; i < gang->plan->n_applied; i++)
        gang->replay[i] = (struct applied_order){
            gang->plan->applied[i]->id, gang->plan->applied[i]->kind, gang->plan->applied[i]->step};
    orders_init(&gang->orders, &gang->job->spec, gang->replay, gang->plan->n_applied);
}

/* As performer-launch does, which then lets its ranks inherit it. */
static void read_environment(struct gang *gang)
{
    struct fault fault;
    unsetenv("PERFORMERD_TOKEN");
    if (environment_load(gang->directory, &fault) != ST_OK || !getenv("PERFORMERD_TOKEN"))
        world_violation("%s: launched without an environment", gang->directory);
    gang->token = world_copy(getenv("PERFORMERD_TOKEN"), strlen(getenv("PERFORMERD_TOKEN")) + 1);
}

static bool is_set_aside(const struct gang *gang, uint64_t step)
{
    for (size_t i = 0; i < gang->plan->n_set_aside; i++)
        if (gang->plan->set_aside[i] == step) return true;
    return false;
}

/* From the newest good checkpoint. One that is spoilt or set aside is passed over. True: it is deadly. */
static bool resume(struct gang *gang)
{
    struct vault *vault = vault_of(gang->run);
    gang->state = world_memory(sizeof *gang->state);
    for (size_t place = vault->count; place-- > 0;) {
        uint64_t step = vault->states[place]->step;
        if (is_set_aside(gang, step) || !rewind_keeps(gang->plan, vault->states[place])) continue;
        if (world_strikes(world.weather.checkpoint_spoilt)) {
            tell_rejected(&gang->ranks[0], step);
            vault_remove(vault, place);
            continue;
        }
        *gang->state = *vault->states[place];
        if (step == gang->plan->first_step) gang->state->rewind = 0;
        return vault->deadly[place];
    }
    return false;
}

static void rank_dies_of_it(void *what, uint64_t stamp)
{
    struct rank *rank = what;
    (void)stamp;
    if (rank->alive) rank_dies(rank);
}

static void rank_begins(struct gang *gang, uint32_t number)
{
    char path[LAUNCHER_PATH_MAX + 64];
    struct rank *rank = &gang->ranks[number];
    snprintf(path, sizeof path, "%s/rank-%" PRIu32 ".spool", gang->directory, number);
    *rank = (struct rank){.gang = gang,
                          .number = number,
                          .alive = true,
                          .heartbeat = PERFORMER__HEARTBEAT__INIT,
                          .back_off_ms = BACK_OFF_MS_MIN};
    rank->heartbeat.host = "here";
    rank->origin = (struct report_origin){gang->plan, number, 1, &rank->heartbeat};
    outbox_init(&rank->outbox, path);
    world_in(chance_below(&world.chance, RANK_TICK_MS), rank_tick, rank, 0);
}

/* An attempt may have been killed after it saved what an order did and before it told of it. */
static void tell_applied_before(struct rank *rank)
{
    const struct checkpoint_state *state = rank->gang->state;
    for (size_t i = 0; i < state->applied_count; i++) {
        const struct wanted_order order = {state->applied[i].id, state->applied[i].kind};
        if (!orders_replays(&rank->gang->orders, order.id))
            tell_applied(rank, state->applied[i].step, &order);
    }
}

static void gang_trains(struct gang *gang)
{
    gang->phase = GANG_TRAINS;
    read_plan(gang);
    read_environment(gang);
    gang->ranks = world_memory(gang->rank_count * sizeof *gang->ranks);
    for (uint32_t r = 0; r < gang->rank_count; r++) rank_begins(gang, r);
    bool deadly = resume(gang);
    ledger_trains(gang->run, gang->attempt, gang->state);
    ledger_forks(gang->run, gang->plan->first_step, vault_of(gang->run)->held_one);
    if (gang->state->step < gang->plan->first_step) {
        gang_closes(gang, ST_INVALID, false); /* it does not begin anew */
        return;
    }
    world_trace("r%" PRIu64 " attempt %" PRIu32 ": %" PRIu32 " ranks train from step %" PRIu64,
                gang->run, gang->attempt, gang->rank_count, gang->state->step);
    for (uint32_t r = 0; r < gang->rank_count; r++) {
        tell_started(&gang->ranks[r]);
        tell_applied_before(&gang->ranks[r]);
    }
    gang->step_ms = chance_between(&world.chance, 100, 1000);
    gang->moved_ms = world.now_ms;
    gang->resumed_step = gang->state->step;
    if (gang->state->step >= (uint64_t)gang->job->spec.train.steps)
        gang_closes(gang, ST_OK, false);
    else
        world_in(gang->step_ms, gang_step, gang, 0);
    if (deadly)
        world_in(chance_below(&world.chance, gang->step_ms), rank_dies_of_it, gang->ranks, 0);
}

static void gang_begins(void *what, uint64_t stamp)
{
    struct gang *gang = what;
    (void)stamp;
    if (gang->phase != GANG_LAUNCHED || gang->launcher_dead) return;
    if (!fence_holds(gang)) {
        launcher_ends(gang, 126);
    } else if (world_strikes(world.weather.launch_fails)) {
        launcher_ends(gang, 127);
    } else {
        gang_trains(gang);
    }
}

/* launcher.json first, then a look at the fence. */
static void launcher_begins(void *what, uint64_t stamp)
{
    struct gang *gang = what;
    if (gang->phase != GANG_SPAWNED) return;
    if (world.disk_full) {
        gang->phase = GANG_GONE; /* it ran, and there is no sign of it */
        gang->launcher_dead = true;
        gang->pid = 0;
        return;
    }
    gang->phase = GANG_LAUNCHED;
    world_in(chance_below(&world.chance, 50), gang_begins, gang, stamp);
}

/* ---- the launcher's functions ---- */

static struct gang *gang_in(const char *directory)
{
    for (struct gang *gang = gangs; gang; gang = gang->next)
        if (strcmp(gang->directory, directory) == 0) return gang;
    return NULL;
}

static bool gang_is_alive(const struct gang *gang)
{
    return gang->phase == GANG_LAUNCHED || gang->phase == GANG_TRAINS || gang->phase == GANG_CLOSES;
}

static void gang_killed(struct gang *gang)
{
    kill_ranks(gang);
    world_in(chance_between(&world.chance, 1, 300), launcher_ends, gang, 137);
}

enum launcher_state gang_state(const char *directory)
{
    const struct gang *gang = gang_in(directory);
    if (!gang || gang->phase == GANG_SPAWNED || gang->pid == 0) return LAUNCHER_UNSEEN;
    if (gang->phase == GANG_ENDED) return LAUNCHER_ENDED;
    if (gang->phase == GANG_GONE) return LAUNCHER_GONE;
    if (gang->phase == GANG_DOWN) return LAUNCHER_DOWN;
    return LAUNCHER_ALIVE;
}

static enum launcher_state gang_probe(struct attempt_launcher *launcher, const char *directory,
                                      struct sighting *sighting)
{
    (void)launcher;
    const enum launcher_state state = gang_state(directory);
    if (state == LAUNCHER_ALIVE)
        *sighting = (struct sighting){.id = gang_in(directory)->pid, .start_ticks = 1};
    return state;
}

static void gang_signal(struct attempt_launcher *launcher, const char *directory, int signal)
{
    (void)launcher;
    struct gang *gang = gang_in(directory);
    if (!world_reach_out()) return;
    ledger_signalled(directory, signal);
    if (gang && gang_is_alive(gang) && signal == SIGKILL) gang_killed(gang);
}

/* All ranks are asked to end; whoever hangs hears it later. */
static void gang_rescue(struct attempt_launcher *launcher, const char *directory, uint32_t number)
{
    (void)launcher;
    struct gang *gang = gang_in(directory);
    if (!world_reach_out() || !gang || !gang->ranks) return;
    const bool moves = world.now_ms - gang->moved_ms < LONG_PAUSE_MS &&
                       (gang->woke_ms == 0 || world.now_ms - gang->woke_ms > NEWS_MS_MAX);
    ledger_rescued(gang->run, gang->attempt, number, moves);
    gang->asked_to_end = true;
}

/* It cannot be run: no such program, no process, no space. */
static enum status start_fault(struct fault *fault)
{
    static const enum status statuses[] = {ST_NOT_FOUND, ST_SYSTEM, ST_NO_SPACE};
    if (!world_reach_out()) return fault_set(fault, ST_SYSTEM, "nobody is there to launch");
    if (!world_strikes(world.weather.start_fails)) return ST_OK;
    return fault_set(fault, statuses[chance_below(&world.chance, 3)], "it cannot be run");
}

static struct gang *gang_make(const struct launch_order *order)
{
    struct gang *gang = world_memory(sizeof *gang);
    text_copy(gang->directory, sizeof gang->directory, order->attempt_directory);
    text_copy(gang->run_directory, sizeof gang->run_directory, order->run_directory);
    text_copy(gang->nonce, sizeof gang->nonce, order->nonce);
    gang->run = strtoull(strrchr(order->run_directory, '/') + 2, NULL, 10);
    gang->attempt = (uint32_t)strtoul(strrchr(order->attempt_directory, '-') + 1, NULL, 10);
    gang->rank_count = order->ranks;
    gang->job = ledger_job(gang->run);
    gang->pid = ++next_pid;
    gang->next = gangs;
    gangs = gang;
    return gang;
}

static enum status gang_start(struct attempt_launcher *launcher, const struct launch_order *order,
                              struct fault *fault)
{
    (void)launcher;
    enum status status = start_fault(fault);
    if (status != ST_OK) return status;
    struct gang *gang = gang_make(order);
    ledger_launched(gang->run, gang->attempt, gang->nonce);
    uint64_t delay_ms = chance_between(&world.chance, 20, 400);
    if (world_strikes(world.weather.launcher_slow))
        delay_ms = chance_between(&world.chance, 400, SLOW_LAUNCHER_MS_MAX);
    world_in(delay_ms, launcher_begins, gang, 0);
    return ST_OK;
}

struct attempt_launcher gang_launcher = {
    .start = gang_start, .probe = gang_probe, .signal = gang_signal, .rescue = gang_rescue};

/* ---- under Slurm ---- */

void gang_submit(const struct launch_order *order)
{
    struct gang *gang = gang_make(order);
    gang->remote = true;
    ledger_launched(gang->run, gang->attempt, gang->nonce);
}

void gang_launch(const char *directory)
{
    launcher_begins(gang_in(directory), 0);
}

void gang_ask_to_end(const char *directory)
{
    gang_in(directory)->asked_to_end = true;
}

void gang_tear(const char *directory)
{
    struct gang *gang = gang_in(directory);
    if (gang->phase >= GANG_ENDED) return;
    kill_ranks(gang);
    gang->phase = GANG_GONE;
}

bool gang_lives(const char *directory)
{
    return gang_is_alive(gang_in(directory));
}

void gang_leave(const char *directory, const char *name, const char *text)
{
    leave_file(gang_in(directory), name, text);
}

/* ---- weather ---- */

static struct rank *any_rank(void)
{
    struct rank *found = NULL;
    uint64_t count = 0;
    for (struct gang *gang = gangs; gang; gang = gang->next)
        for (uint32_t r = 0; gang->ranks && r < gang->rank_count; r++)
            if (gang->ranks[r].alive && chance_below(&world.chance, ++count) == 0)
                found = &gang->ranks[r];
    return found;
}

void gang_strike_rank_dies(void)
{
    struct rank *rank = any_rank();
    if (rank) rank_dies(rank);
}

/* One rank or all of them: nobody is heard then. */
void gang_strike_rank_hangs(void)
{
    struct rank *one = any_rank();
    if (!one) return;
    struct gang *gang = one->gang;
    bool all = chance_below(&world.chance, 3) == 0, silent = chance_below(&world.chance, 2) == 0;
    uint64_t until_ms = world.now_ms + chance_between(&world.chance, 1000, HANG_MS_MAX);
    for (uint32_t r = 0; r < gang->rank_count; r++) {
        struct rank *rank = &gang->ranks[r];
        if (!all && rank != one) continue;
        rank->hung = true;
        rank->silent = silent;
        rank->hung_until_ms = until_ms;
    }
    world_trace("r%" PRIu64 " attempt %" PRIu32 ": %s %" PRIu32 " hangs", gang->run, gang->attempt,
                all ? "every rank, like rank" : "rank", one->number);
}

/* It knows why it ends; the others are torn away. */
void gang_strike_rank_fails(void)
{
    static const enum status statuses[] = {ST_DIVERGED, ST_BAD_DATA, ST_NO_MEMORY};
    struct rank *rank = any_rank();
    if (!rank || rank->gang->phase != GANG_TRAINS) return;
    enum status status = statuses[chance_below(&world.chance, 3)];
    world_trace("r%" PRIu64 " attempt %" PRIu32 ": rank %" PRIu32 " fails: %s", rank->gang->run,
                rank->gang->attempt, rank->number, status_text(status));
    write_end(rank, status, false);
    rank_drop(rank);
    world_in(chance_between(&world.chance, 1, 1500), launcher_ends, rank->gang, 64 + status);
}

/* mpirun dies with it; the ranks notice that later. */
void gang_strike_launcher_dies(void)
{
    struct rank *rank = any_rank();
    if (!rank || rank->gang->launcher_dead) return;
    world_trace("r%" PRIu64 " attempt %" PRIu32 ": the launcher is killed", rank->gang->run,
                rank->gang->attempt);
    rank->gang->launcher_dead = true;
    world_in(chance_between(&world.chance, 1, 1500), launcher_ends, rank->gang, 0);
}

/* Of a spool, any part of the end may be gone. */
static void spool_loses_power(const struct rank *rank)
{
    char path[LAUNCHER_PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/rank-%" PRIu32 ".spool", rank->gang->directory, rank->number);
    long size = 0;
    FILE *file = fopen(path, "r");
    if (!file) return;
    if (fseek(file, 0, SEEK_END) == 0) size = ftell(file);
    fclose(file);
    uint64_t least = rank->settled_bytes < (size_t)size ? rank->settled_bytes : (uint64_t)size;
    if (truncate(path, (off_t)chance_between(&world.chance, least, (uint64_t)size)) != 0)
        world_violation("could not cut %s", path);
}

void gang_lose_power(void)
{
    for (struct gang *gang = gangs; gang; gang = gang->next) {
        if (gang->remote) continue;
        for (uint32_t r = 0; gang->ranks && r < gang->rank_count; r++) {
            if (!gang->ranks[r].alive) continue;
            rank_drop(&gang->ranks[r]);
            spool_loses_power(&gang->ranks[r]);
        }
        if (gang->phase == GANG_SPAWNED) gang->pid = 0;
        if (gang->phase != GANG_ENDED) gang->phase = GANG_DOWN;
    }
}

void gangs_wake(void)
{
    for (struct gang *gang = gangs; gang; gang = gang->next)
        for (uint32_t r = 0; gang->ranks && r < gang->rank_count; r++)
            gang->ranks[r].hung_until_ms = 0;
}

bool gangs_live(void)
{
    for (const struct gang *gang = gangs; gang; gang = gang->next)
        if (gang->phase == GANG_SPAWNED || gang_is_alive(gang)) return true;
    return false;
}

bool gang_attempt_lives(uint64_t run, uint32_t attempt)
{
    for (const struct gang *gang = gangs; gang; gang = gang->next)
        if (gang->run == run && gang->attempt == attempt)
            return gang_is_alive(gang) || (gang->remote && gang->phase == GANG_SPAWNED);
    return false;
}

bool gang_trains_now(uint64_t run, uint32_t but_attempt)
{
    for (const struct gang *gang = gangs; gang; gang = gang->next)
        if (gang->run == run && gang->attempt != but_attempt && gang->phase == GANG_TRAINS)
            return true;
    return false;
}

void gangs_begin(void)
{
    gangs = NULL;
    vaults = NULL;
    next_pid = 1000;
}

void gangs_end(void)
{
    for (struct gang *gang = gangs; gang; gang = gang->next) {
        kill_ranks(gang);
        if (gang->plan) performer__plan__free_unpacked(gang->plan, NULL);
    }
}
