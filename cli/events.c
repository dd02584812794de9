#include <stdio.h>
#include <unistd.h>

#include "cli/event_pages.h"
#include "cli/quantity.h"
#include "cli/report.h"
#include "cli/run_json.h"
#include "cli/table.h"
#include "cli/verbs.h"

static void take_row(void *context, const Performer__EventInfo *event)
{
    struct table *table = context;

    table_cell(table, STYLE_DIM, "%s", date_text(event->time_ms).text);
    table_cell(table, STYLE_PLAIN, "%u", event->attempt);
    table_cell(table, STYLE_PLAIN, "%llu", (unsigned long long)event->step);
    table_cell(table, STYLE_BOLD, "%s", event->kind);
    table_cell(table, STYLE_PLAIN, "%s", event->text);
}

static void take_json(void *context, const Performer__EventInfo *event)
{
    json_array_append_new(context, event_json(event));
}

static enum status print_json(struct remote *remote, const char *run, struct fault *fault)
{
    json_t *list = json_array();
    uint64_t after = 0;

    enum status status = events_read(remote, run, &after, take_json, list, fault);
    if (status == ST_OK)
        report_json(list);
    else
        json_decref(list);
    return status;
}

static enum status print_table(struct remote *remote, const char *run, struct fault *fault)
{
    static const char *const headers[] = {"TIME", ">ATTEMPT", ">STEP", "KIND", "TEXT"};
    struct terminal terminal;
    struct table table;
    uint64_t after = 0;

    terminal_probe(STDOUT_FILENO, &terminal);
    table_init(&table, headers, sizeof headers / sizeof headers[0]);
    enum status status = events_read(remote, run, &after, take_row, &table, fault);
    if (status == ST_OK) table_print(&table, stdout, &terminal);
    table_fini(&table);
    return status;
}

enum exit_code verb_events(const struct invocation *invocation)
{
    struct remote remote;
    struct fault fault;

    enum status status = remote_open(invocation, REMOTE_ANSWER_MS, &remote, &fault);
    if (status != ST_OK) return report_fault(invocation, &fault);
    status = invocation_json(invocation) ? print_json(&remote, invocation->argument, &fault)
                                         : print_table(&remote, invocation->argument, &fault);
    remote_close(&remote);
    return status == ST_OK ? EXIT_CODE_OK : report_fault(invocation, &fault);
}
