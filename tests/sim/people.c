#include "tests/sim/people.h"

#include <inttypes.h>
#include <stdio.h>

#include "tests/sim/ledger.h"
#include "tests/sim/world.h"

enum {
    PEOPLE_MAX = 4,
    FIRST_MS_MAX = 15000,
    PATIENCE_MS = 5000,
    ACT_TRIES_MAX = 3,
    COME_BY_MS = 10000,
    FORKS_MAX = 4,
};

/* What somebody wants, until it is answered or he gives up. */
struct errand {
    struct request request;
    char text[32]; /* the key of a submit, or the run */
    char key[32];  /* of a requeue or a fork */
    int tries_left;
    bool done;
};

static struct errand *submits[PEOPLE_MAX];
static uint64_t submit_count, act_count, fork_count;

static void give_up_or_again(void *what, uint64_t number);

static void ask(struct errand *errand)
{
    errand->request.number++;
    network_send(&errand->request);
    world_in(PATIENCE_MS, give_up_or_again, errand, errand->request.number);
}

static void give_up_or_again(void *what, uint64_t number)
{
    struct errand *errand = what;
    if (errand->done || number != errand->request.number || errand->tries_left-- == 0) return;
    ask(errand);
}

/* What the store could not take is asked for again; a refusal is an answer. */
static void answered(void *who, uint64_t number, const struct reply *reply)
{
    struct errand *errand = who;
    if (number != errand->request.number || reply->status >= ST_NO_MEMORY) return;
    world_trace("%s: %s%s%s", errand->text, status_name(reply->status),
                reply->run[0] != '\0' ? ", " : "", reply->run);
    errand->done = true;
}

static void begin_submit(void *what, uint64_t stamp)
{
    (void)stamp;
    ask(what);
}

void people_begin(void)
{
    act_count = fork_count = 0;
    submit_count = chance_between(&world.chance, 1, PEOPLE_MAX);
    for (uint64_t i = 0; i < submit_count; i++) {
        struct errand *errand = world_memory(sizeof *errand);
        snprintf(errand->text, sizeof errand->text, "submit-%" PRIu64, i);
        errand->tries_left = -1; /* as often as it takes */
        errand->request =
            (struct request){.kind = REQUEST_SUBMIT,
                             .job = jobs_get(chance_below(&world.chance, jobs_count())),
                             .key = errand->text,
                             .who = errand,
                             .answered = answered};
        submits[i] = errand;
        world_in(chance_below(&world.chance, FIRST_MS_MAX), begin_submit, errand, 0);
    }
}

static void ask_act(uint64_t run, Performer__Action action, int tries)
{
    struct errand *errand = world_memory(sizeof *errand);
    snprintf(errand->text, sizeof errand->text, "r%" PRIu64, run);
    errand->tries_left = tries;
    errand->request = (struct request){.kind = REQUEST_ACT,
                                       .run = errand->text,
                                       .action = action,
                                       .who = errand,
                                       .answered = answered};
    if (action == PERFORMER__ACTION__ACTION_REQUEUE) {
        snprintf(errand->key, sizeof errand->key, "requeue-%" PRIu64, ++act_count);
        errand->request.key = errand->key;
    }
    ask(errand);
}

static void resume_paused(void *what, uint64_t stamp)
{
    for (uint64_t run = 1; run <= ledger_run_count(); run++)
        if (ledger_state(run) == RUN_PAUSED) ask_act(run, PERFORMER__ACTION__ACTION_RESUME, 0);
    world_in(COME_BY_MS, resume_paused, what, stamp);
}

void people_resume_paused(void)
{
    resume_paused(NULL, 0);
}

/* From the newest checkpoint of some run, with the job as it is. */
void people_strike_fork(void)
{
    if (ledger_run_count() == 0 || fork_count == FORKS_MAX) return;
    struct errand *errand = world_memory(sizeof *errand);
    uint64_t source = ledger_any_run();
    snprintf(errand->text, sizeof errand->text, "r%" PRIu64, source);
    snprintf(errand->key, sizeof errand->key, "fork-%" PRIu64, ++fork_count);
    errand->tries_left = (int)chance_below(&world.chance, ACT_TRIES_MAX);
    errand->request = (struct request){.kind = REQUEST_SUBMIT,
                                       .job = ledger_job(source),
                                       .key = errand->key,
                                       .fork_of = errand->text,
                                       .who = errand,
                                       .answered = answered};
    ask(errand);
}

void people_strike_act(void)
{
    static const Performer__Action actions[] = {
        PERFORMER__ACTION__ACTION_REDRAW,   PERFORMER__ACTION__ACTION_REDRAW,
        PERFORMER__ACTION__ACTION_REDRAW,   PERFORMER__ACTION__ACTION_CHECKPOINT,
        PERFORMER__ACTION__ACTION_EVALUATE, PERFORMER__ACTION__ACTION_CANCEL,
        PERFORMER__ACTION__ACTION_KILL,     PERFORMER__ACTION__ACTION_PAUSE,
        PERFORMER__ACTION__ACTION_PAUSE,    PERFORMER__ACTION__ACTION_RESUME,
        PERFORMER__ACTION__ACTION_RESUME,   PERFORMER__ACTION__ACTION_REQUEUE,
        PERFORMER__ACTION__ACTION_DRILL,
    };
    if (ledger_run_count() == 0) return;
    uint64_t run = chance_below(&world.chance, 20) == 0 ? ledger_run_count() + 1 : ledger_any_run();
    Performer__Action action =
        actions[chance_below(&world.chance, sizeof actions / sizeof actions[0])];
    ask_act(run, action, (int)chance_below(&world.chance, ACT_TRIES_MAX));
}

bool people_wait(void)
{
    for (uint64_t i = 0; i < submit_count; i++)
        if (!submits[i]->done) return true;
    return false;
}
