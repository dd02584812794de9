#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/checkpoint_table.h"
#include "cli/glyph.h"
#include "cli/quantity.h"
#include "cli/remote.h"
#include "cli/report.h"
#include "cli/run_json.h"
#include "cli/table.h"
#include "cli/verbs.h"

static unsigned long long ull(uint64_t value)
{
    return value;
}

static void heading(const struct terminal *terminal, const char *text)
{
    printf("\n%s%s%s\n", style_begin(STYLE_BOLD, terminal->colour), text,
           terminal->colour ? STYLE_END : "");
}

static void print_run(const Performer__RunSummary *run, const struct terminal *terminal)
{
    printf("run        %s\n", run->id);
    printf("name       %s\n", run->name);
    printf("state      %s%s%s\n", style_begin(style_of_state(run->state), terminal->colour),
           run->state, terminal->colour ? STYLE_END : "");
    if (run->reason[0]) printf("reason     %s\n", run->reason);
    printf("step       %llu of %llu\n", ull(run->step), ull(run->steps));
    printf("ranks      %u\n", run->ranks);
    printf("submitted  %s\n", date_text(run->submitted_ms).text);
    printf("started    %s\n", date_text(run->started_ms).text);
    printf("ended      %s\n", date_text(run->ended_ms).text);
    printf("user       %s\n", run->user);
    printf("directory  %s\n", run->directory);
    for (size_t i = 0; i < run->n_latest; i++)
        printf("%-10s %s %s\n", i == 0 ? "latest" : "", run->latest[i]->name,
               value_text(run->latest[i]->value).text);
}

static void print_origin(const Performer__RunDetail *detail)
{
    if (detail->forked_step > 0)
        printf("forked     from %s after step %llu\n", detail->forked_from,
               ull(detail->forked_step));
    if (detail->priority != 0) printf("priority   %lld\n", (long long)detail->priority);
    for (size_t i = 0; i < detail->n_after; i++)
        printf("%-10s %s\n", i == 0 ? "after" : "", detail->after[i]);
}

static void print_budgets(const Performer__RunDetail *detail)
{
    for (size_t i = 0; i < detail->n_budgets; i++) {
        const Performer__BudgetInfo *budget = detail->budgets[i];
        printf("%s%s %u", i == 0 ? "restarts   " : ", ", budget->name, budget->spent);
        if (!budget->unlimited) printf(" of %u", budget->attempts);
    }
    if (detail->n_budgets > 0) putchar('\n');
    if (detail->back_off_ms > 0)
        printf("back-off   %s until the next attempt may begin\n",
               duration_text((int64_t)detail->back_off_ms).text);
}

static void print_stop(const Performer__RunDetail *detail)
{
    if (detail->stop_ms > 0)
        printf("stop       about %s with a checkpoint, %s are given%s\n",
               span_text((double)detail->stop_ms).text, span_text((double)detail->grace_ms).text,
               detail->stop_ms > detail->grace_ms ? ": it does NOT fit" : "");
    if (detail->drill)
        printf("drill      attempt %u saved after %s and ended after %s\n", detail->drill->attempt,
               span_text((double)detail->drill->save_ms).text,
               span_text((double)detail->drill->exit_ms).text);
}

/* ---- attempts ---- */

static void print_last_lines(const Performer__AttemptInfo *attempt, const struct terminal *terminal)
{
    const char *line = attempt->last_lines;

    while (*line) {
        char raw[1024], text[1024];
        size_t length = strcspn(line, "\n");
        snprintf(raw, sizeof raw, "%.*s", (int)length, line);
        text_clean(text, sizeof text, raw, terminal->utf8);
        printf("      | %s\n", text);
        line += length + (line[length] == '\n');
    }
}

static void print_attempt(const Performer__AttemptInfo *attempt, const struct terminal *terminal)
{
    uint64_t end_ms = attempt->ended_ms ? attempt->ended_ms : clock_now_ms();

    printf("  %u  %s  %s", attempt->number, date_text(attempt->started_ms).text,
           duration_text((int64_t)(end_ms - attempt->started_ms)).text);
    if (attempt->resumed_step > 0) printf("  from step %llu", ull(attempt->resumed_step));
    printf("  %s", attempt->cause[0] ? attempt->cause : "running");
    if (attempt->text[0]) printf(": %s", attempt->text);
    putchar('\n');
    if (attempt->first_rank >= 0) printf("      rank %d failed first", attempt->first_rank);
    if (attempt->first_rank >= 0 && attempt->host[0]) printf(", on %s", attempt->host);
    if (attempt->first_rank >= 0 && attempt->signal)
        printf(", by signal %d (%s)", attempt->signal, strsignal(attempt->signal));
    if (attempt->first_rank >= 0) putchar('\n');
    if (attempt->ended_ms && attempt->exit_code)
        printf("      launcher's exit code %d\n", attempt->exit_code);
    print_last_lines(attempt, terminal);
}

/* ---- tables ---- */

static void print_ranks(const Performer__RunDetail *detail, const struct terminal *terminal)
{
    static const char *const headers[] = {">RANK", "HOST",  ">PID",  "PHASE",
                                          ">STEP", ">TIME", ">HEARD"};
    struct table table;

    table_init(&table, headers, sizeof headers / sizeof headers[0]);
    for (size_t i = 0; i < detail->n_ranks; i++) {
        const Performer__RankInfo *rank = detail->ranks[i];
        table_cell(&table, STYLE_BOLD, "%u", rank->rank);
        table_cell(&table, STYLE_PLAIN, "%s", rank->host);
        table_cell(&table, STYLE_PLAIN, "%llu", ull(rank->pid));
        table_cell(&table, STYLE_PLAIN, "%s", rank->phase);
        table_cell(&table, STYLE_PLAIN, "%llu", ull(rank->step));
        table_cell(&table, STYLE_PLAIN, "%s",
                   rank->step_ms > 0 ? span_text(rank->step_ms).text : "-");
        if (rank->slow)
            table_cell(&table, STYLE_WARN, "%s ago, slow: score %.2f",
                       duration_text((int64_t)rank->heard_ms).text, rank->score);
        else
            table_cell(&table, STYLE_PLAIN, "%s ago", duration_text((int64_t)rank->heard_ms).text);
    }
    table_print(&table, stdout, terminal);
    table_fini(&table);
}

static void print_redraws(const Performer__RunDetail *detail, const struct terminal *terminal)
{
    static const char *const headers[] = {">DRAW", ">AFTER STEP", "WHY", "RANKS", "HASH"};
    struct table table;

    table_init(&table, headers, sizeof headers / sizeof headers[0]);
    for (size_t i = 0; i < detail->n_redraws; i++) {
        const Performer__RedrawInfo *redraw = detail->redraws[i];
        const char *hash = "";
        size_t heard = 0;
        for (size_t r = 0; r < redraw->n_hashes; r++) {
            if (redraw->hashes[r][0] == '\0') continue;
            hash = redraw->hashes[r];
            heard++;
        }
        bool whole = heard == redraw->n_hashes;
        table_cell(&table, STYLE_BOLD, "%llu", ull(redraw->draw));
        table_cell(&table, STYLE_PLAIN, "%llu", ull(redraw->step));
        table_cell(&table, STYLE_PLAIN, "%s", redraw->why);
        table_cell(&table,
                   !whole           ? STYLE_DIM
                   : redraw->agreed ? STYLE_GOOD
                                    : STYLE_BAD,
                   "%zu of %zu%s", heard, redraw->n_hashes,
                   !whole           ? " heard"
                   : redraw->agreed ? " agree"
                                    : ": they DIFFER");
        table_cell(&table, STYLE_DIM, "%s", hash);
    }
    table_print(&table, stdout, terminal);
    table_fini(&table);
}

static void print_orders(const Performer__RunDetail *detail, const struct terminal *terminal)
{
    static const char *const headers[] = {">ORDER", "KIND", "STATE", ">AFTER STEP", "REQUESTED"};
    struct table table;

    table_init(&table, headers, sizeof headers / sizeof headers[0]);
    for (size_t i = 0; i < detail->n_orders; i++) {
        const Performer__OrderInfo *order = detail->orders[i];
        table_cell(&table, STYLE_BOLD, "%llu", ull(order->id));
        table_cell(&table, STYLE_PLAIN, "%s", order->kind);
        table_cell(&table, STYLE_PLAIN, "%s", order->state);
        if (order->step > 0)
            table_cell(&table, STYLE_PLAIN, "%llu", ull(order->step));
        else
            table_cell(&table, STYLE_PLAIN, "-");
        table_cell(&table, STYLE_DIM, "%s", date_text(order->requested_ms).text);
    }
    table_print(&table, stdout, terminal);
    table_fini(&table);
}

static void print_detail(const Performer__RunDetail *detail)
{
    struct terminal terminal;

    terminal_probe(STDOUT_FILENO, &terminal);
    print_run(detail->summary, &terminal);
    print_origin(detail);
    print_budgets(detail);
    print_stop(detail);
    if (detail->n_attempts > 0) heading(&terminal, "Attempts");
    for (size_t i = 0; i < detail->n_attempts; i++) print_attempt(detail->attempts[i], &terminal);
    if (detail->n_ranks > 0) {
        heading(&terminal, "Ranks");
        print_ranks(detail, &terminal);
    }
    heading(&terminal, "Redraws");
    if (detail->n_redraws > 0) print_redraws(detail, &terminal);
    if (detail->next_redraw_step > 0)
        printf("next after step %llu\n", ull(detail->next_redraw_step));
    else if (detail->redraw_threshold > 0)
        printf("when the error of a layer passes %s\n", value_text(detail->redraw_threshold).text);
    else
        puts("none planned");
    if (detail->n_orders > 0) {
        heading(&terminal, "Orders");
        print_orders(detail, &terminal);
    }
    heading(&terminal, "Checkpoints");
    if (detail->n_checkpoints > 0) checkpoints_print(detail->checkpoints, detail->n_checkpoints);
    if (detail->next_checkpoint_step > 0)
        printf("next after step %llu\n", ull(detail->next_checkpoint_step));
    else
        puts("none planned");
}

enum exit_code verb_describe(const struct invocation *invocation)
{
    Performer__Response *response;
    struct remote remote;
    struct fault fault;

    enum status status = remote_open(invocation, REMOTE_ANSWER_MS, &remote, &fault);
    if (status != ST_OK) return report_fault(invocation, &fault);
    status = remote_describe(&remote, invocation->argument, &response, &fault);
    remote_close(&remote);
    if (status != ST_OK) return report_fault(invocation, &fault);
    const Performer__RunDetail *detail = response->run_detail;
    bool config = invocation->options[OPTION_CONFIG].given;
    if (config && invocation_json(invocation))
        report_json(json_pack("{s:s,s:s}", "id", detail->summary->id, "config", detail->config));
    else if (config)
        fputs(detail->config, stdout);
    else if (invocation_json(invocation))
        report_json(run_detail_json(detail));
    else
        print_detail(detail);
    response_free(response);
    return EXIT_CODE_OK;
}
