#include "worker/params.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/philox.h"
#include "kernels/projection.h"

#define INITIAL_STD 0.02

struct sizes {
    int64_t VOCAB, LENGTH, WIDTH, MLP, ONE;
};

static void add_parameter(struct params *params, const char *prefix, const char *name, int64_t rows,
                          int64_t columns, int dimensions, enum initial initial, int64_t *offset)
{
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

static void add_embedding(struct params *params, const struct sizes *size, bool positions)
{
    const char *prefix = "";
    struct embedding_offsets *offsets = &params->embedding;
    EMBEDDING_TENSORS(ADD)
    if (!positions) {
        const struct parameter *last = &params->list[--params->count];
        params->floats -= last->count;
        offsets->pos_embed = -1;
    }
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

enum status params_new(const struct jobspec *spec, struct params **params_out)
{
#define ONE_MORE(...) +1
    enum { OF_EMBEDDING = 0 EMBEDDING_TENSORS(ONE_MORE) };
    enum { OF_LAYER = 0 LAYER_TENSORS(ONE_MORE) };
    enum { OF_HEAD = 0 HEAD_TENSORS(ONE_MORE) };
#undef ONE_MORE
    const struct sizes size = {jobspec_vocab(spec), spec->data.length, spec->model.width,
                               spec->model.mlp, 1};
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
    if (jobspec_has_projection(spec)) params->features = spec->attention.features;
    add_embedding(params, &size, spec->model.positions == POSITIONS_LEARNED);
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
            "and attention.features",
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
                             "there is no tensor `%s`, which the job's model has", name);
        enum status status = read_tensor(entry, parameter->dimensions, parameter->shape,
                                         values + parameter->offset, fault);
        if (status != ST_OK) return status;
    }
    return ST_OK;
}

static void projection_name(int64_t layer, char *name)
{
    snprintf(name, TENSOR_NAME_MAX, "layers.%lld.attn.projection", (long long)layer);
}

static bool is_known(const struct params *params, const char *name)
{
    for (size_t i = 0; i < params->count; i++)
        if (strcmp(params->list[i].name, name) == 0) return true;
    for (int64_t layer = 0; layer < params->layers; layer++) {
        char projection[TENSOR_NAME_MAX];
        projection_name(layer, projection);
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
                             "tensor `%s` has no place in the job's model: check [model]", name);
    }
    return ST_OK;
}

enum status params_read_projections(const struct params *params, const struct safetensors *file,
                                    float *projections, bool *found, struct fault *fault)
{
    const int64_t shape[2] = {params->features, params->head_dim};
    int64_t there = 0;

    for (int64_t layer = 0; layer < params->layers && params->features > 0; layer++) {
        char name[TENSOR_NAME_MAX];
        projection_name(layer, name);
        const struct tensor_entry *entry = safetensors_find(file, name);
        if (!entry) continue;
        enum status status =
            read_tensor(entry, 2, shape, projections + layer * shape[0] * shape[1], fault);
        if (status != ST_OK) return status;
        there++;
    }
    if (there != 0 && there != params->layers)
        return fault_set(fault, ST_INVALID,
                         "%lld of %lld layers have an `attn.projection`: all or none must",
                         (long long)there, (long long)params->layers);
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
    const int64_t shape[2] = {params->features, params->head_dim};
    for (int64_t layer = 0; layer < params->layers; layer++) {
        projection_name(layer, entries[layer].name);
        describe_tensor(&entries[layer], 2, shape, projections + layer * shape[0] * shape[1]);
    }
}
