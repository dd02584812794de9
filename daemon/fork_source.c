#include "daemon/fork_source.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/response.h"
#include "proto/jobspec_fork.h"

struct search {
    uint64_t step; /* 0: the newest */
    struct fork_source *found;
};

/* In order of step: the last that fits is the newest. */
static bool take_checkpoint(void *context, const struct checkpoint_row *row)
{
    const struct search *search = context;
    if (row->verdict != VERDICT_GOOD) return true;
    if (search->step != 0 && search->step != row->step) return true;
    fork_source_fini(search->found);
    search->found->path = message_text(row->path);
    search->found->bytes = row->bytes;
    search->found->step = row->step;
    return true;
}

static enum status find_checkpoint(struct store *store, const struct run *run, uint64_t step,
                                   struct fork_source *found, struct fault *fault)
{
    struct search search = {step, found};
    enum status status =
        store_checkpoints(store, run->number, false, take_checkpoint, &search, fault);
    if (status != ST_OK || found->path) return status;
    if (step == 0)
        return fault_set(fault, ST_REFUSED, "%s has no good checkpoint to begin from", run->id);
    return fault_set(fault, ST_REFUSED,
                     "%s has no good checkpoint of step %" PRIu64
                     ": `performerctl checkpoints %s` lists those it has",
                     run->id, step, run->id);
}

/* Whether the state of that run after `step` is one that the job can go on from. */
static enum status check_job(struct store *store, uint64_t run, uint64_t step,
                             const struct jobspec *spec, struct fault *fault)
{
    char *text, *resolved;
    struct jobspec source = {0};
    struct diagnostics diagnostics = {0};
    enum status status = store_job(store, run, &text, &resolved, fault);
    if (status != ST_OK) return status;
    status =
        jobspec_parse(resolved, strlen(resolved), "/resolved.toml", NULL, 0, &diagnostics, &source);
    if (status == ST_OK)
        status = jobspec_check_fork(&source, spec, step, fault);
    else
        fault_set(fault, status, "the job file of the source is none of this version");
    jobspec_free(&source);
    diagnostics_free(&diagnostics);
    free(text);
    free(resolved);
    return status;
}

enum status fork_source_find(const struct coordinator *coordinator, struct store *store,
                             const struct caller *caller, const Performer__Submit *submit,
                             const struct jobspec *spec, struct fork_source *source,
                             struct fault *fault)
{
    const struct run *run;
    struct fork_source found = {0};
    enum status status = coordinator_find(coordinator, submit->fork_of, &run, fault);
    if (status != ST_OK) return status;
    if (!run_obeys(run, caller))
        return fault_set(fault, ST_NOT_PERMITTED, RUN_OF_ANOTHER, run->id, run->user);
    found.run = run->number;
    status = find_checkpoint(store, run, submit->fork_step, &found, fault);
    if (status == ST_OK) status = check_job(store, run->number, found.step, spec, fault);
    if (status == ST_OK)
        *source = found;
    else
        fork_source_fini(&found);
    return status;
}

void fork_source_fini(struct fork_source *source)
{
    free(source->path);
    source->path = NULL;
}
