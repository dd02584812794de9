#include "worker/params.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/philox.h"
#include "kernels/projection.h"

struct sizes {
    int64_t VOCAB, POSITIONS, KEYS, WIDTH, MLP, ONE;
};

static void add_parameter(struct params *params, const char *prefix, const char *name, int64_t rows,
                          int64_t columns, int dimensions, enum initial initial, int64_t *offset)
{
    *offset = -1;
    if (rows == 0) return;
    struct parameter *parameter = &params->list[params->count++];
    int length = snprintf(parameter->name, sizeof parameter->name, "%s%s", prefix, name);
    assert(length > 0 && (size_t)length < sizeof parameter->name);
    parameter->dimensions = dimensions;
    parameter->shape[0] = rows;
    parameter->shape[1] = columns;
    parameter->offset = params->floats;
    parameter->count = rows * columns;
    parameter->initial = initial;
    parameter->decay = parameter->dimensions == 2;
    *offset = parameter->offset;
    params->floats += parameter->count;
}

static void end_bucket(struct params *params)
{
    int64_t begin = 0;
    if (params->buckets > 0) {
        const struct bucket *last = &params->bucket[params->buckets - 1];
        begin = last->offset + last->count;
    }
    params->bucket[params->buckets++] = (struct bucket){begin, params->floats - begin};
}

enum { DIMENSIONS_ONE = 1, DIMENSIONS_WIDTH = 2, DIMENSIONS_MLP = 2 };
#define ADD(field, name, rows, columns, initial)                                         \
    add_parameter(params, prefix, name, size->rows, size->columns, DIMENSIONS_##columns, \
                  INITIAL_##initial, &offsets->field);

static void add_embedding(struct params *params, const struct sizes *size)
{
    const char *prefix = "";
    struct embedding_offsets *offsets = &params->embedding;
    EMBEDDING_TENSORS(ADD)
    end_bucket(params);
}

static void add_layer(struct params *params, const struct sizes *size, int64_t layer)
{
    char prefix[32];
    snprintf(prefix, sizeof prefix, "layers.%lld.", (long long)layer);
    struct layer_offsets *offsets = &params->layer[layer];
    LAYER_TENSORS(ADD)
    end_bucket(params);
}

static void add_head(struct params *params, const struct sizes *size)
{
    const char *prefix = "";
    struct head_offsets *offsets = &params->head;
    HEAD_TENSORS(ADD)
    end_bucket(params);
}
#undef ADD

static const char *const projection_names[] = {
#define PROJECTION_NAME(enumerator, name, attention, ...) [enumerator] = (name),
    PROJECTIONS(PROJECTION_NAME)
#undef PROJECTION_NAME
};

static void add_projection(struct params *params, enum projection_id id, const int64_t *shape,
                           int dimensions)
{
    struct projection *projection = &params->projection[params->projections++];
    *projection = (struct projection){
        .id = id, .dimensions = dimensions, .offset = params->projection_floats, .count = 1};
    for (int i = 0; i < dimensions; i++) {
        projection->shape[i] = shape[i];
        projection->count *= shape[i];
    }
    params->projection_floats += projection->count;
}

static void add_projections(struct params *params, const struct jobspec *spec)
{
    const int64_t FEATURES = spec->attention.features, HEAD_DIM = jobspec_head_dim(spec);
    const int64_t RANK = spec->attention.rank, LENGTH = spec->data.length;
    const int64_t ROUNDS = spec->attention.rounds, HALF_BUCKETS = spec->attention.buckets / 2;

#define ADD_PROJECTION(enumerator, name, attention_, ...)                   \
    if (spec->attention.kind == (attention_)) {                             \
        const int64_t shape[] = {__VA_ARGS__};                              \
        add_projection(params, enumerator, shape, (int)(sizeof shape / 8)); \
    }
    if (!jobspec_has_projection(spec)) return;
    PROJECTIONS(ADD_PROJECTION)
#undef ADD_PROJECTION
}

enum status params_new(const struct jobspec *spec, struct params **params_out)
{
#define ONE_MORE(...) +1
    enum { OF_EMBEDDING = 0 EMBEDDING_TENSORS(ONE_MORE) };
    enum { OF_LAYER = 0 LAYER_TENSORS(ONE_MORE) };
    enum { OF_HEAD = 0 HEAD_TENSORS(ONE_MORE) };
#undef ONE_MORE
    const struct sizes size = {
        .VOCAB = jobspec_vocab(spec),
        .POSITIONS = spec->model.positions == POSITIONS_LEARNED ? spec->data.length : 0,
        .KEYS = spec->attention.kind == ATTENTION_REFORMER ? 0 : spec->model.width,
        .WIDTH = spec->model.width,
        .MLP = spec->model.mlp,
        .ONE = 1,
    };
    size_t layers = (size_t)spec->model.layers;

    struct params *params = calloc(1, sizeof *params);
    if (!params) return ST_NO_MEMORY;
    params->list = calloc(OF_EMBEDDING + layers * OF_LAYER + OF_HEAD, sizeof *params->list);
    params->layer = calloc(layers, sizeof *params->layer);
    params->bucket = calloc(layers + 2, sizeof *params->bucket);
    if (!params->list || !params->layer || !params->bucket) {
        params_free(params);
        return ST_NO_MEMORY;
    }

    params->layers = spec->model.layers;
    params->head_dim = jobspec_head_dim(spec);
    add_projections(params, spec);
    add_embedding(params, &size);
    for (int64_t layer = 0; layer < params->layers; layer++) add_layer(params, &size, layer);
    add_head(params, &size);
    *params_out = params;
    return ST_OK;
}

void params_free(struct params *params)
{
    if (!params) return;
    free(params->list);
    free(params->layer);
    free(params->bucket);
    free(params);
}

void params_initialize(const struct params *params, uint64_t seed, float *weights)
{
    const double residual_std = INITIAL_STD / sqrt(2.0 * (double)params->layers);

    for (size_t i = 0; i < params->count; i++) {
        const struct parameter *parameter = &params->list[i];
        float *w = weights + parameter->offset;
        switch (parameter->initial) {
        case INITIAL_NORMAL:
            gaussian_fill(seed, PURPOSE_WEIGHTS, (uint32_t)i, parameter->count, INITIAL_STD, w);
            break;
        case INITIAL_RESIDUAL:
            gaussian_fill(seed, PURPOSE_WEIGHTS, (uint32_t)i, parameter->count, residual_std, w);
            break;
        case INITIAL_ONES:
            for (int64_t j = 0; j < parameter->count; j++) w[j] = 1.0F;
            break;
        case INITIAL_ZEROS:
            memset(w, 0, (size_t)parameter->count * sizeof *w);
            break;
        }
    }
}

static void shape_text(int dimensions, const int64_t *shape, char *text, size_t size)
{
    size_t length = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < dimensions && length < size; i++)
        length += (size_t)snprintf(text + length, size - length, i ? ", %lld" : "%lld",
                                   (long long)shape[i]);
    if (length < size) snprintf(text + length, size - length, "]");
}

static enum status read_tensor(const struct tensor_entry *entry, int dimensions,
                               const int64_t *shape, float *values, struct fault *fault)
{
    if (entry->type != TENSOR_F32)
        return fault_set(fault, ST_INVALID, "tensor `%s` is not float32; convert it", entry->name);
    size_t bytes = sizeof *values;
    bool same = entry->dimensions == dimensions;
    for (int i = 0; i < dimensions; i++) {
        same = same && entry->shape[i] == shape[i];
        bytes *= (size_t)shape[i];
    }
    if (!same) {
        char there[120], wanted[60];
        shape_text(entry->dimensions, entry->shape, there, sizeof there);
        shape_text(dimensions, shape, wanted, sizeof wanted);
        return fault_set(
            fault, ST_INVALID,
            "tensor `%s` has shape %s, the job's model has %s: check [model], data.length "
            "and [attention]",
            entry->name, there, wanted);
    }
    assert(entry->bytes == bytes);
    memcpy(values, entry->data, bytes);
    return ST_OK;
}

enum status params_read(const struct params *params, const struct safetensors *file,
                        const char *prefix, float *values, struct fault *fault)
{
    for (size_t i = 0; i < params->count; i++) {
        const struct parameter *parameter = &params->list[i];
        char name[TENSOR_NAME_MAX * 2];
        snprintf(name, sizeof name, "%s%s", prefix, parameter->name);
        const struct tensor_entry *entry = safetensors_find(file, name);
        if (!entry)
            return fault_set(fault, ST_INVALID,
                             "there is no tensor `%s`, which the job's model has: check [model] "
                             "and [attention]",
                             name);
        enum status status = read_tensor(entry, parameter->dimensions, parameter->shape,
                                         values + parameter->offset, fault);
        if (status != ST_OK) return status;
    }
    return ST_OK;
}

static void projection_name(int64_t layer, enum projection_id id, char *name)
{
    snprintf(name, TENSOR_NAME_MAX, "layers.%lld.attn.%s", (long long)layer, projection_names[id]);
}

/* Projections of any attention: a model of another kind takes the rest of the file. */
static bool is_known(const struct params *params, const char *name)
{
    for (size_t i = 0; i < params->count; i++)
        if (strcmp(params->list[i].name, name) == 0) return true;
    for (int64_t at = 0; at < params->layers * PROJECTION_COUNT; at++) {
        char projection[TENSOR_NAME_MAX];
        projection_name(at / PROJECTION_COUNT, (enum projection_id)(at % PROJECTION_COUNT),
                        projection);
        if (strcmp(projection, name) == 0) return true;
    }
    return false;
}

enum status params_reject_unknown(const struct params *params, const struct safetensors *file,
                                  struct fault *fault)
{
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const char *name = safetensors_at(file, i)->name;
        if (!is_known(params, name))
            return fault_set(fault, ST_INVALID,
                             "tensor `%s` has no place in the job's model: check [model] and "
                             "[attention]",
                             name);
    }
    return ST_OK;
}

enum status params_read_projections(const struct params *params, const struct safetensors *file,
                                    float *projections, bool *found, struct fault *fault)
{
    const int64_t all = params->layers * params->projections;
    int64_t there = 0;

    for (int64_t at = 0; at < all; at++) {
        const struct projection *projection = &params->projection[at % params->projections];
        const int64_t layer = at / params->projections;
        char name[TENSOR_NAME_MAX];
        projection_name(layer, projection->id, name);
        const struct tensor_entry *entry = safetensors_find(file, name);
        if (!entry) continue;
        enum status status = read_tensor(
            entry, projection->dimensions, projection->shape,
            projections + layer * params->projection_floats + projection->offset, fault);
        if (status != ST_OK) return status;
        there++;
    }
    if (there != 0 && there != all)
        return fault_set(fault, ST_INVALID, "%lld of %lld `attn.%s` are there: all or none must be",
                         (long long)there, (long long)all,
                         projection_names[params->projection[0].id]);
    *found = there != 0;
    return ST_OK;
}

static void describe_tensor(struct tensor_entry *entry, int dimensions, const int64_t *shape,
                            const float *data)
{
    entry->type = TENSOR_F32;
    entry->dimensions = dimensions;
    entry->bytes = sizeof *data;
    for (int i = 0; i < dimensions; i++) {
        entry->shape[i] = shape[i];
        entry->bytes *= (size_t)shape[i];
    }
    entry->data = data;
}

void params_entries(const struct params *params, const char *prefix, const float *values,
                    struct tensor_entry *entries)
{
    for (size_t i = 0; i < params->count; i++) {
        const struct parameter *parameter = &params->list[i];
        int length =
            snprintf(entries[i].name, sizeof entries[i].name, "%s%s", prefix, parameter->name);
        assert(length > 0 && (size_t)length < sizeof entries[i].name);
        describe_tensor(&entries[i], parameter->dimensions, parameter->shape,
                        values + parameter->offset);
    }
}

void params_projection_entries(const struct params *params, const float *projections,
                               struct tensor_entry *entries)
{
    for (int64_t at = 0; at < params->layers * params->projections; at++) {
        const struct projection *projection = &params->projection[at % params->projections];
        const int64_t layer = at / params->projections;
        projection_name(layer, projection->id, entries[at].name);
        describe_tensor(&entries[at], projection->dimensions, projection->shape,
                        projections + layer * params->projection_floats + projection->offset);
    }
}
