/* Names, shapes and places of the weights, and which files they are read from. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include "proto/cost.h"
#include "tests/worker/small_job.h"
#include "worker/params.h"

static struct jobspec spec;
static struct params *params;
static float *weights, *projections;
static char path[64];

static void setup(void)
{
    small_job(&spec);
    snprintf(path, sizeof path, "/tmp/params-XXXXXX");
    close(mkstemp(path));
    cr_assert(params_new(&spec, &params) == ST_OK);
    weights = calloc((size_t)params->floats, sizeof *weights);
    projections = calloc(2 * 5 * 4, sizeof *projections);
    params_initialize(params, 3, weights);
}

static void teardown(void)
{
    unlink(path);
    free(projections);
    free(weights);
    params_free(params);
    jobspec_free(&spec);
}

TestSuite(params, .init = setup, .fini = teardown);

static const struct parameter *find(const char *name)
{
    for (size_t i = 0; i < params->count; i++)
        if (strcmp(params->list[i].name, name) == 0) return &params->list[i];
    cr_assert_fail("no %s", name);
    return NULL;
}

Test(params, names_and_shapes_of_the_contract)
{
    static const struct {
        const char *name;
        int64_t rows, columns; /* columns 0: one dimension */
    } expected[] = {
        {"tok_embed.weight", 11, 8},
        {"pos_embed.weight", 6, 8},
        {"layers.1.norm1.weight", 8, 0},
        {"layers.1.norm1.bias", 8, 0},
        {"layers.1.attn.q_proj.weight", 8, 8},
        {"layers.1.attn.q_proj.bias", 8, 0},
        {"layers.1.attn.k_proj.weight", 8, 8},
        {"layers.1.attn.k_proj.bias", 8, 0},
        {"layers.1.attn.v_proj.weight", 8, 8},
        {"layers.1.attn.v_proj.bias", 8, 0},
        {"layers.1.attn.out_proj.weight", 8, 8},
        {"layers.1.attn.out_proj.bias", 8, 0},
        {"layers.1.norm2.weight", 8, 0},
        {"layers.1.norm2.bias", 8, 0},
        {"layers.1.mlp.fc1.weight", 12, 8},
        {"layers.1.mlp.fc1.bias", 12, 0},
        {"layers.1.mlp.fc2.weight", 8, 12},
        {"layers.1.mlp.fc2.bias", 8, 0},
        {"norm_f.weight", 8, 0},
        {"norm_f.bias", 8, 0},
        {"lm_head.weight", 11, 8},
    };
    cr_expect(params->count == 2 + 2 * 16 + 3);
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        const struct parameter *p = find(expected[i].name);
        cr_expect(p->dimensions == (expected[i].columns ? 2 : 1), "%s", p->name);
        cr_expect(p->shape[0] == expected[i].rows, "%s", p->name);
        cr_expect(p->dimensions == 1 || p->shape[1] == expected[i].columns, "%s", p->name);
        cr_expect(p->decay == (p->dimensions == 2), "%s", p->name);
    }
}

Test(params, tensors_fill_the_memory_and_buckets_are_layers)
{
    int64_t at = 0;
    for (size_t i = 0; i < params->count; i++) {
        cr_expect(params->list[i].offset == at, "%s", params->list[i].name);
        at += params->list[i].count;
    }
    cr_expect(at == params->floats);
    cr_expect(params->buckets == 4);
    cr_expect(params->bucket[1].offset == find("layers.0.norm1.weight")->offset);
    cr_expect(params->bucket[3].offset == find("norm_f.weight")->offset);
    cr_expect(params->bucket[3].offset + params->bucket[3].count == params->floats);
}

Test(params, q_k_and_v_are_one_matrix)
{
    const struct layer_offsets *layer = &params->layer[1];
    cr_expect(layer->k_weight == layer->q_weight + 64 && layer->v_weight == layer->k_weight + 64);
    cr_expect(layer->k_bias == layer->q_bias + 8 && layer->v_bias == layer->k_bias + 8);
}

Test(params, a_matrix_of_one_column_is_a_matrix)
{
    params_free(params);
    spec.model.mlp = 1;
    cr_assert(params_new(&spec, &params) == ST_OK);
    cr_expect(find("layers.0.mlp.fc2.weight")->dimensions == 2);
}

Test(params, without_positions_there_is_no_table_of_them)
{
    params_free(params);
    spec.model.positions = POSITIONS_NONE;
    cr_assert(params_new(&spec, &params) == ST_OK);
    cr_expect(params->embedding.pos_embed == -1);
    cr_expect(params->list[1].offset == 11 * 8 &&
              strcmp(params->list[1].name, "layers.0.norm1.weight") == 0);
    struct cost cost;
    cost_of(&spec, &cost);
    cr_expect(cost.parameters == (uint64_t)params->floats);
}

/* One product makes q and v, whose weights are neighbours. */
Test(params, reformer_has_no_k_proj)
{
    params_free(params);
    spec.attention.kind = ATTENTION_REFORMER;
    cr_assert(params_new(&spec, &params) == ST_OK);
    for (size_t i = 0; i < params->count; i++)
        cr_expect(!strstr(params->list[i].name, "k_proj"), "%s", params->list[i].name);
    const struct layer_offsets *at = &params->layer[1];
    cr_expect(at->k_weight == -1 && at->k_bias == -1);
    cr_expect(at->v_weight == at->q_weight + 8 * 8);
    cr_expect(at->q_bias == at->v_weight + 8 * 8 && at->v_bias == at->q_bias + 8);
    struct cost cost;
    cost_of(&spec, &cost);
    cr_expect(cost.parameters == (uint64_t)params->floats);
}

Test(params, initial_weights)
{
    static float again[4096];
    double squares = 0.0, residual_squares = 0.0;
    const struct parameter *embed = find("tok_embed.weight"),
                           *out = find("layers.0.mlp.fc2.weight");
    for (int64_t i = 0; i < embed->count; i++) squares += pow(weights[embed->offset + i], 2);
    for (int64_t i = 0; i < out->count; i++) residual_squares += pow(weights[out->offset + i], 2);
    cr_expect(fabs(sqrt(squares / (double)embed->count) / 0.02 - 1) < 0.25);
    cr_expect(fabs(sqrt(residual_squares / (double)out->count) / 0.01 - 1) < 0.25,
              "0.02 / sqrt(4)");
    cr_expect(weights[find("norm_f.weight")->offset] == 1.0F);
    cr_expect(weights[find("norm_f.bias")->offset] == 0.0F);
    cr_expect(weights[find("layers.0.attn.q_proj.weight")->offset] !=
              weights[find("layers.1.attn.q_proj.weight")->offset]);

    params_initialize(params, 3, again);
    cr_expect(memcmp(weights, again, (size_t)params->floats * sizeof *again) == 0);
    params_initialize(params, 4, again);
    cr_expect(memcmp(weights, again, (size_t)params->floats * sizeof *again) != 0);
}

/* Writes the weights, then whatever `change` makes of the entries, and opens the file. */
static struct safetensors *file_of(size_t (*change)(struct tensor_entry *, size_t))
{
    static struct tensor_entry entries[64];
    struct safetensors *file;
    params_entries(params, "", weights, entries);
    size_t count = change ? change(entries, params->count) : params->count;
    cr_assert(safetensors_write(path, entries, count, NULL, 0, NULL) == ST_OK);
    cr_assert(safetensors_open(path, &file, NULL) == ST_OK);
    return file;
}

Test(params, what_was_written_is_read)
{
    static float again[4096];
    struct fault fault;
    bool found = true;
    struct safetensors *file = file_of(NULL);
    cr_expect(params_reject_unknown(params, file, &fault) == ST_OK);
    cr_expect(params_read(params, file, "", again, &fault) == ST_OK);
    cr_expect(memcmp(weights, again, (size_t)params->floats * sizeof *again) == 0);
    cr_expect(params_read_projections(params, file, projections, &found, &fault) == ST_OK);
    cr_expect(!found, "a Transformer's file has none");
    safetensors_close(file);
}

static size_t drop_one(struct tensor_entry *entries, size_t count)
{
    entries[5] = entries[count - 1];
    return count - 1;
}

static size_t misshape_one(struct tensor_entry *entries, size_t count)
{
    entries[0].shape[0] = 8;
    entries[0].shape[1] = 11;
    return count;
}

static size_t retype_one(struct tensor_entry *entries, size_t count)
{
    entries[0].type = TENSOR_I32;
    return count;
}

static size_t add_one(struct tensor_entry *entries, size_t count)
{
    entries[count] = entries[0];
    strcpy(entries[count].name, "layers.2.norm1.weight");
    return count + 1;
}

static size_t add_projection_to_one_layer(struct tensor_entry *entries, size_t count)
{
    params_projection_entries(params, projections, entries + count);
    return count + 1;
}

static size_t add_projections(struct tensor_entry *entries, size_t count)
{
    params_projection_entries(params, projections, entries + count);
    return count + 2;
}

static void expect_words(enum status status, const struct fault *fault, const char *first,
                         const char *second)
{
    cr_expect(status == ST_INVALID);
    cr_expect(strstr(fault->text, first), "%s", fault->text);
    cr_expect(strstr(fault->text, second), "%s", fault->text);
}

Test(params, a_missing_tensor_is_named)
{
    struct fault fault;
    struct safetensors *file = file_of(drop_one);
    enum status status = params_read(params, file, "", weights, &fault);
    expect_words(status, &fault, params->list[5].name, "there is no tensor");
    safetensors_close(file);
}

Test(params, a_tensor_of_another_shape_is_named_with_both)
{
    struct fault fault;
    struct safetensors *file = file_of(misshape_one);
    enum status status = params_read(params, file, "", weights, &fault);
    expect_words(status, &fault, "[8, 11]", "[11, 8]");
    safetensors_close(file);
}

Test(params, a_tensor_of_another_type_is_refused)
{
    struct fault fault;
    struct safetensors *file = file_of(retype_one);
    enum status status = params_read(params, file, "", weights, &fault);
    expect_words(status, &fault, "tok_embed.weight", "float32");
    safetensors_close(file);
}

Test(params, a_tensor_too_many_is_named)
{
    struct fault fault;
    struct safetensors *file = file_of(add_one);
    enum status status = params_reject_unknown(params, file, &fault);
    expect_words(status, &fault, "layers.2.norm1.weight", "no place");
    safetensors_close(file);
}

Test(params, projections_of_all_layers_or_none)
{
    struct fault fault;
    bool found = false;
    struct safetensors *file = file_of(add_projection_to_one_layer);
    enum status status = params_read_projections(params, file, projections, &found, &fault);
    expect_words(status, &fault, "1 of 2", "attn.projection");
    safetensors_close(file);
}

Test(params, projections_are_read)
{
    struct fault fault;
    bool found = false;
    for (int i = 0; i < 40; i++) projections[i] = (float)i;
    struct safetensors *file = file_of(add_projections);
    memset(projections, 0, 40 * sizeof *projections);
    cr_expect(params_reject_unknown(params, file, &fault) == ST_OK);
    cr_expect(params_read_projections(params, file, projections, &found, &fault) == ST_OK);
    cr_expect(found && projections[39] == 39.0F);

    params_free(params);
    spec.attention.kind = ATTENTION_SOFTMAX;
    cr_assert(params_new(&spec, &params) == ST_OK);
    cr_expect(params_read_projections(params, file, NULL, &found, &fault) == ST_OK);
    cr_expect(!found, "exact attention has no use for them");
    safetensors_close(file);
}

Test(params, projections_of_another_shape_are_refused)
{
    struct fault fault;
    bool found = false;
    struct safetensors *file = file_of(add_projections);
    params_free(params);
    spec.attention.features = 6;
    cr_assert(params_new(&spec, &params) == ST_OK);
    enum status status = params_read_projections(params, file, projections, &found, &fault);
    expect_words(status, &fault, "[5, 4]", "[6, 4]");
    safetensors_close(file);
}

static size_t add_all_projections(struct tensor_entry *entries, size_t count)
{
    params_projection_entries(params, projections, entries + count);
    return count + (size_t)(params->layers * params->projections);
}

/* E and F, (rank, L), and R, (rounds, d, buckets / 2), under the names of the contract; both come back as written. */
Test(params, projections_of_linformer_and_reformer)
{
    static const struct {
        enum attention_kind kind;
        const char *name;
        int dimensions;
        int64_t shape[3], floats; /* of a layer */
    } expected[] = {
        {ATTENTION_LINFORMER, "layers.1.attn.key_projection", 2, {4, 6}, 48},
        {ATTENTION_LINFORMER, "layers.1.attn.value_projection", 2, {4, 6}, 48},
        {ATTENTION_REFORMER, "layers.1.attn.rotations", 3, {2, 4, 3}, 24},
    };
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        struct fault fault;
        bool found = false;
        params_free(params);
        spec.attention.kind = expected[i].kind;
        cr_assert(params_new(&spec, &params) == ST_OK);
        cr_assert(params->projection_floats == expected[i].floats);
        const size_t bytes = 2 * (size_t)expected[i].floats * sizeof(float);
        free(projections);
        projections = malloc(bytes);
        for (int64_t at = 0; at < 2 * expected[i].floats; at++) projections[at] = (float)at;

        struct safetensors *file = file_of(add_all_projections);
        const struct tensor_entry *entry = safetensors_find(file, expected[i].name);
        cr_assert(entry, "no %s", expected[i].name);
        cr_expect(entry->dimensions == expected[i].dimensions);
        for (int d = 0; d < entry->dimensions; d++)
            cr_expect(entry->shape[d] == expected[i].shape[d]);
        cr_expect(params_reject_unknown(params, file, &fault) == ST_OK);
        memset(projections, 0, bytes);
        cr_expect(params_read_projections(params, file, projections, &found, &fault) == ST_OK);
        cr_expect(found);
        for (int64_t at = 0; at < 2 * expected[i].floats; at++)
            cr_expect(projections[at] == (float)at);
        safetensors_close(file);
    }
}
