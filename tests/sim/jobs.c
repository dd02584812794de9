#include "tests/sim/jobs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/memory.h"

static const struct {
    int ranks, steps, restarts, redraw, checkpoint; /* redraw 0: never, -1: by the error */
    const char *attention;
    int priority;
    const char *after;
    bool goes_back; /* where it diverges */
    const char *launcher;
} shapes[] = {
    {1, 6, 0, 0, 100, "favor", 0, "", false, "local"},
    {1, 16, 2, 4, 3, "favor", 0, "", true, "local"},
    {2, 12, 1, 0, 4, "favor", 0, "", true, "local"},
    {2, 24, 3, 5, 5, "favor", 5, "", true, "local"},
    {3, 18, 2, 3, 2, "favor", 0, "", false, "local"},
    {3, 9, 0, 4, 3, "favor", -1, "", false, "local"},
    {1, 20, 3, 0, 6, "softmax", 0, "", false, "local"},
    {2, 8, 1, 2, 100, "favor", 5, "", true, "local"},
    {2, 18, 3, -1, 4, "favor", 0, "", true, "local"},
    {1, 10, 1, 4, 3, "favor", 0, "\"r1\"", false, "local"},
    {4, 8, 2, 3, 2, "favor", 9, "\"r2\"", true, "local"},
    {2, 10, 2, 0, 3, "favor", 0, "\"r1\", \"r2\", \"r1\"", false, "local"},
    {2, 14, 2, 4, 3, "favor", 3, "", true, "slurm"},
    {3, 20, 2, 3, 4, "favor", 0, "", false, "slurm"},
    {1, 9, 1, 0, 3, "softmax", 0, "\"r1\"", false, "slurm"},
};

enum { JOB_COUNT = sizeof shapes / sizeof shapes[0] };

static struct job jobs[JOB_COUNT];

static const char *redraw_rule(int redraw, char *text, size_t size)
{
    if (redraw < 0) return "policy = \"adaptive\"\nthreshold = 0.5";
    if (redraw == 0) return "policy = \"never\"";
    snprintf(text, size, "every = %d", redraw);
    return text;
}

static char *job_text(size_t index)
{
    char rule[32], *text = memory_zeroed(1, 1024);
    bool evaluates = shapes[index].redraw < 0;
    snprintf(
        text, 1024,
        "[job]\nname = \"job-%zu\"\n[resources]\nranks = %d\nlauncher = \"%s\"\n[data]\nformat = \"text\"\n"
        "train = \"/etc/hostname\"\nlength = 16\n%s[model]\nlayers = 1\nheads = 1\n"
        "width = 8\nmlp = 8\n[attention]\nkind = \"%s\"\n[train]\nsteps = %d\nbatch = 12\n"
        "micro_batch = 1\non_divergence = \"%s\"\n[redraw]\n%s\n[checkpoint]\nevery = %d\n[restart]\nmax = %d\n"
        "[queue]\npriority = %d\nafter = [%s]\n%s",
        index, shapes[index].ranks, shapes[index].launcher,
        evaluates ? "valid_fraction = 0.1\n" : "", shapes[index].attention, shapes[index].steps,
        shapes[index].goes_back ? "back" : "stop",
        redraw_rule(shapes[index].redraw, rule, sizeof rule), shapes[index].checkpoint,
        shapes[index].restarts, shapes[index].priority, shapes[index].after,
        evaluates ? "[evaluate]\nevery = 3\n" : "");
    return text;
}

void jobs_make(void)
{
    for (size_t i = 0; i < JOB_COUNT; i++) {
        struct diagnostics diagnostics = {0};
        jobs[i].resolved = job_text(i);
        if (jobspec_parse(jobs[i].resolved, strlen(jobs[i].resolved), "/job.toml", NULL, 0,
                          &diagnostics, &jobs[i].spec) != ST_OK) {
            diagnostics_print(&diagnostics, stderr, false);
            exit(EXIT_FAILURE);
        }
        diagnostics_free(&diagnostics);
    }
}

void jobs_free(void)
{
    for (size_t i = 0; i < JOB_COUNT; i++) {
        jobspec_free(&jobs[i].spec);
        free(jobs[i].resolved);
    }
}

size_t jobs_count(void)
{
    return JOB_COUNT;
}

const struct job *jobs_get(size_t index)
{
    return &jobs[index];
}

const struct job *jobs_find(const char *name)
{
    for (size_t i = 0; i < JOB_COUNT; i++)
        if (strcmp(jobs[i].spec.job.name, name) == 0) return &jobs[i];
    return NULL;
}
