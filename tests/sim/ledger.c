#include "tests/sim/ledger.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/memory.h"
#include "daemon/stall.h"
#include "tests/daemon/difference.h"
#include "tests/sim/gang.h"
#include "tests/sim/host.h"
#include "tests/sim/product.h"
#include "tests/sim/world.h"

enum {
    RUNS_MAX = 16,
    ORDERS_MAX = 256,
    WAITS_NEWS_MS = 5000, /* until the daemon knows that a job does not wait any more */
    NEVER_MS = 1 << 30,
};

struct run_entry {
    bool there;
    char key[RUN_KEY_MAX + 1];
    struct run_facts facts;
    enum run_state state;
    enum stop stop;
    char requeue_key[RUN_KEY_MAX + 1]; /* of the newest */
    uint64_t forked_from, forked_step;
    bool requeued;                /* by the decision under way */
    uint32_t requeued_attempt;    /* it and those before it count no more */
    uint32_t spent[BUDGET_COUNT]; /* attempts that must have been counted */
    uint32_t fruitless; /* of those, the last ones in a row that saved no checkpoint further on */
    uint64_t saved_step;
    bool progressed;               /* the attempt in force did */
    bool loops;                    /* the last end was of the run's own doing */
    uint64_t resumed[2];           /* where the last two that trained began; UINT64_MAX: nowhere */
    uint64_t rewinds, rewind_step; /* how many there were, and where the newest went back to */
    uint64_t draw;                 /* the highest that was told */
    uint64_t aside;     /* step of a checkpoint that no attempt may begin from, 0: none */
    uint32_t attempt;   /* planned last, 0: none */
    bool ended;         /* that one */
    uint64_t due_ms;    /* of the world: no attempt begins earlier */
    uint64_t heard_ms;  /* of the world: when a report of the attempt in force was last answered */
    uint64_t trains_ms; /* of the world: since when the attempt in force trains */
    uint32_t launched;  /* newest attempt that was launched */
    uint32_t
        loss[JOBS_STEPS_MAX + 1]; /* attempt whose row of that step was acknowledged, 0: none */
};

struct order_entry {
    uint64_t run; /* 0: there is no such order */
    Performer__Order__Kind kind;
    enum order_state state;
    uint64_t step;
};

static struct {
    struct run_entry runs[RUNS_MAX + 1];       /* by number */
    struct order_entry orders[ORDERS_MAX + 1]; /* by id */
    /* the decision under way */
    const struct event *event;
    struct record *
        committed; /* (committed_count), that were committed last: of one decision, or of several */
    size_t committed_count, applied_count; /* those of them that have been applied */
    bool commit_unsure; /* the daemon died of the newest commit, or its sync failed */
    /* what the daemon before knew */
    struct coordinator before;
    bool before_known;
} ledger;

void ledger_begin(void)
{
    memset(&ledger, 0, sizeof ledger);
}

static void forget_before(void)
{
    if (ledger.before_known) coordinator_fini(&ledger.before);
    ledger.before_known = false;
}

void ledger_end(void)
{
    forget_before();
    free(ledger.committed);
}

static struct run_entry *run_entry(uint64_t number)
{
    if (number == 0 || number > RUNS_MAX)
        world_violation("run %" PRIu64 " is beyond all bounds", number);
    return &ledger.runs[number];
}

static struct order_entry *order_entry(uint64_t id)
{
    if (id == 0 || id > ORDERS_MAX) world_violation("order %" PRIu64 " is beyond all bounds", id);
    return &ledger.orders[id];
}

static uint64_t run_number(const char *id)
{
    return id[0] == 'r' ? strtoull(id + 1, NULL, 10) : 0;
}

/* ---- what is decided ---- */

static void see_submitted(uint64_t number, const char *key, const struct run_facts *facts)
{
    struct run_entry *run = run_entry(number);
    if (run->there) world_violation("run %" PRIu64 " is submitted again", number);
    for (uint64_t other = 1; key[0] != '\0' && other <= RUNS_MAX; other++)
        if (ledger.runs[other].there && strcmp(ledger.runs[other].key, key) == 0)
            world_violation("one key has two runs, r%" PRIu64 " and r%" PRIu64, other, number);
    run->there = true;
    run->facts = *facts;
    run->state = RUN_QUEUED;
    run->resumed[0] = run->resumed[1] = UINT64_MAX;
    text_copy(run->key, sizeof run->key, key);
}

static void see_forked(uint64_t number, uint64_t from, uint64_t step)
{
    if (from >= number || (from == 0) != (step == 0))
        world_violation("r%" PRIu64 " is forked from r%" PRIu64, number, from);
    run_entry(number)->forked_from = from;
    run_entry(number)->forked_step = step;
}

static void see_state(uint64_t number, enum run_state to)
{
    struct run_entry *run = run_entry(number);
    if (!run_move_allowed(run->state, to))
        world_violation("r%" PRIu64 " moves from %s to %s", number, run_state_name(run->state),
                        run_state_name(to));
    if (run_state_is_final(run->state) && !run->requeued)
        world_violation("r%" PRIu64 " is over, and nobody requeued it", number);
    if ((to == RUN_PAUSED || to == RUN_QUEUED) && run->attempt > 0 && !run->ended)
        world_violation("r%" PRIu64 " is %s, and its attempt lives", number, run_state_name(to));
    run->state = to;
}

static void see_requeued(uint64_t number, uint32_t attempt, const char *key)
{
    struct run_entry *run = run_entry(number);
    if (strcmp(run->requeue_key, key) == 0)
        world_violation("r%" PRIu64 " is requeued twice by %s", number, key);
    run->requeued = true;
    run->requeued_attempt = attempt;
    memset(run->spent, 0, sizeof run->spent);
    run->fruitless = 0;
    run->due_ms = 0;
    text_copy(run->requeue_key, sizeof run->requeue_key, key);
}

static const struct jobspec *job_of(const struct run_entry *run)
{
    return &jobs_find(run->facts.name)->spec;
}

/* Whether all that the run comes after have succeeded, by its job file. */
static bool may_begin(const struct run_entry *run)
{
    const struct text_list *after = &job_of(run)->queue.after;
    for (size_t i = 0; i < after->count; i++)
        if (run_entry(run_number(after->items[i]))->state != RUN_SUCCEEDED) return false;
    return true;
}

/* Of this machine's: those of a Slurm's job are none of them. */
static uint32_t ranks_here(const struct run_entry *run)
{
    return run->facts.launcher == LAUNCHER_LOCAL ? run->facts.ranks : 0;
}

static bool comes_first(uint64_t number, uint64_t other)
{
    const struct run_entry *run = run_entry(number), *waits = run_entry(other);
    if (ranks_here(run) == 0 || ranks_here(waits) == 0)
        return ranks_here(waits) == 0 && (ranks_here(run) > 0 || other < number);
    int64_t before = job_of(waits)->queue.priority - job_of(run)->queue.priority;
    return before > 0 || (before == 0 && other < number);
}

static void see_turn(uint64_t number)
{
    const struct run_entry *run = run_entry(number);
    uint32_t ranks = ranks_here(run);
    for (uint64_t other = 1; other <= RUNS_MAX; other++) {
        const struct run_entry *waits = &ledger.runs[other];
        if (waits->attempt > 0 && !waits->ended) ranks += ranks_here(waits);
        if (run->state != RUN_QUEUED || !waits->there || waits->state != RUN_QUEUED) continue;
        if (comes_first(number, other) && may_begin(waits) && waits->due_ms <= world.now_ms)
            world_violation("r%" PRIu64 " begins, and it was the turn of r%" PRIu64, number, other);
    }
    if (!may_begin(run))
        world_violation("r%" PRIu64 " begins before one that it comes after has succeeded", number);
    if (ranks > HOST_RANKS_MAX)
        world_violation("r%" PRIu64 " begins, and %" PRIu32 " ranks are held", number, ranks);
}

static void see_planned(uint64_t number, uint32_t attempt)
{
    struct run_entry *run = run_entry(number);
    if (attempt != run->attempt + 1 || (run->attempt > 0 && !run->ended))
        world_violation("r%" PRIu64 ": attempt %" PRIu32 " begins beside attempt %" PRIu32, number,
                        attempt, run->attempt);
    if (run->spent[BUDGET_CRASH] > run->facts.restart_max || run->spent[BUDGET_NODE] > 10 ||
        run->spent[BUDGET_DIVERGENCE] > 3)
        world_violation("r%" PRIu64 ": attempt %" PRIu32 " begins after %" PRIu32
                        " crashes, %" PRIu32 " losses of the machine and %" PRIu32
                        " divergences, %" PRIu32 " restarts are allowed",
                        number, attempt, run->spent[BUDGET_CRASH], run->spent[BUDGET_NODE],
                        run->spent[BUDGET_DIVERGENCE], run->facts.restart_max);
    if (run->fruitless >= 2 && run->loops)
        world_violation("r%" PRIu64 ": attempt %" PRIu32 " begins after %" PRIu32
                        " that came no further",
                        number, attempt, run->fruitless);
    if (world.now_ms < run->due_ms)
        world_violation("r%" PRIu64 ": attempt %" PRIu32 " begins %" PRIu64 " ms too early", number,
                        attempt, run->due_ms - world.now_ms);
    see_turn(number);
    run->attempt = attempt;
    run->ended = run->progressed = false;
    run->trains_ms = NEVER_MS;
}

static void see_saved(uint64_t number, uint64_t step)
{
    struct run_entry *run = run_entry(number);
    if (run->aside == step) run->aside = 0;
    if (step <= run->saved_step) return;
    run->saved_step = step;
    run->progressed = true;
}

static uint64_t back_off_of(uint32_t fruitless)
{
    uint64_t wait_ms = 1000;
    for (uint32_t i = 1; i < fruitless; i++) wait_ms *= 2;
    return wait_ms < 60000 ? wait_ms : 60000;
}

/* Two attempts have begun from it; they had no step to show for it. */
static void see_set_aside(uint64_t number, uint64_t step)
{
    struct run_entry *run = run_entry(number);
    if (step == 0 || run->resumed[0] != step || run->resumed[1] != step)
        world_violation("r%" PRIu64 ": the checkpoint of step %" PRIu64
                        " is set aside, and attempts have not died of it",
                        number, step);
    run->aside = step;
    if (step > run->saved_step) run->saved_step = step;
    run->fruitless = 0;
    run->due_ms = world.now_ms + back_off_of(0);
}

static bool goes_back(const struct run_entry *run)
{
    return job_of(run)->train.on_divergence == DIVERGENCE_BACK;
}

static void see_drawn(uint64_t number, uint64_t draw)
{
    struct run_entry *run = run_entry(number);
    if (draw > run->draw) run->draw = draw;
}

static void see_rewound(uint64_t number, const struct rewind *rewind)
{
    struct run_entry *run = run_entry(number);
    const struct evidence *evidence = ledger.event->attempt_ended.evidence;
    if (ledger.event->kind != EVENT_ATTEMPT_ENDED || evidence->cause != CAUSE_DIVERGED)
        world_violation("r%" PRIu64 " goes back, and has not diverged", number);
    if (rewind->number != run->rewinds + 1 || run->spent[BUDGET_DIVERGENCE] > 3)
        world_violation("r%" PRIu64 " goes back too often", number);
    uint64_t every = (uint64_t)job_of(run)->checkpoint.every;
    uint64_t step = evidence->step / every * every;
    if (rewind->step != (step > run->forked_step ? step : run->forked_step))
        world_violation("r%" PRIu64 " goes back to step %" PRIu64 " after step %" PRIu64, number,
                        rewind->step, evidence->step);
    see_drawn(number, evidence->draw);
    if (rewind->draw <= run->draw)
        world_violation("r%" PRIu64 " goes back to features that it has used", number);
    run->rewinds++;
    run->rewind_step = run->saved_step = rewind->step;
    if (run->aside > rewind->step) run->aside = 0;
}

/* Whether the end that the event tells takes from the budget: the rule once more, from the event alone. */
static bool end_counts(const struct run_entry *run, const struct record_attempt_ended *ended)
{
    switch (ledger.event->kind) {
    case EVENT_LAUNCH_FAILED:
        return ledger.event->launch_failed.status != ST_NO_SPACE && ended->cause != CAUSE_KILLED;
    case EVENT_ATTEMPT_ENDED:
        if (ended->cause == CAUSE_DIVERGED) return goes_back(run);
        return attempt_cause_restarts(ended->cause);
    default:
        return false;
    }
}

static enum restart_budget budget_of(enum attempt_cause cause)
{
    switch (cause) {
    case CAUSE_NODE_LOST:
        return BUDGET_NODE;
    case CAUSE_PREEMPTED:
        return BUDGET_PREEMPTION;
    case CAUSE_TIME_LIMIT:
        return BUDGET_TIME_LIMIT;
    case CAUSE_DIVERGED:
        return BUDGET_DIVERGENCE;
    default:
        return BUDGET_CRASH;
    }
}

static void see_ended(uint64_t number, const struct record *record)
{
    struct run_entry *run = run_entry(number);
    if (record->attempt != run->attempt || run->ended)
        world_violation("r%" PRIu64 ": attempt %" PRIu32 " ends twice", number, record->attempt);
    if (ledger.event->kind == EVENT_ATTEMPT_ENDED && gang_attempt_lives(number, record->attempt))
        world_violation("r%" PRIu64 ": attempt %" PRIu32 " is said to have ended, and lives",
                        number, record->attempt);
    run->ended = true;
    enum attempt_cause cause = record->attempt_ended.cause;
    bool counts =
        end_counts(run, &record->attempt_ended) && record->attempt > run->requeued_attempt;
    bool spared =
        !counts && cause == CAUSE_LAUNCH_FAILED && record->attempt > run->requeued_attempt;
    if (counts) {
        run->spent[budget_of(cause)]++;
        run->fruitless = run->progressed || cause == CAUSE_DIVERGED ? 0 : run->fruitless + 1;
    }
    run->loops =
        counts && cause != CAUSE_NODE_LOST && cause != CAUSE_DIVERGED && cause != CAUSE_PREEMPTED;
    run->due_ms = world.now_ms + (spared ? 60000 : counts ? back_off_of(run->fruitless) : 0);
}

static void see_order(uint64_t id, enum order_state to, uint64_t step)
{
    struct order_entry *order = order_entry(id);
    if (order->run == 0 || order->state == ORDER_APPLIED ||
        (order->state == ORDER_DROPPED && to == ORDER_DROPPED))
        world_violation("order %" PRIu64 " is %s, and was %s", id, order_state_name(to),
                        order->run == 0 ? "never given" : order_state_name(order->state));
    order->state = to;
    order->step = step;
}

static void see_record(const struct record *record)
{
    switch (record->kind) {
    case RECORD_RUN_SUBMITTED:
        see_submitted(record->run, record->run_submitted.key, record->run_submitted.facts);
        see_forked(record->run, record->run_submitted.forked_from,
                   record->run_submitted.forked_step);
        break;
    case RECORD_RUN_MOVED:
        see_state(record->run, record->run_moved.to);
        break;
    case RECORD_STOP_REQUESTED:
        run_entry(record->run)->stop = record->stop_requested.stop;
        break;
    case RECORD_REQUEUED:
        see_requeued(record->run, record->attempt, record->requeued.key);
        break;
    case RECORD_ATTEMPT_PLANNED:
        see_planned(record->run, record->attempt);
        break;
    case RECORD_ATTEMPT_ENDED:
        see_ended(record->run, record);
        break;
    case RECORD_REDRAWN:
        see_drawn(record->run, record->redrawn.draw);
        break;
    case RECORD_REWOUND:
        see_rewound(record->run, &record->rewound.rewind);
        break;
    case RECORD_CHECKPOINT_SAVED:
        see_saved(record->run, record->checkpoint_saved.step);
        break;
    case RECORD_CHECKPOINT_SET_ASIDE:
        see_set_aside(record->run, record->checkpoint_set_aside.step);
        break;
    case RECORD_ORDER_REQUESTED:
        *order_entry(record->order_requested.order) = (struct order_entry){
            .run = record->run, .kind = record->order_requested.kind, .state = ORDER_PENDING};
        break;
    case RECORD_ORDER_APPLIED:
        see_order(record->order_applied.order, ORDER_APPLIED, record->order_applied.step);
        break;
    case RECORD_ORDER_DROPPED:
        see_order(record->order_dropped.order, ORDER_DROPPED, 0);
        break;
    case RECORD_NOTED:
        if (record->noted.note == NOTE_ORDER_DISAGREED ||
            record->noted.note == NOTE_REDRAW_DISAGREED)
            world_violation("r%" PRIu64 ": %s: %s", record->run, note_name(record->noted.note),
                            record->noted.text);
        break;
    default:
        break;
    }
}

static void compare_run(const struct run *known)
{
    const struct run_entry *run = run_entry(known->number);
    if (run->rewinds > 0 && (known->rewind_count == 0 ||
                             known->rewinds[known->rewind_count - 1].number != run->rewinds))
        world_violation("%s forgets that it went back", known->id);
    if (known->state != run->state)
        world_violation("%s is %s, and was %s", known->id, run_state_name(known->state),
                        run_state_name(run->state));
    for (int budget = 0; budget < BUDGET_COUNT; budget++)
        if (known->spent[budget] != run->spent[budget])
            world_violation("%s: %" PRIu32 " ends by %s are counted, there were %" PRIu32,
                            known->id, known->spent[budget], restart_budget_name(budget),
                            run->spent[budget]);
    if (known->attempt.number != run->attempt ||
        (run->attempt > 0 && known->attempt.ended != run->ended))
        world_violation("%s has attempt %" PRIu32 ", and had %" PRIu32, known->id,
                        known->attempt.number, run->attempt);
    if (known->stop != run->stop) world_violation("%s forgets what end was wanted", known->id);
    if (strcmp(known->requeue_key, run->requeue_key) != 0)
        world_violation("%s forgets its requeue", known->id);
}

static bool any_durable(const struct record *records, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (record_is_durable(records[i].kind)) return true;
    return false;
}

static void note_committed(const struct record *records, size_t count)
{
    ledger.committed = memory_grow(ledger.committed, count * sizeof *records);
    memcpy(ledger.committed, records, count * sizeof *records);
    ledger.committed_count = count;
    ledger.applied_count = 0;
}

/* What is applied was committed next, all of it, in the same order. */
static void check_committed(const struct record *records, size_t count)
{
    if (count == 0 || (!any_durable(records, count) && ledger.committed_count == 0)) return;
    const struct record *next = ledger.committed + ledger.applied_count;
    if (ledger.applied_count + count <= ledger.committed_count &&
        memcmp(next, records, count * sizeof *records) == 0)
        ledger.applied_count += count;
    else if (any_durable(records, count))
        world_violation("a decision is applied that is not committed");
}

/* ---- in front of the product's functions ---- */

void __wrap_coordinator_decide(const struct coordinator *coordinator, const struct event *event,
                               struct decision *decision);
enum status __wrap_store_commit(struct store *store, const char *decision,
                                const struct record *records, size_t count, struct fault *fault);
void __wrap_coordinator_apply(struct coordinator *coordinator, const struct record *records,
                              size_t count, uint64_t now_ms);

void __wrap_coordinator_decide(const struct coordinator *coordinator, const struct event *event,
                               struct decision *decision)
{
    ledger.event = event;
    ledger.committed_count = ledger.applied_count = 0;
    product_decide(coordinator, event, decision);
}

enum status __wrap_store_commit(struct store *store, const char *decision,
                                const struct record *records, size_t count, struct fault *fault)
{
    bool dead = world.dead;
    enum status status = product_commit(store, decision, records, count, fault);
    if (status == ST_OK) note_committed(records, count);
    if (world.dead != dead || world.sync_failed) ledger.commit_unsure = true;
    return status;
}

void __wrap_coordinator_apply(struct coordinator *coordinator, const struct record *records,
                              size_t count, uint64_t now_ms)
{
    check_committed(records, count);
    for (uint64_t number = 1; number <= RUNS_MAX; number++) ledger.runs[number].requeued = false;
    for (size_t i = 0; i < count; i++) see_record(&records[i]);
    product_apply(coordinator, records, count, now_ms);
    for (size_t i = 0; i < coordinator->run_count; i++) compare_run(coordinator->runs[i]);
    const char *flaw = coordinator_check(coordinator);
    if (flaw) world_violation("%s", flaw);
}

/* ---- what is answered ---- */

static void answered_submit(const struct request *request, const struct reply *reply)
{
    const struct run_entry *run = run_entry(run_number(reply->run));
    if (!run->there || strcmp(run->key, request->key) != 0)
        world_violation("the submit %s was answered %s, which is another's", request->key,
                        reply->run);
}

/* Whether what was answered is so, at once or once the attempt has ended. */
static bool wish_is_met(const struct run_entry *run, const struct request *request)
{
    switch (request->action) {
    case PERFORMER__ACTION__ACTION_CANCEL:
        return run->state == RUN_CANCELLED || run->stop == STOP_CANCEL || run->stop == STOP_KILL;
    case PERFORMER__ACTION__ACTION_KILL:
        return run->state == RUN_CANCELLED || run->stop == STOP_KILL;
    case PERFORMER__ACTION__ACTION_PAUSE:
        return run->state == RUN_PAUSED || run->stop == STOP_PAUSE;
    case PERFORMER__ACTION__ACTION_RESUME:
        return run->state != RUN_PAUSED && !run_state_is_final(run->state) &&
               (run->stop == STOP_NONE || run->stop == STOP_REQUEUE);
    case PERFORMER__ACTION__ACTION_REQUEUE:
        return strcmp(run->requeue_key, request->key) == 0;
    default:
        return true;
    }
}

static void answered_act(const struct request *request, const struct reply *reply)
{
    uint64_t number = run_number(reply->run);
    struct run_entry *run = run_entry(number);
    if (!run->there) world_violation("an act was answered with %s, which is none", reply->run);
    if (!wish_is_met(run, request))
        world_violation("action %d on %s was answered, and it is %s", (int)request->action,
                        reply->run, run_state_name(run->state));
    if (reply->order != 0 && order_entry(reply->order)->run != number)
        world_violation("order %" PRIu64 " was answered, and %s has none such", reply->order,
                        reply->run);
    bool wants = request->action == PERFORMER__ACTION__ACTION_REDRAW ||
                 request->action == PERFORMER__ACTION__ACTION_EVALUATE ||
                 request->action == PERFORMER__ACTION__ACTION_CHECKPOINT;
    if (wants && reply->order == 0) world_violation("an order was answered without its number");
}

static void compare_orders(uint64_t number, const struct reply *reply)
{
    int pending = 0;
    for (uint64_t id = 1; id <= ORDERS_MAX; id++)
        pending += ledger.orders[id].run == number && ledger.orders[id].state == ORDER_PENDING;
    for (int i = 0; i < reply->order_count; i++) {
        const struct order_entry *order = order_entry(reply->orders[i].id);
        if (order->run != number || order->state != ORDER_PENDING)
            world_violation("order %" PRIu64 " is handed out, and is not pending",
                            reply->orders[i].id);
    }
    if (reply->order_count != pending)
        world_violation("%d orders of r%" PRIu64 " are pending, and an answer carries %d", pending,
                        number, reply->order_count);
}

static void note_taken(struct run_entry *run, const Performer__Report *report)
{
    for (size_t i = 0; i < report->n_metrics; i++)
        if (run->loss[report->metrics[i]->step] < report->attempt)
            run->loss[report->metrics[i]->step] = report->attempt;
    for (size_t i = 0; i < report->n_notices; i++) {
        const Performer__Notice *notice = report->notices[i];
        if (notice->what_case != PERFORMER__NOTICE__WHAT_ORDER_APPLIED) continue;
        const struct order_entry *order = order_entry(notice->order_applied->order);
        if (order->state == ORDER_PENDING && order->run == run_number(report->run))
            world_violation("that order %" PRIu64 " was applied was told, and is not known",
                            notice->order_applied->order);
    }
}

static void answered_report(const Performer__Report *report, const struct reply *reply)
{
    uint64_t number = run_number(report->run);
    struct run_entry *run = run_entry(number);
    bool in_force = report->attempt == run->attempt && !run->ended;
    if (reply->fenced == in_force)
        world_violation("attempt %" PRIu32 " of %s is %s", report->attempt, report->run,
                        in_force ? "in force and fenced" : "over and not fenced");
    if (reply->fenced) return;
    run->heard_ms = world.now_ms;
    compare_orders(number, reply);
    note_taken(run, report);
}

void ledger_answered(const struct request *request, const Performer__Report *report,
                     const struct reply *reply)
{
    if (reply->status != ST_OK) return;
    if (request->kind == REQUEST_SUBMIT) answered_submit(request, reply);
    if (request->kind == REQUEST_ACT) answered_act(request, reply);
    if (request->kind == REQUEST_REPORT) answered_report(report, reply);
}

/* ---- what is done in the world ---- */

static const struct run *run_known(uint64_t number)
{
    const struct run *run = coordinator_run(&host.coordinator, number);
    if (!run) world_violation("an effect on r%" PRIu64 ", which is none", number);
    return run;
}

void ledger_launched(uint64_t number, uint32_t attempt, const char *nonce)
{
    struct run_entry *entry = run_entry(number);
    const struct run *run = run_known(number);
    if (attempt != run->attempt.number || run->attempt.ended ||
        strcmp(run->attempt.nonce, nonce) != 0)
        world_violation("%s: attempt %" PRIu32 " is launched and not in force", run->id, attempt);
    if (entry->launched >= attempt)
        world_violation("%s: attempt %" PRIu32 " is launched twice", run->id, attempt);
    entry->launched = attempt;
}

static void check_met(uint64_t number, const struct checkpoint_state *state)
{
    const struct run_entry *run = run_entry(number);
    if (state->step > run->rewind_step && state->rewind != run->rewinds)
        world_violation("r%" PRIu64 ": weights of step %" PRIu64 " have met %" PRIu64
                        " rewinds, there were %" PRIu64 " to step %" PRIu64,
                        number, state->step, state->rewind, run->rewinds, run->rewind_step);
}

void ledger_trains(uint64_t number, uint32_t attempt, const struct checkpoint_state *state)
{
    struct run_entry *run = run_entry(number);
    const uint64_t step = state->step;
    if (attempt == run->attempt) check_met(number, state);
    if (gang_trains_now(number, attempt))
        world_violation("r%" PRIu64 ": attempt %" PRIu32 " trains beside an earlier one", number,
                        attempt);
    if (run->aside != 0 && run->aside == step && attempt == run->attempt)
        world_violation("r%" PRIu64 ": attempt %" PRIu32 " begins at step %" PRIu64
                        ", whose checkpoint is set aside",
                        number, attempt, step);
    run->resumed[1] = run->resumed[0];
    run->resumed[0] = step;
    if (attempt == run->attempt) run->trains_ms = world.now_ms;
}

void ledger_saved(uint64_t run, uint32_t attempt)
{
    if (run_entry(run)->launched > attempt)
        world_violation("r%" PRIu64 ": attempt %" PRIu32 " saves beside a newer one", run, attempt);
}

/* ---- a new daemon ---- */

void ledger_buried(struct coordinator *coordinator)
{
    forget_before();
    ledger.before = *coordinator;
    ledger.before_known = true;
    coordinator_init(coordinator, coordinator->ranks_max);
}

/* A commit whose outcome the daemon did not learn may have become one decision more. */
static void reconcile_run(const struct run *known)
{
    struct run_entry *run = run_entry(known->number);
    if (!run->there) {
        see_submitted(known->number, known->key, &known->facts);
        see_forked(known->number, known->forked_from, known->forked_step);
    }
    run->stop = known->stop;
    if (strcmp(known->requeue_key, run->requeue_key) != 0)
        see_requeued(known->number, known->requeued_attempt, known->requeue_key);
    if (known->attempt.ended) run->ended = true;
    if (known->state != run->state) see_state(known->number, known->state);
    for (int budget = 0; budget < BUDGET_COUNT; budget++) {
        if (known->spent[budget] > run->spent[budget] + 1)
            world_violation("%s: an end is counted twice", known->id);
        if (known->spent[budget] > run->spent[budget]) run->spent[budget] = known->spent[budget];
    }
    run->fruitless = known->fruitless;
    run->saved_step = known->saved_step;
    run->progressed = known->attempt.progressed;
    run->aside = known->aside_count > 0 ? known->aside[0] : 0;
    if (known->rewind_count > 0) {
        run->rewinds = known->rewinds[known->rewind_count - 1].number;
        run->rewind_step = known->rewinds[known->rewind_count - 1].step;
    }
    if (known->attempt.number == run->attempt + 1) {
        run->attempt = known->attempt.number;
        run->ended = known->attempt.ended;
    }
    for (size_t i = 0; i < known->order_count; i++) {
        struct order_entry *order = order_entry(known->orders[i].id);
        if (order->run != 0 && order->state != ORDER_PENDING) continue;
        *order = (struct order_entry){known->number, known->orders[i].kind, known->orders[i].state,
                                      known->orders[i].step};
    }
}

static bool check_row(void *context, const struct metric_row *row)
{
    const uint64_t *number = context;
    struct run_entry *run = run_entry(*number);
    if (row->value != gang_loss(*number, row->attempt, row->step))
        world_violation("r%" PRIu64 ": the loss of step %" PRIu64 " is another's", *number,
                        row->step);
    if (run->loss[row->step] > row->attempt)
        world_violation("r%" PRIu64 ": the loss of step %" PRIu64 " is an older attempt's", *number,
                        row->step);
    run->loss[row->step] |= UINT32_C(1) << 31; /* seen */
    return true;
}

static void check_metrics(uint64_t number, struct store *store)
{
    struct run_entry *run = run_entry(number);
    struct fault fault;
    uint64_t next;
    const struct metric_query query = {.run = number,
                                       .name = "loss",
                                       .before_step = JOBS_STEPS_MAX + 1,
                                       .limit = JOBS_STEPS_MAX + 1};
    if (store_metrics(store, &query, check_row, &number, &next, &fault) != ST_OK)
        world_violation("metrics cannot be read: %s", fault.text);
    for (size_t step = 0; step <= JOBS_STEPS_MAX; step++) {
        bool seen = run->loss[step] >> 31;
        run->loss[step] &= ~(UINT32_C(1) << 31);
        if (run->loss[step] > 0 && !seen)
            world_violation("r%" PRIu64 ": the loss of step %zu was acknowledged and is lost",
                            number, step);
    }
}

static void check_orders(const struct coordinator *coordinator)
{
    for (uint64_t id = 1; id <= ORDERS_MAX; id++) {
        const struct order_entry *entry = &ledger.orders[id];
        if (entry->run == 0) continue;
        const struct run *run = coordinator_run(coordinator, entry->run);
        const struct order *order = run ? run_order(run, id) : NULL;
        if (!order || order->state != entry->state || order->step != entry->step)
            world_violation("order %" PRIu64 " was %s, and is %s", id,
                            order_state_name(entry->state),
                            order ? order_state_name(order->state) : "lost");
    }
}

/* A daemon that starts does not know how long ago an attempt ended: its back-off begins anew. */
static void lengthen_back_offs(const struct coordinator *coordinator)
{
    for (size_t i = 0; i < coordinator->run_count; i++) {
        const struct run *run = coordinator->runs[i];
        const uint64_t due_ms = run->due_ms + world.boot_ms;
        struct run_entry *entry = run_entry(run->number);
        if (due_ms > entry->due_ms) entry->due_ms = due_ms;
    }
}

static void check_store(const struct coordinator *coordinator, struct store *store)
{
    for (uint64_t number = 1; number <= RUNS_MAX; number++) {
        if (!ledger.runs[number].there) continue;
        const struct run *run = coordinator_run(coordinator, number);
        if (!run) world_violation("r%" PRIu64 " was acknowledged and is lost", number);
        compare_run(run);
        check_metrics(number, store);
    }
    check_orders(coordinator);
}

void ledger_restarted(const struct coordinator *coordinator, struct store *store)
{
    if (ledger.commit_unsure) {
        for (size_t i = 0; i < coordinator->run_count; i++) reconcile_run(coordinator->runs[i]);
    } else if (ledger.before_known) {
        const char *words = coordinators_differ(&ledger.before, coordinator);
        if (words) world_violation("a new daemon knows another %s than the one before", words);
    }
    forget_before();
    ledger.commit_unsure = false;
    lengthen_back_offs(coordinator);
    check_store(coordinator, store);
}

/* Signals are for who was to be killed, and for attempts that a newer one replaces. */
void ledger_forks(uint64_t run, uint64_t first_step, bool has_checkpoint)
{
    if (first_step != run_entry(run)->forked_step || (first_step > 0 && !has_checkpoint))
        world_violation("r%" PRIu64 ": a fork has not the checkpoint that it begins from", run);
}

void ledger_signalled(const char *attempt_directory, int signal)
{
    uint32_t attempt = (uint32_t)strtoul(strrchr(attempt_directory, '-') + 1, NULL, 10);
    const char *name = strstr(attempt_directory, "runs/r");
    const struct run *run = run_known(strtoull(name + strlen("runs/r"), NULL, 10));
    /* in a queue, as far as the daemon can know, where it has nothing to save */
    bool waits = run->facts.launcher == LAUNCHER_SLURM &&
                 world.now_ms < run_entry(run->number)->trains_ms + WAITS_NEWS_MS;
    bool wanted = run->stop == STOP_KILL || run->attempt.stalled_rank >= 0 ||
                  (run->stop != STOP_NONE && waits);
    if (signal != SIGKILL || (!wanted && attempt >= run->attempt.number))
        world_violation("%s: attempt %" PRIu32 " gets signal %d, and nobody wanted that", run->id,
                        attempt, signal);
}

/* That it moves can be known while it is heard. */
void ledger_rescued(uint64_t number, uint32_t attempt, uint32_t rank, bool moves)
{
    const struct run_entry *entry = run_entry(number);
    const struct run *run = run_known(number);
    if (run->attempt.number != attempt || run->attempt.stalled_rank != (int)rank)
        world_violation("%s: attempt %" PRIu32 " is told to end, and does not stand still", run->id,
                        attempt);
    if (moves && world.now_ms - entry->heard_ms < STALL_SILENT_MS)
        world_violation("%s: attempt %" PRIu32 " is told to end, and moves", run->id, attempt);
}

/* ---- the end ---- */

const struct job *ledger_job(uint64_t run)
{
    return jobs_find(run_entry(run)->facts.name);
}

size_t ledger_run_count(void)
{
    size_t count = 0;
    while (count < RUNS_MAX && ledger.runs[count + 1].there) count++;
    return count;
}

uint64_t ledger_any_run(void)
{
    uint64_t run = chance_between(&world.chance, 1, ledger_run_count());
    for (int tries = 0; tries < 3 && run_state_is_final(ledger.runs[run].state); tries++)
        run = chance_between(&world.chance, 1, ledger_run_count());
    return run;
}

enum run_state ledger_state(uint64_t run)
{
    return run_entry(run)->state;
}

bool ledger_all_final(void)
{
    for (size_t number = 1; number <= ledger_run_count(); number++)
        if (!run_state_is_final(ledger.runs[number].state)) return false;
    return true;
}

static bool is_inherited(uint64_t number, uint64_t from)
{
    do number = run_entry(number)->forked_from;
    while (number != 0 && number != from);
    return number != 0 && number == from;
}

/* The redraws that the weights of a run have met are those that were told. */
static void check_weights(uint64_t number)
{
    const struct run_entry *run = &ledger.runs[number];
    const struct checkpoint_state *state = gang_newest_state(number);
    if (!state || state->step != run->facts.steps)
        world_violation("r%" PRIu64 " has succeeded without its last checkpoint", number);
    check_met(number, state);
    size_t met = 0, told = 0;
    for (size_t i = 0; i < state->applied_count; i++) {
        const struct applied_order *applied = &state->applied[i];
        for (size_t k = 0; k < i; k++)
            if (state->applied[k].id == applied->id)
                world_violation("r%" PRIu64 ": order %" PRIu64 " was applied twice", number,
                                applied->id);
        const struct order_entry *order = order_entry(applied->id);
        if (is_inherited(number, order->run)) continue;
        if (order->state == ORDER_APPLIED && order->step == applied->step)
            met++;
        else
            world_violation("r%" PRIu64 ": order %" PRIu64 " was applied after step %" PRIu64
                            ", and is %s after step %" PRIu64,
                            number, applied->id, applied->step, order_state_name(order->state),
                            order->step);
    }
    for (uint64_t id = 1; id <= ORDERS_MAX; id++)
        told += ledger.orders[id].run == number && ledger.orders[id].state == ORDER_APPLIED &&
                ledger.orders[id].kind == PERFORMER__ORDER__KIND__REDRAW;
    if (met != told)
        world_violation("r%" PRIu64 ": %zu redraws were told, the weights have met %zu", number,
                        told, met);
}

void ledger_close(struct store *store)
{
    check_store(&host.coordinator, store);
    for (uint64_t number = 1; number <= RUNS_MAX; number++)
        if (ledger.runs[number].there && ledger.runs[number].state == RUN_SUCCEEDED)
            check_weights(number);
}
