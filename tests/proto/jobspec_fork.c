#include "proto/jobspec_fork.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

static const char source_text[] =
    "[job]\nname = \"source\"\n[data]\nformat = \"text\"\ntrain = \"t\"\nlength = 64\n"
    "[model]\nlayers = 2\nheads = 2\nwidth = 16\nmlp = 32\ncausal = false\n[train]\nsteps = 100\n";

/* With up to two overrides, NULL: none. */
static void parse(const char *first, const char *second, struct jobspec *spec)
{
    struct diagnostics diagnostics = {0};
    const struct jobspec_override overrides[] = {{first}, {second}};
    size_t count = second ? 2 : first ? 1 : 0;
    cr_assert_eq(jobspec_parse(source_text, strlen(source_text), "/jobs/job.toml", overrides, count,
                               &diagnostics, spec),
                 ST_OK, "%s: %s", first, diagnostics.count > 0 ? diagnostics.items[0].message : "");
    diagnostics_free(&diagnostics);
}

static enum status check(const char *first, const char *second, uint64_t step, struct fault *fault)
{
    struct jobspec source, job;
    parse(NULL, NULL, &source);
    parse(first, second, &job);
    enum status status = jobspec_check_fork(&source, &job, step, fault);
    jobspec_free(&source);
    jobspec_free(&job);
    return status;
}

Test(jobspec_fork, what_the_state_depends_on_stays_and_is_named)
{
    static const struct {
        const char *first, *second, *says;
    } cases[] = {
        {"job.seed=1", NULL, "`seed` in [job], which is 0, to 1"},
        {"data.format=fasta", NULL, "`format` in [data], which is text, to fasta"},
        {"data.format=tokens", "data.vocab=256", "`format`"},
        {"data.length=128", NULL, "`length` in [data], which is 64, to 128"},
        {"model.layers=3", NULL, "`layers` in [model], which is 2, to 3"},
        {"model.heads=4", NULL, "`heads`"},
        {"model.width=32", NULL, "`width` in [model], which is 16, to 32"},
        {"model.mlp=64", NULL, "`mlp`"},
        {"model.objective=next-token", NULL,
         "`objective` in [model], which is masked, to next-token"},
        {"model.positions=rotary", NULL, "`positions`"},
        {"attention.kind=softmax", NULL, "`kind` in [attention], which is favor, to softmax"},
        {"attention.kernel=relu", NULL, "`kernel`"},
        {"attention.features=128", NULL, "`features` in [attention], which is 256, to 128"},
        {"attention.rank=32", NULL, "`rank`"},
        {"attention.buckets=32", NULL, "`buckets`"},
        {"attention.rounds=4", NULL, "`rounds`"},
        {"train.batch=64", NULL, "`batch` in [train], which is 32, to 64"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fault fault;
        cr_expect_eq(check(cases[i].first, cases[i].second, 50, &fault), ST_INVALID, "%s",
                     cases[i].first);
        cr_expect(strstr(fault.text, cases[i].says), "%s: %s", cases[i].first, fault.text);
    }
}

Test(jobspec_fork, all_else_may_change)
{
    static const char *const free_keys[] = {
        "job.name=other",         "data.train=u",        "data.valid_fraction=0.1",
        "data.packing=pad",       "model.dropout=0.1",   "attention.orthogonal=false",
        "attention.epsilon=1e-4", "redraw.every=7",      "redraw.policy=never",
        "optimizer.lr=1e-5",      "optimizer.clip=0",    "optimizer.schedule=cosine",
        "train.steps=51",         "train.micro_batch=8", "resources.ranks=2",
        "resources.threads=1",    "checkpoint.every=10", "evaluate.every=10",
        "restart.max=0",          "queue.priority=5",
    };
    for (size_t i = 0; i < sizeof free_keys / sizeof free_keys[0]; i++) {
        struct fault fault;
        cr_expect_eq(check(free_keys[i], NULL, 50, &fault), ST_OK, "%s: %s", free_keys[i],
                     fault.text);
    }
}

Test(jobspec_fork, there_must_be_a_step_left)
{
    struct fault fault;
    cr_assert_eq(check(NULL, NULL, 99, &fault), ST_OK);
    cr_assert_eq(check(NULL, NULL, 100, &fault), ST_INVALID);
    cr_assert(strstr(fault.text, "--set train.steps="), "%s", fault.text);
}
