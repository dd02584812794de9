#include "cli/frame.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/approximation.h"
#include "cli/glyph.h"
#include "cli/progress.h"
#include "cli/quantity.h"
#include "cli/sparkline.h"

enum {
    LABEL = 12,             /* column at which values begin */
    REMARK = 26,            /* columns beside a curve */
    NARROW = 60,            /* columns below which parts are left out */
    ROOMY_ROWS = 30,        /* rows from which there is space between the parts */
    ROOMY_ROWS_NARROW = 44, /* and on a narrow screen, where the same takes more of them */
    CHART_ROWS = 6,         /* height of the loss where there is space */
    RANKS_MAX = 16,         /* rank lines of a screen without a limit */
    EVENTS_MAX = 8,         /* event lines of one */
    DRAWS_SHOWN = 3,
    SILENT_MS = 10000, /* a rank not heard for longer is marked */
};

static unsigned long long ull(uint64_t value)
{
    return value;
}

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Whether there is space to spare; a narrow screen needs more rows for the same. */
static bool is_roomy(const struct screen *screen)
{
    if (screen->rows == 0) return true;
    return screen->rows >= (screen->columns < NARROW ? ROOMY_ROWS_NARROW : ROOMY_ROWS);
}

static void gap(struct screen *screen)
{
    if (is_roomy(screen)) screen_line(screen);
}

/* Puts the text after a gap if it fits, else nothing. */
static void put_if_room(struct screen *screen, const char *text)
{
    if (screen->column + 3 + strlen(text) > screen->columns) return;
    screen_item(screen, 0, STYLE_DIM, "%s", text);
}

static void label(struct screen *screen, const char *text)
{
    screen_line(screen);
    screen_put(screen, STYLE_DIM, "%s", text);
    screen_pad(screen, LABEL);
}

/* ---- who and how far ---- */

static bool is_final(const Performer__RunSummary *run)
{
    return run->ended_ms != 0;
}

/* The name gives way where there is little room, so that the state is always seen. */
static void put_title(const struct frame_view *view, struct screen *screen)
{
    const Performer__RunSummary *run = view->detail->summary;
    size_t fixed = strlen(run->id) + strlen(run->state) + 5;
    size_t room = screen->columns > fixed + 4 ? screen->columns - fixed : 4;
    size_t bytes = text_prefix(run->name, room);
    char attempt[32], ranks[32];

    screen_line(screen);
    screen_put(screen, STYLE_BOLD, "%s", run->id);
    screen_put(screen, STYLE_BOLD, "  %.*s", (int)bytes, run->name);
    screen_put(screen, style_of_state(run->state), "  %s", run->state);
    snprintf(attempt, sizeof attempt, "attempt %u", run->attempt);
    snprintf(ranks, sizeof ranks, "%u rank%s", run->ranks, run->ranks == 1 ? "" : "s");
    if (run->attempt > 0) put_if_room(screen, attempt);
    put_if_room(screen, ranks);
    if (!view->live) return;
    struct quantity clock = clock_text(view->now_ms);
    size_t width = strlen(clock.text);
    if (screen->column + 4 + width > screen->columns) return;
    screen_pad(screen, screen->columns - width);
    screen_put(screen, STYLE_DIM, "%s", clock.text);
}

static void put_away(const struct frame_view *view, struct screen *screen)
{
    if (view->away_since_ms == 0) return;
    uint64_t gone_ms = view->now_ms > view->away_since_ms ? view->now_ms - view->away_since_ms : 0;
    screen_line(screen);
    screen_put(screen, STYLE_WARN, "no answer from the daemon since %s (%s), trying again",
               clock_text(view->away_since_ms).text, duration_text((int64_t)gone_ms).text);
}

static void put_bar(const Performer__RunSummary *run, struct screen *screen)
{
    char filled[BAR_BYTES_MAX], numbers[64];
    double share = progress_share(run);
    int length = snprintf(numbers, sizeof numbers, "  %llu/%llu  %.0f%%", ull(run->step),
                          ull(run->steps), floor(share * 100));
    size_t columns = screen->columns > (size_t)length + 4 ? screen->columns - (size_t)length : 4;

    columns = min_size(columns, BAR_COLUMNS_MAX);
    size_t used = progress_bar(share, columns, screen->utf8, filled);
    screen_line(screen);
    screen_put(screen, style_of_state(run->state), "%s", filled);
    for (; used < columns; used++) screen_put(screen, STYLE_DIM, "%s", screen->utf8 ? "─" : "-");
    screen_put(screen, STYLE_PLAIN, "%s", numbers);
}

static int64_t left_ms(const struct frame_view *view)
{
    const Performer__RunSummary *run = view->detail->summary;
    int64_t by_rows_ms = progress_left_by_rows_ms(run, view->loss.rows, view->loss.count);

    return by_rows_ms >= 0 ? by_rows_ms : progress_left_ms(run);
}

static void put_times(const struct frame_view *view, struct screen *screen)
{
    const Performer__RunSummary *run = view->detail->summary;
    int64_t elapsed_ms = progress_elapsed_ms(run, view->now_ms), eta_ms = left_ms(view);

    screen_line(screen);
    if (elapsed_ms < 0)
        screen_item(screen, 0, STYLE_PLAIN, "submitted %s ago",
                    duration_text((int64_t)(view->now_ms - run->submitted_ms)).text);
    else
        screen_item(screen, 0, STYLE_PLAIN, "%s %s", is_final(run) ? "took" : "elapsed",
                    duration_text(elapsed_ms).text);
    if (eta_ms >= 0) {
        screen_item(screen, 0, STYLE_PLAIN, "ETA %s", duration_text(eta_ms).text);
        screen_item(screen, 0, STYLE_DIM, "done about %s",
                    clock_text(view->now_ms + (uint64_t)eta_ms).text);
    }
    if (is_final(run)) screen_item(screen, 0, STYLE_DIM, "ended %s", date_text(run->ended_ms).text);
    if (run->reason[0] != '\0' && strcmp(run->state, "RUNNING") != 0)
        screen_item(screen, 0, is_final(run) ? style_of_state(run->state) : STYLE_WARN, "%s",
                    run->reason);
}

/* ---- how it learns ---- */

/*
 * The values as `columns` of them, evenly over the rows, so that curves of few and of many points span the
 * same steps. The array is the caller's, to be freed; NULL out of memory.
 */
static double *stretch(const struct frame_curve *curve, size_t columns)
{
    size_t count = curve->count < columns && curve->count > 1 ? columns : curve->count;
    double *values = malloc((count + 1) * sizeof *values);

    for (size_t i = 0; values && i < count; i++)
        values[i] = curve->rows[i * curve->count / count]->value;
    return values;
}

/* The newest value, and its curve in `height` lines. */
static void put_curve(struct screen *screen, const char *name, const struct frame_curve *curve,
                      double newest, const char *remark, size_t height)
{
    enum { VALUE = 9 };
    char line[SPARKLINE_BYTES_MAX];

    label(screen, name);
    if (isnan(newest) && curve->count == 0) {
        screen_put(screen, STYLE_DIM, "-");
        return;
    }
    screen_put(screen, isfinite(newest) ? STYLE_BOLD : STYLE_BAD, "%s", value_text(newest).text);
    size_t tail = screen->columns >= 70 && remark[0] ? REMARK : 0;
    size_t used = LABEL + VALUE + tail;
    size_t room = screen->columns > used ? screen->columns - used : 0;
    if (room > SPARKLINE_COLUMNS_MAX) room = SPARKLINE_COLUMNS_MAX;
    double *values = stretch(curve, room);
    if (!values) return;
    size_t count = curve->count < room && curve->count > 1 ? room : curve->count;
    for (size_t row = 0; row < height; row++) {
        if (row > 0) screen_line(screen);
        screen_pad(screen, LABEL + VALUE);
        sparkline_row(values, count, room, height, row, screen->utf8, line);
        screen_put(screen, STYLE_ACCENT, "%s", line);
        if (row == 0 && tail > 0) screen_put(screen, STYLE_DIM, "  %s", remark);
    }
    free(values);
}

static double least(const struct frame_curve *curve, uint64_t *step)
{
    double found = NAN;

    for (size_t i = 0; i < curve->count; i++) {
        if (!isfinite(curve->rows[i]->value) || curve->rows[i]->value >= found) continue;
        found = curve->rows[i]->value;
        *step = curve->rows[i]->step;
    }
    return found;
}

static void put_curves(const struct frame_view *view, struct screen *screen)
{
    const Performer__RunSummary *run = view->detail->summary;
    char remark[80] = "";
    uint64_t step = 0;

    if (view->loss.count > 0)
        snprintf(remark, sizeof remark, "from %s", value_text(view->loss.rows[0]->value).text);
    put_curve(screen, "loss", &view->loss, latest_metric(run, "loss"), remark,
              is_roomy(screen) && screen->rows > 0 ? CHART_ROWS : 1);
    double best = least(&view->valid_loss, &step);
    remark[0] = '\0';
    if (isfinite(best))
        snprintf(remark, sizeof remark, "best %s, step %llu", value_text(best).text, ull(step));
    put_curve(screen, "valid loss", &view->valid_loss, latest_metric(run, "valid_loss"), remark, 1);
}

static void put_speed(const Performer__RunSummary *run, struct screen *screen)
{
    double speed = latest_metric(run, "tokens_per_second"), step = latest_metric(run, "step_ms");
    double lr = latest_metric(run, "lr"), norm = latest_metric(run, "grad_norm");
    double accuracy = latest_metric(run, "valid_accuracy");

    label(screen, "speed");
    if (isnan(speed) && isnan(step)) screen_put(screen, STYLE_DIM, "-");
    if (!isnan(speed)) screen_item(screen, LABEL, STYLE_PLAIN, "%s tok/s", count_text(speed).text);
    if (!isnan(step)) screen_item(screen, LABEL, STYLE_PLAIN, "step %s", span_text(step).text);
    if (!isnan(lr)) screen_item(screen, LABEL, STYLE_PLAIN, "lr %s", value_text(lr).text);
    if (!isnan(norm))
        screen_item(screen, LABEL, isfinite(norm) ? STYLE_PLAIN : STYLE_BAD, "grad norm %s",
                    value_text(norm).text);
    if (isfinite(accuracy))
        screen_item(screen, LABEL, STYLE_DIM, "valid accuracy %.1f%%", accuracy * 100);
}

/* ---- features and checkpoints ---- */

static void put_redraw(const Performer__RedrawInfo *redraw, struct screen *screen)
{
    size_t heard = 0;
    const char *hash = "";

    for (size_t i = 0; i < redraw->n_hashes; i++) {
        if (redraw->hashes[i][0] == '\0') continue;
        hash = redraw->hashes[i];
        heard++;
    }
    screen_item(screen, LABEL, STYLE_PLAIN, "draw %llu", ull(redraw->draw));
    screen_item(screen, LABEL, STYLE_DIM, "after step %llu, %s", ull(redraw->step), redraw->why);
    if (heard == 0) return;
    if (heard < redraw->n_hashes)
        screen_item(screen, LABEL, STYLE_DIM, "%.8s from %zu of %zu ranks", hash, heard,
                    redraw->n_hashes);
    else if (redraw->agreed)
        screen_item(screen, LABEL, STYLE_GOOD, "%.8s on %s", hash,
                    heard == 1 ? "the rank" : "all ranks");
    else
        screen_item(screen, LABEL, STYLE_BAD, "the ranks DIFFER");
}

static void put_plan(const Performer__RunDetail *detail, struct screen *screen)
{
    if (is_final(detail->summary)) return;
    if (detail->next_redraw_step > 0)
        screen_item(screen, LABEL, STYLE_PLAIN, "next redraw after step %llu",
                    ull(detail->next_redraw_step));
    else if (detail->redraw_threshold > 0)
        screen_item(screen, LABEL, STYLE_PLAIN, "redraws when an error passes %s",
                    value_text(detail->redraw_threshold).text);
    else
        screen_item(screen, LABEL, STYLE_DIM, "no redraw planned");
}

static void put_approximation(const Performer__RunDetail *detail, struct screen *screen)
{
    struct approximation worst;
    char step[40];

    if (!approximation_newest(detail->summary, &worst)) return;
    if (screen->column > LABEL) {
        screen_line(screen);
        screen_pad(screen, LABEL);
    }
    bool passed = detail->redraw_threshold > 0 && !(worst.error <= detail->redraw_threshold);
    if (worst.has_error)
        screen_item(screen, LABEL,
                    isnan(worst.error) ? STYLE_BAD
                    : passed           ? STYLE_WARN
                                       : STYLE_PLAIN,
                    "error %s in layer %llu", value_text(worst.error).text, ull(worst.layer));
    screen_item(screen, LABEL, worst.denominator_min > 0 ? STYLE_PLAIN : STYLE_BAD,
                "least denominator %s", value_text(worst.denominator_min).text);
    screen_item(screen, LABEL, STYLE_PLAIN, "saturated %.1f%%", worst.saturated * 100);
    snprintf(step, sizeof step, "after step %llu", ull(worst.step));
    put_if_room(screen, step);
}

static void put_redraws(const Performer__RunDetail *detail, struct screen *screen)
{
    size_t shown = min_size(detail->n_redraws, is_roomy(screen) ? DRAWS_SHOWN : 1);

    label(screen, "features");
    put_plan(detail, screen);
    put_approximation(detail, screen);
    for (size_t i = 0; i < shown; i++) {
        if (screen->column > LABEL && (shown > 1 || screen->columns < 100)) {
            screen_line(screen);
            screen_pad(screen, LABEL);
        }
        put_redraw(detail->redraws[detail->n_redraws - 1 - i], screen);
    }
}

static void put_checkpoints(const struct frame_view *view, struct screen *screen)
{
    const Performer__RunDetail *detail = view->detail;
    const Performer__CheckpointInfo *last = NULL, *best = NULL;

    for (size_t i = 0; i < detail->n_checkpoints; i++) {
        const Performer__CheckpointInfo *one = detail->checkpoints[i];
        if (strcmp(one->verdict, "good") != 0) continue;
        if (!last || one->step > last->step) last = one;
        if (one->best) best = one;
    }
    label(screen, "checkpoint");
    if (last) {
        int64_t age_ms = (int64_t)(view->now_ms - last->saved_ms);
        screen_item(screen, LABEL, STYLE_PLAIN, "last step %llu", ull(last->step));
        screen_item(screen, LABEL, STYLE_DIM, "%s ago, %s", duration_text(age_ms).text,
                    bytes_text((double)last->bytes).text);
    } else {
        screen_item(screen, LABEL, STYLE_DIM, "none yet");
    }
    if (best)
        screen_item(screen, LABEL, STYLE_GOOD, "best step %llu (%s)", ull(best->step),
                    value_text(best->valid_loss).text);
    if (detail->next_checkpoint_step > 0 && !is_final(detail->summary))
        screen_item(screen, LABEL, STYLE_PLAIN, "next after step %llu",
                    ull(detail->next_checkpoint_step));
}

/* ---- ranks ---- */

/* Columns of the rank lines; host and pid are left out where there is no room for them. */
struct rank_columns {
    size_t host, pid, phase, step, span, heard;
};

static struct rank_columns rank_columns(const Performer__RunDetail *detail, size_t columns)
{
    enum { HOST_MIN = 6, HOST_MAX = 24, HOST_NARROW = 16, PID = 9, WIDE = 120 };
    size_t host = HOST_MIN;

    for (size_t i = 0; i < detail->n_ranks; i++) {
        size_t width = text_columns(detail->ranks[i]->host) + 2;
        if (width > host) host = width;
    }
    host = min_size(host, columns >= WIDE ? HOST_MAX : HOST_NARROW);
    struct rank_columns at = {.host = 6, .pid = 6 + host, .phase = 6 + host + PID};
    if (columns < NARROW) at = (struct rank_columns){.phase = 6};
    at.step = at.phase + 13;
    at.span = at.step + (columns < NARROW ? 7 : 9);
    at.heard = at.span + (columns < NARROW ? 9 : 11);
    return at;
}

static void put_rank_header(const struct rank_columns *at, struct screen *screen)
{
    screen_line(screen);
    screen_put(screen, STYLE_DIM, "RANK");
    if (at->host > 0) {
        screen_pad(screen, at->host);
        screen_put(screen, STYLE_DIM, "HOST");
        screen_pad(screen, at->pid);
        screen_put(screen, STYLE_DIM, "PID");
    }
    screen_pad(screen, at->phase);
    screen_put(screen, STYLE_DIM, "PHASE");
    screen_pad(screen, at->step);
    screen_put(screen, STYLE_DIM, "STEP");
    screen_pad(screen, at->span);
    screen_put(screen, STYLE_DIM, "TIME");
    screen_pad(screen, at->heard);
    screen_put(screen, STYLE_DIM, "HEARD");
}

static void put_rank(const struct rank_columns *at, const Performer__RankInfo *rank,
                     struct screen *screen)
{
    bool silent = rank->heard_ms > SILENT_MS;

    screen_line(screen);
    screen_put(screen, STYLE_BOLD, "%u", rank->rank);
    if (at->host > 0) {
        size_t bytes = text_prefix(rank->host, at->pid - at->host - 2);
        screen_pad(screen, at->host);
        screen_put(screen, STYLE_PLAIN, "%.*s", (int)bytes, rank->host);
        screen_pad(screen, at->pid);
        screen_put(screen, STYLE_DIM, "%llu", ull(rank->pid));
    }
    screen_pad(screen, at->phase);
    screen_put(screen, STYLE_ACCENT, "%.12s", rank->phase);
    screen_pad(screen, at->step);
    screen_put(screen, STYLE_PLAIN, "%llu", ull(rank->step));
    screen_pad(screen, at->span);
    screen_put(screen, STYLE_PLAIN, "%s", rank->step_ms > 0 ? span_text(rank->step_ms).text : "-");
    screen_pad(screen, at->heard);
    screen_put(screen, silent ? STYLE_WARN : STYLE_DIM, "%s%s",
               duration_text((int64_t)rank->heard_ms).text, at->host > 0 ? " ago" : "");
    if (rank->slow) screen_put(screen, STYLE_WARN, " slow");
}

static void put_ranks(const Performer__RunDetail *detail, size_t rows, struct screen *screen)
{
    struct rank_columns at = rank_columns(detail, screen->columns);
    size_t shown = detail->n_ranks;

    if (detail->n_ranks == 0 || rows < 2) return;
    put_rank_header(&at, screen);
    if (shown > rows - 1) shown = rows - 2;
    for (size_t i = 0; i < shown; i++) put_rank(&at, detail->ranks[i], screen);
    if (shown == detail->n_ranks) return;
    screen_line(screen);
    screen_put(screen, STYLE_DIM, "and %zu more", detail->n_ranks - shown);
}

/* ---- events ---- */

static enum style style_of_event(const char *kind)
{
    static const char *const bad[] = {"failed", "disagreed", "rejected"};

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (strstr(kind, bad[i])) return STYLE_BAD;
    return strcmp(kind, "run-succeeded") == 0 ? STYLE_GOOD : STYLE_BOLD;
}

static void put_events(const struct frame_view *view, size_t rows, struct screen *screen)
{
    size_t shown = min_size(view->event_count, rows);
    bool narrow = screen->columns < NARROW;

    for (size_t i = view->event_count - shown; i < view->event_count; i++) {
        const struct frame_event *event = &view->events[i];
        screen_line(screen);
        screen_put(screen, STYLE_DIM, "%s  ", clock_text(event->time_ms).text);
        if (!narrow) screen_put(screen, style_of_event(event->kind), "%-18s  ", event->kind);
        screen_put(screen, STYLE_PLAIN, "%s",
                   narrow || event->text[0] == '\0' ? event->kind : event->text);
    }
}

/* ---- the whole ---- */

void frame_compose(const struct frame_view *view, struct screen *screen)
{
    const Performer__RunDetail *detail = view->detail;
    size_t foot = view->live ? 1 : 0;

    put_title(view, screen);
    put_away(view, screen);
    put_bar(detail->summary, screen);
    put_times(view, screen);
    gap(screen);
    put_curves(view, screen);
    put_speed(detail->summary, screen);
    put_redraws(detail, screen);
    put_checkpoints(view, screen);
    gap(screen);
    size_t left = screen_rows_left(screen);
    size_t rows = left == SIZE_MAX ? RANKS_MAX : left > foot ? left - foot : 0;
    /* Half of what is left for the ranks, unless the events need less than theirs. */
    size_t events = min_size(view->event_count, left == SIZE_MAX ? EVENTS_MAX : rows / 2);
    put_ranks(detail, left == SIZE_MAX ? RANKS_MAX : rows - events, screen);
    left = screen_rows_left(screen);
    rows = left == SIZE_MAX ? EVENTS_MAX : left > foot ? left - foot : 0;
    if (rows > 1 && view->event_count > 0) {
        gap(screen);
        rows -= is_roomy(screen);
    }
    put_events(view, rows, screen);
    if (!view->live) return;
    screen_line(screen);
    screen_put(screen, STYLE_DIM, "q leaves, the run goes on");
}
