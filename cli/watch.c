#include "cli/watch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/approximation.h"
#include "cli/progress.h"
#include "cli/quantity.h"
#include "cli/report.h"
#include "cli/run_json.h"
#include "cli/waiting.h"

struct watch {
    const struct invocation *invocation;
    struct waiting waiting;
    struct snapshot snapshot;
    int interval_ms;
    uint64_t away_since_ms; /* 0: the daemon answers */
};

static const Performer__RunSummary *summary_of(const struct watch *watch)
{
    return watch->snapshot.detail->run_detail->summary;
}

/* Asks anew. A daemon that is away is no failure once it has been there. */
static enum status refresh(struct watch *watch, struct fault *fault)
{
    enum status status =
        snapshot_take(&watch->waiting.remote, watch->invocation->argument, &watch->snapshot, fault);

    if (status == ST_OK) watch->away_since_ms = 0;
    if (!remote_is_away(status) || !watch->snapshot.detail) return status;
    if (watch->away_since_ms == 0) watch->away_since_ms = clock_now_ms();
    return ST_OK;
}

/* ---- in a terminal ---- */

static void draw(const struct watch *watch, const struct terminal *terminal)
{
    struct frame_view view = snapshot_view(&watch->snapshot, clock_now_ms());
    struct screen screen;

    view.live = true;
    view.away_since_ms = watch->away_since_ms;
    screen_init(&screen, terminal->columns, terminal->rows, terminal->colour, terminal->utf8);
    frame_compose(&view, &screen);
    screen_redraw(&screen, STDOUT_FILENO);
    screen_fini(&screen);
}

static void suspend(struct terminal *terminal)
{
    terminal_release();
    interrupts_suspend();
    terminal_take();
    terminal_measure(STDOUT_FILENO, terminal);
}

/* Until it is time to ask again; a resized window is drawn at once. */
static enum wakeup pause_drawing(struct watch *watch, struct terminal *terminal, int *signal)
{
    uint64_t end_ms = clock_monotonic_ms() + (uint64_t)watch->interval_ms;

    for (;;) {
        uint64_t now_ms = clock_monotonic_ms();
        int left_ms = end_ms > now_ms ? (int)(end_ms - now_ms) : 0;
        enum wakeup wakeup = interrupts_wait(&watch->waiting.interrupts, left_ms, signal);
        if (wakeup == WAKEUP_RESIZE)
            terminal_measure(STDOUT_FILENO, terminal);
        else if (wakeup == WAKEUP_STOP)
            suspend(terminal);
        else
            return wakeup;
        draw(watch, terminal);
    }
}

static enum exit_code watch_terminal(struct watch *watch, struct terminal *terminal)
{
    struct fault fault;
    enum run_state state;
    enum wakeup wakeup = WAKEUP_TIME;
    int signal;

    terminal_take();
    watch->waiting.interrupts.keyboard = isatty(STDIN_FILENO);
    enum status status = ST_OK;
    while (!summary_is_final(summary_of(watch), &state)) {
        draw(watch, terminal);
        wakeup = pause_drawing(watch, terminal, &signal);
        if (wakeup != WAKEUP_TIME) break;
        status = refresh(watch, &fault);
        if (status != ST_OK) break;
    }
    terminal_release();
    if (status != ST_OK) return report_fault(watch->invocation, &fault);
    if (wakeup == WAKEUP_END)
        return waiting_interrupted(watch->invocation, summary_of(watch)->id, signal);
    if (wakeup == WAKEUP_QUIT) return EXIT_CODE_OK;
    status_print(&watch->snapshot);
    return run_end_tell(watch->invocation, summary_of(watch));
}

/* ---- in a pipe ---- */

/* What makes a new line. */
struct seen {
    char state[32];
    uint32_t attempt;
    uint64_t step;
    uint64_t last_event;
};

static bool changed(const struct watch *watch, struct seen *seen)
{
    const Performer__RunSummary *run = summary_of(watch);
    struct seen now = {
        .attempt = run->attempt, .step = run->step, .last_event = watch->snapshot.last_event};

    snprintf(now.state, sizeof now.state, "%s", run->state);
    bool same = strcmp(now.state, seen->state) == 0 && now.attempt == seen->attempt &&
                now.step == seen->step && now.last_event == seen->last_event;
    *seen = now;
    return !same;
}

static void put_metric(const Performer__RunSummary *run, const char *name)
{
    double value = latest_metric(run, name);

    if (!isnan(value)) printf("  %s %s", name, value_text(value).text);
}

static void print_change(const struct watch *watch)
{
    const Performer__RunSummary *run = summary_of(watch);
    double speed = latest_metric(run, "tokens_per_second");
    struct approximation worst;
    int64_t left_ms = progress_left_by_rows_ms(run, watch->snapshot.loss->metric_page->rows,
                                               watch->snapshot.loss->metric_page->n_rows);

    if (invocation_json(watch->invocation)) {
        report_json(run_summary_json(run));
        fflush(stdout);
        return;
    }
    printf("%s  %s  %s  attempt %u  step %llu/%llu", clock_text(clock_now_ms()).text, run->id,
           run->state, run->attempt, (unsigned long long)run->step, (unsigned long long)run->steps);
    put_metric(run, "loss");
    put_metric(run, "valid_loss");
    if (approximation_newest(run, &worst) && worst.has_error)
        printf("  error %s", value_text(worst.error).text);
    if (!isnan(speed)) printf("  %s tok/s", count_text(speed).text);
    if (left_ms >= 0) printf("  ETA %s", duration_text(left_ms).text);
    putchar('\n');
    fflush(stdout);
}

static enum exit_code watch_pipe(struct watch *watch)
{
    struct seen seen = {0};
    struct fault fault;
    enum run_state state;
    int signal;

    for (;;) {
        if (changed(watch, &seen)) print_change(watch);
        if (summary_is_final(summary_of(watch), &state))
            return run_end_tell(watch->invocation, summary_of(watch));
        if (waiting_pause(&watch->waiting, watch->interval_ms, &signal))
            return waiting_interrupted(watch->invocation, summary_of(watch)->id, signal);
        if (refresh(watch, &fault) != ST_OK) return report_fault(watch->invocation, &fault);
        waiting_tell(watch->invocation, &watch->waiting,
                     watch->away_since_ms ? ST_UNREACHABLE : ST_OK, &fault);
    }
}

enum exit_code watch_run(const struct invocation *invocation)
{
    const struct option_value *interval = &invocation->options[OPTION_WATCH];
    struct watch watch = {.invocation = invocation, .interval_ms = 1000};
    struct terminal terminal;
    struct fault fault;
    enum exit_code code;

    if (interval->text) watch.interval_ms = (int)fmin(fmax(interval->number * 1000, 100), 86400e3);
    terminal_probe(STDOUT_FILENO, &terminal);
    enum status status = waiting_open(invocation, &watch.waiting, &fault);
    if (status != ST_OK) return report_fault(invocation, &fault);
    status = refresh(&watch, &fault);
    /* A first look may succeed in part; without all of it there is nothing to compare with. */
    if (status == ST_OK && watch.away_since_ms) status = fault.status;
    if (status != ST_OK)
        code = report_fault(invocation, &fault);
    else if (terminal.interactive && !invocation_json(invocation))
        code = watch_terminal(&watch, &terminal);
    else
        code = watch_pipe(&watch);
    snapshot_fini(&watch.snapshot);
    waiting_close(&watch.waiting);
    return code;
}
