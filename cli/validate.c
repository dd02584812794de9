#include <stdlib.h>

#include "cli/job_file.h"
#include "cli/report.h"
#include "cli/verbs.h"

/* The verdict is what was asked for, so with --json it stands on stdout too. */
static void print_verdict(const struct job_file *job)
{
    char *text = diagnostics_json(&job->diagnostics);
    json_t *diagnostics = text ? json_loads(text, 0, NULL) : NULL;

    free(text);
    report_json(
        json_pack("{s:s,s:b,s:o*}", "file", job->path, "valid", 0, "diagnostics", diagnostics));
}

enum exit_code verb_validate(const struct invocation *invocation)
{
    struct job_file job;
    enum exit_code code = job_file_read(invocation, &job);

    if (code == EXIT_CODE_OK)
        job_file_print_cost(invocation, &job);
    else if (invocation_json(invocation))
        print_verdict(&job);
    job_file_fini(&job);
    return code;
}
