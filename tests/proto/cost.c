/* Parameters, bytes and operations of a job, worked out by hand for shapes small enough to do so. */

#include <criterion/criterion.h>

#include "proto/cost.h"

/* The model of the test vectors: V 64, L 48, D 32, M 64, two layers, four heads of 8, m 32. */
static struct jobspec vectors_spec(void)
{
    struct jobspec spec = {0};
    spec.resources.ranks = 1;
    spec.data.format = FORMAT_TOKENS;
    spec.data.vocab = 64;
    spec.data.length = 48;
    spec.model.layers = 2;
    spec.model.heads = 4;
    spec.model.width = 32;
    spec.model.mlp = 64;
    spec.model.causal = true;
    spec.attention.kind = ATTENTION_FAVOR;
    spec.attention.features = 32;
    spec.train.batch = 16;
    spec.train.micro_batch = 2;
    return spec;
}

static struct cost cost_for(const struct jobspec *spec)
{
    struct cost cost;
    cost_of(spec, &cost);
    return cost;
}

/* 91136 bytes of float32: what vectors/model/identity/expected.safetensors holds. */
Test(cost, parameters)
{
    struct jobspec spec = vectors_spec();
    cr_expect(cost_for(&spec).parameters == 22784);
    spec.model.positions = POSITIONS_NONE;
    cr_expect(cost_for(&spec).parameters == 22784 - 48 * 32);
}

/* No parameters, no moments; a table of L D or L d. */
Test(cost, fixed_positions_are_a_table)
{
    struct jobspec spec = vectors_spec();
    const uint64_t parameters = 22784 - 48 * 32;
    spec.model.positions = POSITIONS_SINUSOIDAL;
    cr_expect(cost_for(&spec).parameters == parameters);
    cr_expect(cost_for(&spec).bytes_weights == 4 * (parameters + 2 * 32 * 8 + 48 * 32));
    spec.model.positions = POSITIONS_ROTARY;
    cr_expect(cost_for(&spec).parameters == parameters);
    cr_expect(cost_for(&spec).bytes_weights == 4 * (parameters + 2 * 32 * 8 + 48 * 8));
    cr_expect(cost_for(&spec).bytes_moments == 8 * parameters);
}

Test(cost, bytes_of_weights_and_moments)
{
    struct jobspec spec = vectors_spec();
    struct cost cost = cost_for(&spec);
    cr_expect(cost.bytes_weights == 4 * (22784 + 2 * 32 * 8));
    cr_expect(cost.bytes_moments == 8 * 22784);
    spec.attention.kind = ATTENTION_SOFTMAX;
    cr_expect(cost_for(&spec).bytes_weights == 4 * 22784);
}

/* Weights, both moments and the projections, but no fixed positions: all that a checkpoint holds. */
Test(cost, bytes_of_a_snapshot)
{
    struct jobspec spec = vectors_spec();
    cr_expect(cost_for(&spec).bytes_snapshot == 4 * (3 * 22784 + 2 * 32 * 8));
    spec.attention.kind = ATTENTION_SOFTMAX;
    spec.model.positions = POSITIONS_SINUSOIDAL;
    cr_expect(cost_for(&spec).bytes_snapshot == 4 * 3 * (22784 - 48 * 32));
}

/* A buffer for each depth of the tree over a rank's shards, and 2 MiB for what partners send. */
Test(cost, bytes_of_gradients)
{
    struct jobspec spec = vectors_spec(); /* 8 shards */
    cr_expect(cost_for(&spec).bytes_gradients == 4 * 22784 * 4);
    spec.resources.ranks = 2;
    cr_expect(cost_for(&spec).bytes_gradients == 4 * 22784 * 3 + (2 << 20));
    spec.resources.ranks = 8;
    cr_expect(cost_for(&spec).bytes_gradients == 4 * 22784 * 1 + (2 << 20));
    spec.train.batch = 18; /* 9 shards on 3 ranks: three each, a tree of depth two */
    spec.resources.ranks = 3;
    cr_expect(cost_for(&spec).bytes_gradients == 4 * 22784 * 3 + (2 << 20));
}

/* R = 96 rows: R D 3072, R 3 D 9216, R M 6144, R 96, R V 6144. */
Test(cost, bytes_of_activations)
{
    struct jobspec spec = vectors_spec();
    uint64_t layer = 5 * 3072 + 9216 + 2 * 6144 + 4 * 96;
    uint64_t ends = 2 * 3072 + 2 * 96 + 6144, gradients = 2 * 3072 + 9216;
    cr_expect(cost_for(&spec).bytes_activations == 4 * (2 * layer + ends + gradients));
    spec.model.dropout = 0.1;
    cr_expect(cost_for(&spec).bytes_activations == 4 * (2 * layer + ends + gradients + 3072));
    struct cost cost = cost_for(&spec);
    cr_expect(cost.bytes_total == cost.bytes_weights + cost.bytes_gradients + cost.bytes_moments +
                                      cost.bytes_activations + cost.bytes_snapshot);
}

/* Every layer its input, and once what a layer keeps besides. What is done twice is counted once. */
Test(cost, bytes_of_recomputed_layers)
{
    struct jobspec spec = vectors_spec();
    const double flops = cost_for(&spec).flops_step;
    spec.train.recompute = RECOMPUTE_LAYER;
    uint64_t layer = 4 * 3072 + 9216 + 2 * 6144 + 4 * 96;
    uint64_t ends = 2 * 3072 + 2 * 96 + 6144, gradients = 2 * 3072 + 9216;
    cr_expect(cost_for(&spec).bytes_activations == 4 * (2 * 3072 + layer + ends + gradients));
    cr_expect(cost_for(&spec).flops_step == flops);
}

/* A token forward: 2 * (3 D D + D D + 2 D M) a layer and 2 D V; all three times with the backward pass. */
Test(cost, operations_of_the_dense_products)
{
    struct jobspec spec = vectors_spec();
    spec.attention.kind = ATTENTION_IDENTITY;
    struct cost cost = cost_for(&spec);
    double token = 2.0 * 2 * (4 * 32 * 32 + 2 * 32 * 64) + 2.0 * 32 * 64;
    cr_expect(cost.flops_attention == 0.0);
    cr_expect(cost.tokens_step == 16 * 48);
    cr_expect(cost.flops_step == 3.0 * 16 * 48 * token, "%g", cost.flops_step);
}

/* A head and token: m features of d for q and for k, twice, for the projection has no gradient; m (d + 1) twice, three times. */
Test(cost, operations_of_favor_grow_with_length)
{
    struct jobspec spec = vectors_spec();
    double token = 2 * 4 * (2 * 2.0 * 2 * 32 * 8 + 3 * 2.0 * 2 * 32 * 9);
    cr_expect(cost_for(&spec).flops_attention == 16 * 48 * token);
    double causal = cost_for(&spec).flops_attention;
    spec.model.causal = false;
    cr_expect(cost_for(&spec).flops_attention == causal);
    spec.data.length *= 2;
    cr_expect(cost_for(&spec).flops_attention == 2.0 * causal);
}

/* Two columns for a projection: products with them are twice as large, projections are not. */
Test(cost, operations_of_two_columns)
{
    struct jobspec spec = vectors_spec();
    double token = 2 * 4 * (2 * 2.0 * 2 * 32 * 8 + 3 * 2.0 * 2 * 64 * 9);
    spec.attention.kernel = KERNEL_SOFTMAX_HYPERBOLIC;
    cr_expect(cost_for(&spec).flops_attention == 16 * 48 * token);
    cr_expect(cost_for(&spec).bytes_weights == 4 * (22784 + 2 * 32 * 8));
    spec.attention.kernel = KERNEL_SOFTMAX_TRIG;
    cr_expect(cost_for(&spec).flops_attention == 16 * 48 * token);
}

/* No projection: d columns, whatever `features` says. */
Test(cost, operations_and_bytes_of_elu1)
{
    struct jobspec spec = vectors_spec();
    spec.attention.kernel = KERNEL_ELU1;
    cr_expect(cost_for(&spec).flops_attention == 3.0 * 16 * 48 * 2 * 4 * (2.0 * 2 * 8 * 9));
    cr_expect(cost_for(&spec).bytes_weights == 4 * 22784);
}

/* A head: L queries, L keys each (causal: 24.5 on average), q k and the weighted sum of d. */
Test(cost, operations_of_exact_attention_grow_with_its_square)
{
    struct jobspec spec = vectors_spec();
    spec.attention.kind = ATTENTION_SOFTMAX;
    spec.model.causal = false;
    double sequence = 2 * 4 * (48.0 * 48 * (2 * 8 + 2 * 8));
    cr_expect(cost_for(&spec).flops_attention == 3.0 * 16 * sequence);
    spec.model.causal = true;
    cr_expect(cost_for(&spec).flops_attention == 3.0 * 16 * sequence * 24.5 / 48.0);
    cr_expect(cost_for(&spec).flops_step_exact == cost_for(&spec).flops_step);
    spec.attention.kind = ATTENTION_FAVOR;
    cr_expect(cost_for(&spec).flops_step_exact - cost_for(&spec).flops_step ==
              3.0 * 16 * sequence * 24.5 / 48.0 - cost_for(&spec).flops_attention);
}

/* E and F, r rows of L each; E k, F v (forward, and one product back), scores of r keys and the weighted sum. */
Test(cost, linformer_grows_with_length_and_rank)
{
    struct jobspec spec = vectors_spec();
    spec.attention.kind = ATTENTION_LINFORMER;
    spec.attention.rank = 12;
    spec.model.causal = false;
    double token = 2 * 4 * (12.0 * 2 * (8 + 8) * 2 + 12.0 * 2 * (8 + 8) * 3);
    cr_expect(cost_for(&spec).parameters == 22784);
    cr_expect(cost_for(&spec).bytes_weights == 4 * (22784 + 2 * 2 * 12 * 48));
    cr_expect(cost_for(&spec).flops_attention == 16 * 48 * token);
    double before = cost_for(&spec).flops_attention;
    spec.data.length *= 2;
    cr_expect(cost_for(&spec).flops_attention == 2.0 * before);
}

/* No k_proj, 32 * 32 + 32 a layer, and two parts of the product in place of three; R (2 rounds, 8, 4).
 * Eight buckets of 6 in three chunks of 2: 2 keys for the queries of the first, 4 for those of the others. */
Test(cost, reformer_has_no_keys_of_its_own)
{
    struct jobspec spec = vectors_spec();
    spec.attention.kind = ATTENTION_REFORMER;
    spec.attention.rounds = 2;
    spec.attention.buckets = 8;
    spec.attention.chunk = 2;
    uint64_t parameters = 22784 - 2 * (32 * 32 + 32);
    cr_expect(cost_for(&spec).parameters == parameters);
    cr_expect(cost_for(&spec).bytes_weights == 4 * (parameters + 2 * 2 * 8 * 4));

    uint64_t layer = 5 * 3072 + 2 * 3072 + 2 * 6144 + 4 * 96;
    uint64_t ends = 2 * 3072 + 2 * 96 + 6144, gradients = 2 * 3072 + 6144;
    cr_expect(cost_for(&spec).bytes_activations == 4 * (2 * layer + ends + gradients));

    double hashed = 48.0 * 8 * 4 * 2, pairs = 8 * (2 * 2 + 2 * 2 * 4);
    double sequence = 2 * 4 * 2 * (hashed + 3 * pairs * 2 * (8 + 8));
    double token = 2.0 * 2 * (3 * 32 * 32 + 2 * 32 * 64) + 2.0 * 32 * 64;
    cr_expect(cost_for(&spec).flops_attention == 16 * sequence);
    cr_expect(cost_for(&spec).flops_step == 16 * sequence + 3.0 * 16 * 48 * token);

    spec.attention.chunk = 64; /* holds all of a bucket: every query with every key of it */
    sequence = 2 * 4 * 2 * (hashed + 3 * 8 * 6.0 * 6 * 2 * (8 + 8));
    cr_expect(cost_for(&spec).flops_attention == 16 * sequence);
}
