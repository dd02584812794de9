#ifndef TESTS_WORKER_SMALL_JOB_H
#define TESTS_WORKER_SMALL_JOB_H

#include "proto/jobspec.h"

/* A job with a model of a few thousand weights; what a test is about it changes. Defaults are those of the job file. */
static inline void small_job(struct jobspec *spec)
{
    static char text[] =
        "[job]\nname = \"small\"\nseed = 3\n"
        "[data]\nformat = \"tokens\"\ntrain = \"/nowhere\"\nvocab = 11\nlength = 6\n"
        "[model]\nlayers = 2\nheads = 2\nwidth = 8\nmlp = 12\n"
        "[attention]\nfeatures = 5\nrank = 4\nbuckets = 6\nrounds = 2\nchunk = 2\n"
        "[train]\nbatch = 4\nmicro_batch = 2\n";
    struct diagnostics diagnostics = {0};
    enum status status =
        jobspec_parse(text, sizeof text - 1, "/small.toml", NULL, 0, &diagnostics, spec);
    cr_assert(status == ST_OK, "%s", diagnostics.count ? diagnostics.items[0].message : "");
    diagnostics_free(&diagnostics);
}

#endif
