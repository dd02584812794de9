/* What is drawn: glyphs, quantities, tables, sparklines, screens, and the picture of a run. */

#include <criterion/criterion.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/frame.h"
#include "cli/glyph.h"
#include "cli/progress.h"
#include "cli/quantity.h"
#include "cli/screen.h"
#include "cli/sparkline.h"
#include "cli/table.h"
#include "tests/cli/canned_run.h"

static void use_utf8(void)
{
    cr_assert_not_null(setlocale(LC_ALL, "C.UTF-8"));
}

TestSuite(display, .init = use_utf8);

/* ---- glyphs ---- */

Test(display, columns_are_those_of_a_terminal)
{
    cr_assert_eq(text_columns(""), 0);
    cr_assert_eq(text_columns("abc"), 3);
    cr_assert_eq(text_columns("█▁é"), 3);
    cr_assert_eq(text_columns("日本"), 4);
    cr_assert_eq(text_columns("e\u0301"), 1); /* a combining accent */
}

Test(display, a_prefix_never_cuts_a_glyph)
{
    cr_assert_eq(text_prefix("abc", 2), 2);
    cr_assert_eq(text_prefix("日本", 3), 3);
    cr_assert_eq(text_prefix("日本", 1), 0);
    cr_assert_eq(text_prefix("█▁", 1), 3);
    cr_assert_eq(text_prefix("ab", 9), 2);
}

Test(display, foreign_text_cannot_move_the_cursor)
{
    char out[64];

    text_clean(out, sizeof out, "a\033[2Jb\tc\nd\x7f", true);
    cr_assert_str_eq(out, "a?[2Jb c d?");
    text_clean(out, sizeof out, "\xff\xc0\xafx\xe2\x96", true); /* broken, overlong, cut */
    cr_assert_str_eq(out, "???x??");
    text_clean(out, sizeof out, "é", false);
    cr_assert_str_eq(out, "?");
    text_clean(out, 3, "éé", true); /* the second does not fit */
    cr_assert_str_eq(out, "é");
}

/* ---- quantities ---- */

Test(display, times_are_for_people)
{
    cr_assert_str_eq(duration_text(-5).text, "0s");
    cr_assert_str_eq(duration_text(45000).text, "45s");
    cr_assert_str_eq(duration_text(192000).text, "3m 12s");
    cr_assert_str_eq(duration_text(7500000).text, "2h 5m");
    cr_assert_str_eq(duration_text(INT64_C(273600000)).text, "3d 4h");
    cr_assert_str_eq(age_text(7500000).text, "2h");
    cr_assert_str_eq(span_text(0.5).text, "0.5 ms");
    cr_assert_str_eq(span_text(412.3).text, "412 ms");
    cr_assert_str_eq(span_text(1284).text, "1.28 s");
    cr_assert_str_eq(span_text(192000).text, "3m 12s");
    cr_assert_str_eq(span_text(NAN).text, "-");
}

Test(display, numbers_have_three_digits)
{
    cr_assert_str_eq(count_text(0).text, "0");
    cr_assert_str_eq(count_text(950).text, "950");
    cr_assert_str_eq(count_text(0.5).text, "0.50");
    cr_assert_str_eq(count_text(12345.6).text, "12.3k");
    cr_assert_str_eq(count_text(999999).text, "1.00M");
    cr_assert_str_eq(count_text(4.21e6).text, "4.21M");
    cr_assert_str_eq(bytes_text(512).text, "512 B");
    cr_assert_str_eq(bytes_text(13.2e6).text, "13.2 MB");
    cr_assert_str_eq(count_text(INFINITY).text, "-");
    cr_assert_str_eq(value_text(2.84117).text, "2.841");
    cr_assert_str_eq(value_text(18900.1).text, "18900");
    cr_assert_str_eq(value_text(NAN).text, "nan");
}

/* ---- sparkline ---- */

Test(display, a_sparkline_spans_the_heights)
{
    double rising[] = {1, 2, 3, 4, 5, 6, 7, 8};
    char line[SPARKLINE_BYTES_MAX];

    sparkline(rising, 8, 80, true, line);
    cr_assert_str_eq(line, "▁▂▃▄▅▆▇█");
    sparkline(rising, 8, 80, false, line);
    cr_assert_str_eq(line, "_.-~=+*#");
    sparkline(rising, 8, 4, true, line); /* means of pairs */
    cr_assert_str_eq(line, "▁▃▆█");
}

Test(display, a_tall_curve_is_the_same_in_more_heights)
{
    double rising[] = {0, 1, 2, 3};
    char line[SPARKLINE_BYTES_MAX];

    sparkline_row(rising, 4, 80, 2, 0, true, line);
    cr_assert_str_eq(line, "  ▃█");
    sparkline_row(rising, 4, 80, 2, 1, true, line);
    cr_assert_str_eq(line, "▁▆██");
}

Test(display, a_sparkline_takes_what_comes)
{
    double odd[] = {NAN, 5, INFINITY, 5};
    static double many[10000];
    char line[SPARKLINE_BYTES_MAX];

    sparkline(odd, 4, 80, true, line);
    cr_assert_str_eq(line, " ▄ ▄"); /* constant, with gaps */
    sparkline(odd, 1, 80, true, line);
    cr_assert_str_eq(line, " ");
    sparkline(odd, 0, 80, true, line);
    cr_assert_str_eq(line, "");
    sparkline(odd, 4, 0, true, line);
    cr_assert_str_eq(line, "");
    for (size_t i = 0; i < 10000; i++) many[i] = (double)i;
    sparkline(many, 10000, 10000, true, line);
    cr_assert_eq(text_columns(line), SPARKLINE_COLUMNS_MAX);
}

/* ---- table ---- */

static char *printed(const struct table *table, const struct terminal *terminal)
{
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);

    table_print(table, out, terminal);
    fclose(out);
    return text;
}

Test(display, table_columns_fit_their_content)
{
    static const char *const headers[] = {"ID", ">STEP", "TEXT"};
    struct terminal terminal = {.utf8 = true};
    struct table table;

    table_init(&table, headers, 3);
    table_cell(&table, STYLE_PLAIN, "日本");
    table_cell(&table, STYLE_PLAIN, "7");
    table_cell(&table, STYLE_PLAIN, "long text");
    table_cell(&table, STYLE_PLAIN, "r12");
    table_cell(&table, STYLE_PLAIN, "123456");
    table_cell(&table, STYLE_PLAIN, "%s", "");
    char *text = printed(&table, &terminal);
    cr_assert_str_eq(text, "ID      STEP  TEXT\n"
                           "日本       7  long text\n"
                           "r12   123456\n");
    free(text);
    terminal.columns = 18;
    text = printed(&table, &terminal);
    cr_assert_str_eq(text, "ID      STEP  TEXT\n"
                           "日本       7  long\n"
                           "r12   123456\n");
    free(text);
    table_fini(&table);
}

/* ---- screen ---- */

/* Columns of each line, styles left out, and the number of lines. */
static size_t widest(const char *text, size_t length, size_t *lines)
{
    size_t most = 0;
    char line[8192];
    size_t used = 0;

    *lines = length > 0;
    for (size_t i = 0; i <= length; i++) {
        if (i < length && text[i] == '\033') {
            while (text[i] != 'm') i++;
        } else if (i == length || text[i] == '\n') {
            line[used] = '\0';
            size_t columns = text_columns(line);
            if (columns > most) most = columns;
            used = 0;
            *lines += i < length;
        } else {
            line[used++] = text[i];
        }
    }
    return most;
}

Test(display, a_screen_keeps_to_its_size)
{
    struct screen screen;
    size_t lines;

    screen_init(&screen, 10, 3, true, true);
    for (int i = 0; i < 6; i++) {
        screen_line(&screen);
        screen_put(&screen, STYLE_BOLD, "line %d 日本日本日本", i);
        screen_pad(&screen, 30);
        screen_item(&screen, 2, STYLE_DIM, "item");
    }
    cr_assert_leq(widest(screen.bytes, screen.length, &lines), 10);
    cr_assert_eq(lines, 3);
    cr_assert_eq(screen_rows_left(&screen), 0);
    screen_fini(&screen);
}

Test(display, an_item_that_does_not_fit_moves_to_the_next_line)
{
    struct screen screen;

    screen_init(&screen, 20, 0, false, true);
    screen_line(&screen);
    screen_put(&screen, STYLE_PLAIN, "label");
    screen_item(&screen, 8, STYLE_PLAIN, "one");
    screen_item(&screen, 8, STYLE_PLAIN, "two");
    screen_item(&screen, 8, STYLE_PLAIN, "three");
    cr_assert_eq(screen.lines, 2);
    cr_assert_eq(strncmp(screen.bytes, "label   one   two\n        three", screen.length), 0);
    screen_fini(&screen);
}

Test(display, a_redraw_clears_only_what_is_not_drawn)
{
    struct screen screen;
    int ends[2];
    char bytes[512];

    screen_init(&screen, 4, 2, false, true);
    screen_line(&screen);
    screen_put(&screen, STYLE_PLAIN, "abcd");
    screen_line(&screen);
    screen_put(&screen, STYLE_PLAIN, "ab");
    cr_assert_eq(pipe(ends), 0);
    screen_redraw(&screen, ends[1]);
    ssize_t length = read(ends[0], bytes, sizeof bytes - 1);
    cr_assert_gt(length, 0);
    bytes[length] = '\0';
    cr_assert_str_eq(bytes, "\033[?2026h\033[Habcd\r\nab\033[K\033[?2026l");
    screen_fini(&screen);
}

/* ---- progress ---- */

Test(display, a_bar_is_filled_by_halves)
{
    char filled[BAR_BYTES_MAX];

    cr_assert_eq(progress_bar(0, 10, true, filled), 0);
    cr_assert_eq(progress_bar(0.55, 10, true, filled), 6);
    cr_assert_str_eq(filled, "━━━━━╸");
    cr_assert_eq(progress_bar(0.55, 10, false, filled), 5);
    cr_assert_str_eq(filled, "#####");
    cr_assert_eq(progress_bar(1, 10, true, filled), 10);
    cr_assert_eq(progress_bar(1, 100000, true, filled), BAR_COLUMNS_MAX);
}

Test(display, the_time_left_follows_the_pace)
{
    Performer__MetricRow items[4], *rows[4];
    struct canned_run run;

    canned_run_init(&run, "RUNNING", 1000);
    for (size_t i = 0; i < 4; i++) {
        performer__metric_row__init(&items[i]);
        items[i].attempt = i < 1 ? 1 : 2;
        items[i].step = 990 + i;
        items[i].time_ms = 5000 + 100 * i;
        rows[i] = &items[i];
    }
    cr_assert_eq(progress_left_by_rows_ms(&run.summary, rows, 4), 1000 * 100);
    cr_assert_eq(progress_left_by_rows_ms(&run.summary, rows, 1), -1);
    items[1].attempt = items[2].attempt = 1; /* then the newest attempt has but one row */
    cr_assert_eq(progress_left_by_rows_ms(&run.summary, rows, 4), -1);
    cr_assert_eq(progress_left_ms(&run.summary), 412300);
    canned_run_init(&run, "QUEUED", 0);
    cr_assert_eq(progress_left_ms(&run.summary), -1);
    canned_run_init(&run, "SUCCEEDED", CANNED_STEPS);
    cr_assert_eq(progress_left_ms(&run.summary), -1);
    cr_assert_eq(progress_elapsed_ms(&run.summary, CANNED_SUBMITTED_MS * 2), 192000);
}

/* ---- the picture ---- */

struct picture {
    struct canned_run run;
    Performer__MetricRow items[300], *rows[300];
    struct frame_event events[40];
    struct frame_view view;
};

static void picture_init(struct picture *picture, const char *state, uint64_t step)
{
    canned_run_init(&picture->run, state, step);
    for (size_t i = 0; i < 300; i++) {
        performer__metric_row__init(&picture->items[i]);
        picture->items[i].attempt = 2;
        picture->items[i].step = i + 1;
        picture->items[i].value = 4.2 / (1 + (double)i / 100);
        picture->items[i].time_ms = CANNED_SUBMITTED_MS + 400 * i;
        picture->rows[i] = &picture->items[i];
    }
    for (size_t i = 0; i < 40; i++) {
        picture->events[i] = (struct frame_event){.time_ms = CANNED_SUBMITTED_MS + i * 1000};
        snprintf(picture->events[i].kind, sizeof picture->events[i].kind, "event-%zu", i);
        memset(picture->events[i].text, 'x', sizeof picture->events[i].text - 1);
    }
    picture->view = (struct frame_view){
        .detail = &picture->run.detail,
        .loss = {picture->rows, 300},
        .valid_loss = {picture->rows, 30},
        .events = picture->events,
        .event_count = 40,
        .now_ms = CANNED_SUBMITTED_MS + 193000,
        .live = true,
    };
}

static char *compose(const struct frame_view *view, size_t columns, size_t rows, bool colour,
                     bool utf8)
{
    struct screen screen;
    size_t lines;

    screen_init(&screen, columns, rows, colour, utf8);
    frame_compose(view, &screen);
    cr_assert_leq(widest(screen.bytes, screen.length, &lines), columns, "%zu x %zu", columns, rows);
    if (rows > 0) cr_assert_leq(lines, rows, "%zu x %zu: %zu lines", columns, rows, lines);
    char *text = calloc(1, screen.length + 1);
    memcpy(text, screen.bytes, screen.length);
    screen_fini(&screen);
    return text;
}

Test(display, the_picture_never_exceeds_the_terminal)
{
    static const size_t columns[] = {1, 10, 40, 80, 200, 700}, rows[] = {0, 1, 5, 10, 24, 40, 100};
    static const char *const states[] = {"QUEUED", "RUNNING", "RESTARTING", "FAILED", "SUCCEEDED"};
    static struct picture picture;

    for (size_t s = 0; s < 5; s++)
        for (size_t c = 0; c < 6; c++)
            for (size_t r = 0; r < 7; r++) {
                picture_init(&picture, states[s], s == 0 ? 0 : 1240);
                if (s == 2) picture.run.detail.n_ranks = 20;
                if (s == 2) picture.view.away_since_ms = CANNED_SUBMITTED_MS;
                if (s == 2)
                    picture.run.summary.name = "日本語の名前日本語の名前日本語の名前日本語の名前";
                free(compose(&picture.view, columns[c], rows[r], r % 2 == 0, c % 2 == 0));
            }
}

static void must_show(const char *text, const char *part)
{
    cr_assert(strstr(text, part), "no \"%s\" in\n%s", part, text);
}

Test(display, the_picture_shows_what_matters)
{
    static struct picture picture;

    picture_init(&picture, "RUNNING", 1240);
    char *text = compose(&picture.view, 80, 40, false, true);
    static const char *const parts[] = {
        "r1  trembl-favor  RUNNING",
        "attempt 2",
        "1240/2000  62%",
        "elapsed 3m 12s",
        "ETA 5m 4s",
        "2.841",
        "12.3k tok/s",
        "step 412 ms",
        "lr 0.001",
        "grad norm 0.8123",
        "█",
        "next redraw after step 800",
        "draw 3",
        "from 1 of 2 ranks",
        "the ranks DIFFER",
        "9f3a61c2 on all ranks",
        "order 7",
        "after step 600, adaptive: kernel_error.1 0.6142 > 0.5",
        "error 0.6142 in layer 1   least denominator 0.013   saturated 0.2%\n",
        "last step 1500",
        "best step 1000 (2.9)",
        "next after step 2000",
        "backward",
        "node1",
        "4194300",
        "1m 5s ago",
        "event-39",
        "q leaves",
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) must_show(text, parts[i]);
    cr_assert_null(strchr(text, '\033'), "no colour was asked for");
    free(text);
    picture.view.away_since_ms = CANNED_SUBMITTED_MS + 103000;
    text = compose(&picture.view, 80, 40, false, true);
    must_show(text, "no answer from the daemon since");
    must_show(text, "1m 30s");
    free(text);
}

static void must_not_show(const char *text, const char *part)
{
    cr_assert_null(strstr(text, part), "\"%s\" in\n%s", part, text);
}

/* The metrics of the canned run from `first` on, or none, are all that is known. */
static char *compose_measured(struct picture *picture, size_t first, size_t count)
{
    picture_init(picture, "RUNNING", 1240);
    picture->run.detail.next_redraw_step = 0;
    picture->run.detail.redraw_threshold = 0.5;
    picture->run.summary.latest += first;
    picture->run.summary.n_latest = count;
    return compose(&picture->view, 100, 40, false, true);
}

Test(display, the_error_is_shown_where_it_is_measured)
{
    static struct picture picture;

    char *text = compose_measured(&picture, 0, 6);
    must_show(text, "redraws when an error passes 0.5");
    must_not_show(text, "denominator");
    free(text);
    text = compose_measured(&picture, 11, 4); /* a kernel that estimates no softmax */
    must_show(text, "least denominator 0.013   saturated 0.2%   after step 1200");
    must_not_show(text, "in layer");
    free(text);
    picture_init(&picture, "RUNNING", 1240);
    picture.run.latest_items[6].value = NAN;
    text = compose(&picture.view, 100, 40, false, true);
    must_show(text, "error nan in layer 0");
    free(text);
}

Test(display, a_small_terminal_keeps_the_head_and_says_what_is_left_out)
{
    static struct picture picture;

    picture_init(&picture, "RUNNING", 1240);
    picture.run.detail.n_ranks = 20;
    char *text = compose(&picture.view, 80, 24, false, true);
    must_show(text, "1240/2000");
    must_show(text, "loss");
    must_show(text, "more");
    must_show(text, "q leaves");
    free(text);
    text = compose(&picture.view, 40, 30, false, false);
    must_show(text, "RUNNING");
    for (const char *c = text; *c; c++) cr_assert_lt((unsigned char)*c, 0x80, "ASCII only");
    free(text);
}

Test(display, a_queued_run_has_a_picture_too)
{
    static struct picture picture;
    struct frame_curve empty = {0};

    picture_init(&picture, "QUEUED", 0);
    picture.run.summary.started_ms = 0;
    picture.run.summary.attempt = 0;
    picture.run.summary.reason = "waits for ranks";
    picture.run.detail.n_ranks = picture.run.detail.n_redraws = 0;
    picture.run.detail.n_checkpoints = 0;
    picture.run.detail.next_redraw_step = 0;
    picture.view.loss = picture.view.valid_loss = empty;
    picture.view.event_count = 0;
    char *text = compose(&picture.view, 80, 40, false, true);
    must_show(text, "waits for ranks");
    must_show(text, "submitted 3m 13s ago");
    must_show(text, "none yet");
    must_show(text, "no redraw planned");
    free(text);
}
