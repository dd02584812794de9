#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/checkpoint_table.h"
#include "cli/quantity.h"
#include "cli/remote.h"
#include "cli/report.h"
#include "cli/run_json.h"
#include "cli/table.h"
#include "cli/verbs.h"

enum style style_of_verdict(const char *verdict)
{
    if (strcmp(verdict, "good") == 0) return STYLE_GOOD;
    return strcmp(verdict, "pruned") == 0 ? STYLE_DIM : STYLE_BAD;
}

void checkpoints_print(Performer__CheckpointInfo *const *checkpoints, size_t count)
{
    static const char *const headers[] = {">STEP",  "VERDICT",     ">ATTEMPT", ">SIZE",
                                          ">SAVED", ">VALID LOSS", "BEST",     "PATH"};
    struct terminal terminal;
    struct table table;

    terminal_probe(STDOUT_FILENO, &terminal);
    table_init(&table, headers, sizeof headers / sizeof headers[0]);
    for (size_t i = 0; i < count; i++) {
        const Performer__CheckpointInfo *one = checkpoints[i];
        table_cell(&table, STYLE_BOLD, "%llu", (unsigned long long)one->step);
        table_cell(&table, style_of_verdict(one->verdict), "%s", one->verdict);
        table_cell(&table, STYLE_PLAIN, "%u", one->attempt);
        table_cell(&table, STYLE_PLAIN, "%s", bytes_text((double)one->bytes).text);
        table_cell(&table, STYLE_PLAIN, "%s", clock_text(one->saved_ms).text);
        table_cell(&table, STYLE_PLAIN, "%s",
                   isfinite(one->valid_loss) ? value_text(one->valid_loss).text : "-");
        table_cell(&table, STYLE_GOOD, "%s", one->best ? "best" : "");
        table_cell(&table, STYLE_PLAIN, "%s", one->path);
    }
    table_print(&table, stdout, &terminal);
    table_fini(&table);
}

enum exit_code verb_checkpoints(const struct invocation *invocation)
{
    Performer__QueryCheckpoints query = PERFORMER__QUERY_CHECKPOINTS__INIT;
    Performer__Request request = PERFORMER__REQUEST__INIT;
    Performer__Response *response;
    struct remote remote;
    struct fault fault;

    enum status status = remote_open(invocation, REMOTE_ANSWER_MS, &remote, &fault);
    if (status != ST_OK) return report_fault(invocation, &fault);
    query.run = (char *)invocation->argument;
    request.body_case = PERFORMER__REQUEST__BODY_QUERY_CHECKPOINTS;
    request.query_checkpoints = &query;
    status = remote_call(&remote, &request, PERFORMER__RESPONSE__BODY_CHECKPOINT_LIST, &response,
                         &fault);
    remote_close(&remote);
    if (status != ST_OK) return report_fault(invocation, &fault);
    const Performer__CheckpointList *list = response->checkpoint_list;
    if (invocation_json(invocation)) {
        json_t *document = json_array();
        for (size_t i = 0; i < list->n_checkpoints; i++)
            json_array_append_new(document, checkpoint_json(list->checkpoints[i]));
        report_json(document);
    } else {
        checkpoints_print(list->checkpoints, list->n_checkpoints);
    }
    response_free(response);
    return EXIT_CODE_OK;
}
