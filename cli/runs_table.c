#include "cli/runs_table.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/progress.h"
#include "cli/quantity.h"
#include "cli/remote.h"
#include "cli/report.h"
#include "cli/run_json.h"
#include "cli/table.h"

static enum status ask(const struct invocation *invocation, bool all,
                       Performer__Response **response, struct fault *fault)
{
    Performer__ListRuns list = PERFORMER__LIST_RUNS__INIT;
    Performer__Request request = PERFORMER__REQUEST__INIT;
    struct remote remote;

    enum status status = remote_open(invocation, REMOTE_ANSWER_MS, &remote, fault);
    if (status != ST_OK) return status;
    list.all = all;
    request.body_case = PERFORMER__REQUEST__BODY_LIST_RUNS;
    request.list_runs = &list;
    status = remote_call(&remote, &request, PERFORMER__RESPONSE__BODY_RUN_LIST, response, fault);
    remote_close(&remote);
    return status;
}

static bool are_of_several_users(const Performer__RunList *runs)
{
    for (size_t i = 1; i < runs->n_runs; i++)
        if (strcmp(runs->runs[i]->user, runs->runs[0]->user) != 0) return true;
    return false;
}

static void run_row(struct table *table, const Performer__RunSummary *run, bool with_user,
                    uint64_t now_ms)
{
    table_cell(table, STYLE_BOLD, "%s", run->id);
    if (with_user) table_cell(table, STYLE_PLAIN, "%s", run->user);
    table_cell(table, STYLE_PLAIN, "%s", run->name);
    table_cell(table, style_of_state(run->state), "%s", run->state);
    table_cell(table, STYLE_PLAIN, "%llu/%llu", (unsigned long long)run->step,
               (unsigned long long)run->steps);
    table_cell(table, STYLE_PLAIN, "%s", age_text((int64_t)(now_ms - run->submitted_ms)).text);
    bool telling = strcmp(run->state, "RUNNING") != 0;
    table_cell(table, STYLE_DIM, "%s", telling ? run->reason : "");
}

void runs_print_table(const Performer__RunList *runs)
{
    static const char *const own[] = {"ID", "NAME", "STATE", ">STEP", ">AGE", "REASON"};
    static const char *const all[] = {"ID", "USER", "NAME", "STATE", ">STEP", ">AGE", "REASON"};
    const bool with_user = are_of_several_users(runs);
    struct terminal terminal;
    struct table table;

    terminal_probe(STDOUT_FILENO, &terminal);
    table_init(&table, with_user ? all : own,
               with_user ? sizeof all / sizeof all[0] : sizeof own / sizeof own[0]);
    for (size_t i = 0; i < runs->n_runs; i++)
        run_row(&table, runs->runs[i], with_user, clock_now_ms());
    table_print(&table, stdout, &terminal);
    table_fini(&table);
}

static void progress_row(struct table *table, const Performer__RunSummary *run, bool utf8)
{
    enum { BAR = 12 };
    char filled[BAR_BYTES_MAX];
    double loss = latest_metric(run, "loss"), speed = latest_metric(run, "tokens_per_second");
    int64_t left_ms = progress_left_ms(run);
    size_t used = progress_bar(progress_share(run), BAR, utf8, filled);

    for (size_t end = strlen(filled); used < BAR; used++)
        end += (size_t)sprintf(filled + end, "%s", utf8 ? "·" : ".");
    table_cell(table, STYLE_BOLD, "%s", run->id);
    table_cell(table, STYLE_PLAIN, "%s", run->name);
    table_cell(table, style_of_state(run->state), "%s", run->state);
    table_cell(table, STYLE_ACCENT, "%s %3.0f%%", filled, floor(progress_share(run) * 100));
    table_cell(table, STYLE_PLAIN, "%llu/%llu", (unsigned long long)run->step,
               (unsigned long long)run->steps);
    table_cell(table, STYLE_PLAIN, "%s", isnan(loss) ? "-" : value_text(loss).text);
    table_cell(table, STYLE_PLAIN, "%s", isnan(speed) ? "-" : count_text(speed).text);
    table_cell(table, STYLE_PLAIN, "%s", left_ms < 0 ? "-" : duration_text(left_ms).text);
}

void runs_print_progress(const Performer__RunList *runs)
{
    static const char *const headers[] = {"ID",    "NAME",  "STATE",  "PROGRESS",
                                          ">STEP", ">LOSS", ">TOK/S", ">ETA"};
    struct terminal terminal;
    struct table table;

    terminal_probe(STDOUT_FILENO, &terminal);
    table_init(&table, headers, sizeof headers / sizeof headers[0]);
    for (size_t i = 0; i < runs->n_runs; i++) progress_row(&table, runs->runs[i], terminal.utf8);
    table_print(&table, stdout, &terminal);
    table_fini(&table);
}

enum exit_code runs_show(const struct invocation *invocation, bool all,
                         void (*print)(const Performer__RunList *runs))
{
    Performer__Response *response;
    struct fault fault;

    enum status status = ask(invocation, all, &response, &fault);
    if (status != ST_OK) return report_fault(invocation, &fault);
    const Performer__RunList *runs = response->run_list;
    if (invocation_json(invocation)) {
        json_t *list = json_array();
        for (size_t i = 0; i < runs->n_runs; i++)
            json_array_append_new(list, run_summary_json(runs->runs[i]));
        report_json(list);
    } else {
        print(runs);
        if (runs->n_runs == 0)
            report_words(invocation, "no runs yet; `performerctl submit FILE` starts one");
    }
    response_free(response);
    return EXIT_CODE_OK;
}
