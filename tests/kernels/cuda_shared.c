/* How much shared memory the blocks of kernels/cuda take, at most, where heads are 64 wide: as is written beside their tiles. */

#include <criterion/criterion.h>
#include <stdlib.h>

#include "tests/cudashim/cudashim.h"
#include "tests/kernels/trial.h"

enum { LENGTH = 2, DIM = 64, FEATURES = 8, RANK = 2, BUCKETS = 2 };

static const struct budget {
    enum attention_kind kind;
    int forward, backward; /* KiB */
} budgets[] = {
    {ATTENTION_FAVOR, 132, 205},
    {ATTENTION_SOFTMAX, 86, 137},
    {ATTENTION_LINFORMER, 86, 137},
    {ATTENTION_REFORMER, 86, 137},
};

static int shared_kib(void)
{
    return (int)((cudashim_shared_bytes() + 1023) / 1024);
}

static void budget_holds(const struct budget *budget)
{
    const struct backend *backend = trial_backends()[0];
    float *x = trial_floats(1, LENGTH * DIM, 1), *matrix = trial_floats(2, DIM * DIM, 1);
    float *out = trial_unwritten(LENGTH * DIM), *dx = trial_unwritten(3 * LENGTH * DIM);
    const struct heads_view view = {x, 0, 0, DIM};
    struct attention op = {
        .kind = budget->kind,
        .kernel = KERNEL_SOFTMAX_POSITIVE,
        .causal = budget->kind != ATTENTION_LINFORMER,
        .epsilon = 1e-6f,
        .batch = 1,
        .heads = 1,
        .length = LENGTH,
        .head_dim = DIM,
        .value_dim = DIM,
        .features = FEATURES,
        .projection = matrix,
        .q = view,
        .k = view,
        .v = view,
        .out = {out, 0, 0, DIM},
        .rank = RANK,
        .columns = LENGTH,
        .key_projection = matrix,
        .value_projection = matrix,
        .rounds = 1,
        .buckets = BUCKETS,
        .chunk = LENGTH,
        .rotations = matrix,
    };
    op.saved = trial_unwritten((int64_t)backend->attention_saved_floats(&op));
    const struct attention_backward back = {
        .forward = op,
        .dout = view,
        .dq = {dx, 0, 0, DIM},
        .dk = {dx + LENGTH * DIM, 0, 0, DIM},
        .dv = {dx + 2 * LENGTH * DIM, 0, 0, DIM},
    };
    shared_kib();
    cr_assert_eq(TRIAL_RUN(backend, 1, attention, &op), ST_OK);
    cr_expect_eq(shared_kib(), budget->forward, "%s", attention_kind_text(op.kind));
    cr_assert_eq(TRIAL_RUN(backend, 1, attention_backward, &back), ST_OK);
    cr_expect_eq(shared_kib(), budget->backward, "%s", attention_kind_text(op.kind));
    free(x), free(matrix), free(out), free(dx), free(op.saved);
}

Test(cuda_shared, blocks_take_what_is_written_beside_their_tiles)
{
    for (size_t i = 0; i < sizeof budgets / sizeof budgets[0]; i++) budget_holds(&budgets[i]);
}
