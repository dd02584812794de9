/*
 * Steps of the worker's own code on the device of tests/cudashim. They are those of the CPU; and any call of CUDA's runtime or of
 * cuBLASLt may fail, while the device is opened, at a start, or in a step: the failure has a status, its words name the
 * call and the operation, nothing is left behind, and a step from the same weights afterwards gives the bits that it
 * gives without.
 */

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/cudashim/cudashim.h"
#include "worker/step.h"

enum { TAKEN_EVERY = 16 };
/* Of those that are made to fail in a step: each, but under a sanitizer, where a device is slow, fewer. */
#ifndef CALLS_APART
#define CALLS_APART 1
#endif

/* Two shards, whose gradients are added; rows with padding; dropout. */
static const char job_text[] =
    "[job]\nname = \"step\"\nseed = 5\n[resources]\nthreads = 1\n"
    "[data]\nformat = \"fasta\"\ntrain = \"proteins.fasta\"\n"
    "length = 12\npacking = \"pad\"\n"
    "[model]\nlayers = 1\nheads = 1\nwidth = 10\nmlp = 7\ndropout = 0.1\n"
    "[attention]\nfeatures = 6\n"
    "[train]\nsteps = 2\nbatch = 2\nmicro_batch = 1\n";

struct life {
    char directory[100];
    struct jobspec spec;
    struct training_setup setup;
    struct training *training;
};

static void file_write(const char *directory, const char *name, const char *text)
{
    char path[200];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "w");
    cr_assert(file);
    fputs(text, file);
    cr_assert_eq(fclose(file), 0);
}

/* All that a training needs, on the host alone. */
static void life_begin(struct life *life)
{
    char path[200];
    struct fault fault;
    struct diagnostics diagnostics = {0};
    *life = (struct life){.directory = "/tmp/performerd-cuda-step-XXXXXX"};
    cr_assert(mkdtemp(life->directory));
    file_write(life->directory, "proteins.fasta",
               ">a\nMKTAYIAKQRQISFVKSHFSRQ\n>b\nMKVL\n>c\nGAVLIPF\n");
    file_write(life->directory, "job.toml", job_text);
    snprintf(path, sizeof path, "%s/job.toml", life->directory);
    cr_assert_eq(jobspec_load(path, NULL, 0, &diagnostics, &life->spec, &fault), ST_OK, "%s",
                 diagnostics.count ? diagnostics.items[0].message : fault.text);
    diagnostics_free(&diagnostics);
    life->setup = (struct training_setup){.spec = &life->spec, .directory = life->directory};
    cr_assert_eq(collective_single(&life->setup.collective), ST_OK);
    cr_assert_eq(uplink_open_file(life->directory, 0, &life->setup.uplink, &fault), ST_OK);
}

static void life_end(struct life *life)
{
    char command[200];
    struct fault fault;
    uplink_close(life->setup.uplink, 0, &fault);
    collective_close(life->setup.collective);
    jobspec_free(&life->spec);
    snprintf(command, sizeof command, "rm -r %s", life->directory);
    cr_assert_eq(system(command), 0);
}

/* "... cudaMallocManaged in memory_new: ..." */
static void words_name_the_call(const struct fault *fault, long nth)
{
    const char *call = strstr(fault->text, ": cu");
    cr_expect(call && strstr(call, " in ") && strstr(call, ": "), "call %ld: %s", nth, fault->text);
}

Test(cuda_step, a_device_that_cannot_be_opened)
{
    int opened = -1;
    for (long nth = 1; opened != 0; nth++) {
        cr_assert(nth < 100);
        const pid_t child = fork();
        if (child == 0) {
            cudashim_fail(nth, cudaErrorECCUncorrectable, false);
            const bool found = backend_find("cuda");
            const bool refused = !found && *backend_why_not("cuda") && cudashim_live() == 0;
            _exit(found ? 0 : refused ? 1 : 2);
        }
        cr_assert_eq(waitpid(child, &opened, 0), child);
        cr_expect(opened == 0 || (WIFEXITED(opened) && WEXITSTATUS(opened) == 1), "call %ld", nth);
    }
}

Test(cuda_step, a_training_that_cannot_begin)
{
    struct life life;
    struct fault fault;
    life_begin(&life);
    life.setup.backend = backend_find("cuda");
    const long live = cudashim_live();
    enum status status = ST_DEVICE;
    for (long nth = 1; status != ST_OK; nth++) {
        cudashim_fail(nth, cudaErrorMemoryAllocation, false);
        status = training_open(&life.setup, &life.training, &fault);
        cudashim_fail(0, cudaSuccess, false);
        cr_assert(status == ST_OK || status == ST_NO_MEMORY, "call %ld: %s", nth, fault.text);
        if (status != ST_OK) words_name_the_call(&fault, nth);
        training_close(life.training);
        life.training = NULL;
        cr_assert_eq(cudashim_live(), live, "call %ld left something", nth);
        cr_assert(status != ST_OK || nth > 20, "only %ld calls were tried", nth);
    }
    life_end(&life);
}

/* Where a training stands. */
struct standing {
    struct checkpoint_state state;
    float *values[3]; /* weights and moments */
};

static float **values_of(struct training *t, int which)
{
    return which == 0 ? &t->weights : which == 1 ? &t->moment1 : &t->moment2;
}

static void standing_take(struct training *t, struct standing *standing)
{
    const size_t bytes = (size_t)t->params->floats * sizeof(float);
    standing->state = t->state;
    for (int i = 0; i < 3; i++) {
        standing->values[i] = malloc(bytes);
        cr_assert(standing->values[i]);
        memcpy(standing->values[i], *values_of(t, i), bytes);
    }
}

static void standing_restore(struct training *t, const struct standing *standing)
{
    t->state = standing->state;
    for (int i = 0; i < 3; i++)
        memcpy(*values_of(t, i), standing->values[i], (size_t)t->params->floats * sizeof(float));
}

static bool stands_there(struct training *t, const struct standing *standing)
{
    const size_t bytes = (size_t)t->params->floats * sizeof(float);
    for (int i = 0; i < 3; i++)
        if (memcmp(*values_of(t, i), standing->values[i], bytes) != 0) return false;
    return t->state.step == standing->state.step && t->state.chain == standing->state.chain;
}

static void standing_free(struct standing *standing)
{
    for (int i = 0; i < 3; i++) free(standing->values[i]);
}

static enum status step_from(struct training *t, const struct standing *standing,
                             struct fault *fault)
{
    struct edge edge;
    fault->text[0] = '\0';
    standing_restore(t, standing);
    return step_run(t, &edge, fault);
}

/* What a failure has spoiled for good shows in the next step that is taken, whichever of those before it was. */
Test(cuda_step, a_step_that_cannot_be_taken)
{
    struct life life;
    struct fault fault;
    struct standing before, after;
    life_begin(&life);
    life.setup.backend = backend_find("cuda");
    cr_assert_eq(training_open(&life.setup, &life.training, &fault), ST_OK, "%s", fault.text);
    struct training *t = life.training;
    standing_take(t, &before);
    const long first = cudashim_calls(), live = cudashim_live();
    cr_assert_eq(step_from(t, &before, &fault), ST_OK, "%s", fault.text);
    const long calls = cudashim_calls() - first;
    standing_take(t, &after);
    cr_assert(calls > 300, "%ld calls", calls);

    for (long nth = 1; nth <= calls; nth += CALLS_APART) {
        cudashim_fail(nth, cudaErrorECCUncorrectable, false);
        cr_expect_eq(step_from(t, &before, &fault), ST_DEVICE, "call %ld", nth);
        words_name_the_call(&fault, nth);
        cr_expect(strstr(fault.text, "step 1: the GPU failed: "), "%s", fault.text);
        cr_expect_eq(cudashim_live(), live, "call %ld left something", nth);
        cr_assert_eq(t->setup.backend->sync(&t->stream), ST_OK);
        if (nth % TAKEN_EVERY != 0 && nth + CALLS_APART <= calls) continue;
        cr_assert_eq(step_from(t, &before, &fault), ST_OK, "%s", fault.text);
        cr_expect(stands_there(t, &after), "other bits after call %ld had failed", nth);
    }
    training_close(t);
    standing_free(&before);
    standing_free(&after);
    life_end(&life);
}

/* The same rows, padding and dropped activations, at sizes that are multiples of nothing: what the CPU makes of them. */
Test(cuda_step, a_step_is_that_of_the_cpu)
{
    static const char *const names[] = {"cuda", "cpu"};
    struct standing after[2];
    int64_t floats = 0;
    for (int i = 0; i < 2; i++) {
        struct life life;
        struct fault fault;
        struct edge edge;
        life_begin(&life);
        life.setup.backend = backend_find(names[i]);
        cr_assert_eq(training_open(&life.setup, &life.training, &fault), ST_OK, "%s", fault.text);
        for (int step = 0; step < 2; step++)
            cr_assert_eq(step_run(life.training, &edge, &fault), ST_OK, "%s", fault.text);
        floats = life.training->params->floats;
        standing_take(life.training, &after[i]);
        training_close(life.training);
        life_end(&life);
    }
    cr_expect_float_eq(after[0].state.losses.newest, after[1].state.losses.newest, 1e-5);
    double error = 0, norm = 0; /* of the first moment, which is made of gradients alone */
    for (int64_t i = 0; i < floats; i++) {
        error += pow(after[0].values[1][i] - after[1].values[1][i], 2);
        norm += pow(after[1].values[1][i], 2);
    }
    cr_expect(norm > 0 && sqrt(error / norm) < 1e-4, "%g", sqrt(error / norm));
    standing_free(&after[0]);
    standing_free(&after[1]);
}

/* A device that is lost in the middle of a step stays lost, and the words are of the call that met it. */
Test(cuda_step, a_device_that_is_lost)
{
    enum { NTH = 200 };
    struct life life;
    struct fault fault;
    struct edge edge;
    life_begin(&life);
    life.setup.backend = backend_find("cuda");
    const long live = cudashim_live();
    cr_assert_eq(training_open(&life.setup, &life.training, &fault), ST_OK, "%s", fault.text);
    cudashim_fail(NTH, cudaErrorECCUncorrectable, true);
    cr_expect_eq(step_run(life.training, &edge, &fault), ST_DEVICE);
    cr_expect(strstr(fault.text, "step 1: the GPU failed: cu"), "%s", fault.text);
    words_name_the_call(&fault, NTH);
    cr_expect_eq(life.setup.backend->sync(&life.training->stream), ST_DEVICE);
    training_close(life.training);
    cr_expect_eq(cudashim_live(), live, "%ld are left", cudashim_live() - live);
    life_end(&life);
}
