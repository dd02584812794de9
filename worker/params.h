#ifndef WORKER_PARAMS_H
#define WORKER_PARAMS_H

/*
 * The model's weights as named tensors over one flat memory. Gradients and moments have the same layout. The
 * tensors of a layer are neighbours: a layer is a bucket of the reduction. Within it the weights of q_proj, k_proj and
 * v_proj stand next to each other, and so do their biases: one product makes q, k and v, or q and v where keys
 * are the queries (reformer).
 */

#include <stdbool.h>
#include <stdint.h>

#include "proto/jobspec.h"
#include "proto/safetensors.h"
#include "proto/status.h"

/* Standard deviation of what is NORMAL at the start, embeddings among it. */
#define INITIAL_STD 0.02

/*
 * T(field, name, rows, columns, initial), PyTorch orientation (out, in). Shape (rows), where columns is ONE. Of
 * POSITIONS or KEYS there may be no row; then there is no such tensor.
 * Initial values: NORMAL: N(0, INITIAL_STD²); RESIDUAL: the same over √(2 layers), for what is added to the residual
 * stream (Radford et al. 2019, section 2.3); ONES and ZEROS.
 */
#define EMBEDDING_TENSORS(T)                               \
    T(tok_embed, "tok_embed.weight", VOCAB, WIDTH, NORMAL) \
    T(pos_embed, "pos_embed.weight", POSITIONS, WIDTH, NORMAL)

#define LAYER_TENSORS(T)                                          \
    T(norm1_weight, "norm1.weight", WIDTH, ONE, ONES)             \
    T(norm1_bias, "norm1.bias", WIDTH, ONE, ZEROS)                \
    T(q_weight, "attn.q_proj.weight", WIDTH, WIDTH, NORMAL)       \
    T(k_weight, "attn.k_proj.weight", KEYS, WIDTH, NORMAL)        \
    T(v_weight, "attn.v_proj.weight", WIDTH, WIDTH, NORMAL)       \
    T(q_bias, "attn.q_proj.bias", WIDTH, ONE, ZEROS)              \
    T(k_bias, "attn.k_proj.bias", KEYS, ONE, ZEROS)               \
    T(v_bias, "attn.v_proj.bias", WIDTH, ONE, ZEROS)              \
    T(out_weight, "attn.out_proj.weight", WIDTH, WIDTH, RESIDUAL) \
    T(out_bias, "attn.out_proj.bias", WIDTH, ONE, ZEROS)          \
    T(norm2_weight, "norm2.weight", WIDTH, ONE, ONES)             \
    T(norm2_bias, "norm2.bias", WIDTH, ONE, ZEROS)                \
    T(fc1_weight, "mlp.fc1.weight", MLP, WIDTH, NORMAL)           \
    T(fc1_bias, "mlp.fc1.bias", MLP, ONE, ZEROS)                  \
    T(fc2_weight, "mlp.fc2.weight", WIDTH, MLP, RESIDUAL)         \
    T(fc2_bias, "mlp.fc2.bias", WIDTH, ONE, ZEROS)

#define HEAD_TENSORS(T)                                 \
    T(norm_f_weight, "norm_f.weight", WIDTH, ONE, ONES) \
    T(norm_f_bias, "norm_f.bias", WIDTH, ONE, ZEROS)    \
    T(lm_head, "lm_head.weight", VOCAB, WIDTH, NORMAL)

enum initial { INITIAL_NORMAL, INITIAL_RESIDUAL, INITIAL_ONES, INITIAL_ZEROS };

struct parameter {
    char name[TENSOR_NAME_MAX];
    int dimensions;
    int64_t shape[2];
    int64_t offset, count; /* in the flat memory, in floats */
    enum initial initial;
    bool decay; /* weight decay: tensors of two dimensions */
};

/* Where each tensor of a part of the model begins, in floats; -1: the model has none. */
#define TENSOR_OFFSET(field, name, rows, columns, initial) int64_t field;
struct embedding_offsets {
    EMBEDDING_TENSORS(TENSOR_OFFSET)
};
struct layer_offsets {
    LAYER_TENSORS(TENSOR_OFFSET)
};
struct head_offsets {
    HEAD_TENSORS(TENSOR_OFFSET)
};
#undef TENSOR_OFFSET

struct bucket {
    int64_t offset, count; /* floats */
};

/*
 * The random matrices of attention. They are buffers: drawn, redrawn and saved, without a gradient; the
 * heads of a layer share them. P(enumerator, name, attention, ...: shape)
 */
#define PROJECTIONS(P)                                                          \
    P(PROJECTION_FAVOR, "projection", ATTENTION_FAVOR, FEATURES, HEAD_DIM)      \
    P(PROJECTION_KEYS, "key_projection", ATTENTION_LINFORMER, RANK, LENGTH)     \
    P(PROJECTION_VALUES, "value_projection", ATTENTION_LINFORMER, RANK, LENGTH) \
    P(PROJECTION_ROTATIONS, "rotations", ATTENTION_REFORMER, ROUNDS, HEAD_DIM, HALF_BUCKETS)

#define PROJECTION_ID(enumerator, name, attention, ...) enumerator,
enum projection_id { PROJECTIONS(PROJECTION_ID) PROJECTION_COUNT };
#undef PROJECTION_ID

struct projection {
    enum projection_id id;
    int dimensions;
    int64_t shape[3];
    int64_t offset, count; /* within its layer's projections, in floats */
};

struct params {
    int64_t floats; /* parameters of the model */
    int64_t layers;
    int64_t head_dim;
    int projections; /* of a layer; 0: its attention has none */
    struct projection projection[PROJECTION_COUNT];
    int64_t projection_floats; /* of a layer */
    size_t count;
    struct parameter *list; /* in the order of the memory */
    struct embedding_offsets embedding;
    struct layer_offsets *layer; /* (layers) */
    struct head_offsets head;
    int buckets;           /* embedding, layers, head: layers + 2 */
    struct bucket *bucket; /* in the order of the memory */
};

/* ST_NO_MEMORY is the only failure. The params are the caller's, also where it fails. */
enum status params_new(const struct jobspec *spec, struct params **params);
void params_free(struct params *params);

/* Writes the initial weights (floats): a function of the seed and the shape alone. */
void params_initialize(const struct params *params, uint64_t seed, float *weights);

/*
 * Copies every parameter from the tensor named `prefix` + its name. ST_INVALID: one is missing, of another
 * shape, or not float32; the values are then partly written.
 */
enum status params_read(const struct params *params, const struct safetensors *file,
                        const char *prefix, float *values, struct fault *fault);

/* ST_INVALID: the file holds a tensor that is neither a parameter nor a projection of this model. */
enum status params_reject_unknown(const struct params *params, const struct safetensors *file,
                                  struct fault *fault);

/*
 * Copies the projections that the file holds, if it holds them: `*found` says so. All of all layers or none: ST_INVALID
 * otherwise, and where a shape is another. What an attention does not use is not read.
 */
enum status params_read_projections(const struct params *params, const struct safetensors *file,
                                    float *projections, bool *found, struct fault *fault);

/* Describes values (floats) as entries for writing, named `prefix` + name; `entries` has room for `count`. */
void params_entries(const struct params *params, const char *prefix, const float *values,
                    struct tensor_entry *entries);

/* The same for the projections (layers, projection_floats): layers * projections entries. */
void params_projection_entries(const struct params *params, const float *projections,
                               struct tensor_entry *entries);

#endif
