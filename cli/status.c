#include <stdio.h>
#include <unistd.h>

#include "cli/quantity.h"
#include "cli/report.h"
#include "cli/run_json.h"
#include "cli/runs_table.h"
#include "cli/snapshot.h"
#include "cli/verbs.h"
#include "cli/watch.h"

enum { PIPED_COLUMNS = 100 };

void status_print(const struct snapshot *snapshot)
{
    struct frame_view view = snapshot_view(snapshot, clock_now_ms());
    struct terminal terminal;
    struct screen screen;

    terminal_probe(STDOUT_FILENO, &terminal);
    screen_init(&screen, terminal.columns > 0 ? terminal.columns : PIPED_COLUMNS, 0,
                terminal.colour, terminal.utf8);
    frame_compose(&view, &screen);
    screen_print(&screen, stdout);
    screen_fini(&screen);
}

static enum exit_code show_once(const struct invocation *invocation)
{
    struct snapshot snapshot = {0};
    struct remote remote;
    struct fault fault;

    enum status status = remote_open(invocation, REMOTE_ANSWER_MS, &remote, &fault);
    if (status != ST_OK) return report_fault(invocation, &fault);
    status = snapshot_take(&remote, invocation->argument, &snapshot, &fault);
    if (status == ST_OK) {
        if (invocation_json(invocation))
            report_json(run_detail_json(snapshot.detail->run_detail));
        else
            status_print(&snapshot);
    }
    snapshot_fini(&snapshot);
    remote_close(&remote);
    return status == ST_OK ? EXIT_CODE_OK : report_fault(invocation, &fault);
}

enum exit_code verb_status(const struct invocation *invocation)
{
    if (!invocation->options[OPTION_WATCH].given)
        return invocation->argument ? show_once(invocation)
                                    : runs_show(invocation, false, runs_print_progress);
    if (invocation->argument) return watch_run(invocation);
    struct fault fault;
    fault_set(&fault, ST_INVALID, "--watch needs a run: performerctl status RUN --watch");
    return report_usage(invocation_json(invocation), &fault);
}
