/*
 * A step allocates nothing: every call of malloc and its kin in the process is counted while steps run, whatever thread or
 * library it comes from. Only what oneDNN takes inside a product is left out: it packs its operands into memory of its
 * own, and there is no way to hand it any. Not built with sanitizers, whose malloc is their own.
 */

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/step.h"

/* glibc's own, behind the names that a program may define for itself. */
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *memory, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);

static atomic_bool counting;
static atomic_int allocations;
static _Thread_local int products; /* of oneDNN, under way on this thread */

static void note_allocation(void)
{
    if (atomic_load(&counting) && products == 0) atomic_fetch_add(&allocations, 1);
}

void *malloc(size_t bytes)
{
    note_allocation();
    return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
    note_allocation();
    return __libc_calloc(count, bytes);
}

void *realloc(void *memory, size_t bytes)
{
    note_allocation();
    return __libc_realloc(memory, bytes);
}

void *memalign(size_t alignment, size_t bytes)
{
    note_allocation();
    return __libc_memalign(alignment, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    return memalign(alignment, bytes);
}

int posix_memalign(void **memory, size_t alignment, size_t bytes)
{
    void *got = memalign(alignment, bytes);
    if (!got) return ENOMEM;
    *memory = got;
    return 0;
}

/* The linker puts this in the place of dnnl_sgemm. */
int __wrap_dnnl_sgemm(char trans_a, char trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                      const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                      float *c, int64_t ldc);
int __real_dnnl_sgemm(char trans_a, char trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                      const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                      float *c, int64_t ldc);

int __wrap_dnnl_sgemm(char trans_a, char trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                      const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                      float *c, int64_t ldc)
{
    products++;
    const int status =
        __real_dnnl_sgemm(trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    products--;
    return status;
}

/* ---- steps ---- */

enum { SETS_MAX = 3 };

struct step_case {
    char set[SETS_MAX][40]; /* empty: none */
};

static void write_proteins(const char *path)
{
    FILE *file = fopen(path, "w");
    cr_assert(file);
    for (int i = 0; i < 64; i++) {
        fprintf(file, ">%d\n", i);
        for (int j = 0; j < 20 + i * 37 % 200; j++) fputc("ACDEFGHIKLMNPQRSTVWY"[i * j % 20], file);
        fputc('\n', file);
    }
    fclose(file);
}

static void read_job(const char *directory, const struct step_case *test, struct jobspec *spec)
{
    char text[1000], path[300];
    snprintf(path, sizeof path, "%s/proteins.fasta", directory);
    write_proteins(path);
    const int length = snprintf(text, sizeof text,
                                "[job]\nname = \"steps\"\n[resources]\nthreads = 2\n"
                                "[data]\nformat = \"fasta\"\ntrain = \"proteins.fasta\"\n"
                                "length = 160\npacking = \"pad\"\n"
                                "[model]\nlayers = 2\nheads = 2\nwidth = 64\nmlp = 96\n"
                                "dropout = 0.1\n"
                                "[train]\nbatch = 8\nmicro_batch = 2\n"
                                "[attention]\nfeatures = 24\nrank = 16\nbuckets = 8\n");
    struct jobspec_override overrides[SETS_MAX];
    size_t count = 0;
    for (; count < SETS_MAX && *test->set[count]; count++) overrides[count].text = test->set[count];
    snprintf(path, sizeof path, "%s/job.toml", directory);
    struct diagnostics diagnostics = {0};
    cr_assert_eq(jobspec_parse(text, (size_t)length, path, overrides, count, &diagnostics, spec),
                 ST_OK, "%s", diagnostics.count ? diagnostics.items[0].message : "");
    diagnostics_free(&diagnostics);
}

static void take_steps(struct training *training, int count)
{
    struct fault fault;
    for (int i = 0; i < count; i++) {
        struct edge edge;
        cr_assert_eq(step_run(training, &edge, &fault), ST_OK, "%s", fault.text);
    }
}

ParameterizedTestParameters(allocation, a_step_allocates_nothing)
{
    static struct step_case cases[] = {
        {{"attention.kind=favor"}},
        {{"attention.kind=favor", "train.recompute=layer"}},
        {{"attention.kind=favor", "attention.kernel=relu", "model.causal=false"}},
        {{"attention.kind=softmax", "model.positions=rotary"}},
        {{"attention.kind=linformer", "model.causal=false"}},
        {{"attention.kind=reformer"}},
        {{"attention.kind=identity", "data.packing=concat"}},
    };
    return cr_make_param_array(struct step_case, cases, sizeof cases / sizeof cases[0]);
}

/* What is made once, at the first step, is part of the start. */
ParameterizedTest(struct step_case *test, allocation, a_step_allocates_nothing)
{
    char directory[] = "/tmp/performerd-allocation-XXXXXX", command[100];
    struct fault fault;
    struct training_setup setup = {.directory = directory, .backend = backend_find("cpu")};
    struct jobspec spec;
    struct training *training;
    cr_assert(mkdtemp(directory));
    read_job(directory, test, &spec);
    setup.spec = &spec;
    cr_assert_eq(collective_single(&setup.collective), ST_OK);
    cr_assert_eq(uplink_open_file(directory, 0, &setup.uplink, &fault), ST_OK);
    cr_assert_eq(training_open(&setup, &training, &fault), ST_OK, "%s", fault.text);

    take_steps(training, 1);
    atomic_store(&counting, true);
    void *volatile one = malloc(1); /* the count counts */
    free(one);
    take_steps(training, 5);
    atomic_store(&counting, false);
    cr_expect_eq(atomic_load(&allocations), 1, "%s: %d allocations in five steps", test->set[0],
                 atomic_load(&allocations) - 1);

    training_close(training);
    uplink_close(setup.uplink, 0, &fault);
    collective_close(setup.collective);
    jobspec_free(&spec);
    snprintf(command, sizeof command, "rm -r %s", directory);
    cr_assert_eq(system(command), 0);
}
