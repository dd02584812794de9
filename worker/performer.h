#ifndef WORKER_PERFORMER_H
#define WORKER_PERFORMER_H

/*
 * The model: pre-LN blocks, forward and backward, in terms of the operations of a backend.
 *
 *   h += out_proj(attention(norm1(h)));  h += fc2(gelu(fc1(norm2(h))))
 *
 * One micro-shard at a time: `performer_forward`, then `performer_loss`, then `performer_backward` on what
 * those kept. Activations are one allocation made at the start; nothing here allocates afterwards. With train.recompute =
 * "layer" only inputs of layers are kept, and the backward pass makes the rest again, layer by layer: the same bits.
 */

#include <stdbool.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "proto/jobspec.h"
#include "proto/status.h"
#include "worker/dataset.h"
#include "worker/params.h"

struct performer;

/* Called on the training thread. */
struct performer_hooks {
    void *context;
    /* Between operations of the backward pass: the place to move what is under way elsewhere. */
    void (*between)(void *context);
    /* The gradient of `bucket` is complete; buckets come from the last (head) to the first (embedding). */
    void (*bucket_done)(void *context, int bucket);
};

/* Which dropout: the step (from 1) and the shard's first sequence in the global batch; and who looks on. */
struct performer_pass {
    bool training; /* false: nothing is dropped, nothing kept for a backward pass */
    uint64_t step;
    int64_t first_sequence;
    /* Called behind the attention of each layer, with its arguments and its out filled; NULL: nobody looks. What they
     * point to need not hold beyond the call. */
    void (*attended)(void *context, int64_t layer, const struct attention *attention);
    /* Called behind each block with the residual stream that it leaves, (sequences * length, width); NULL: nobody looks. */
    void (*block_done)(void *context, int64_t layer, const float *output);
    void *context;
};

/*
 * A model for shards of at most train.micro_batch sequences. `spec` and `params` must outlive it.
 * ST_UNSUPPORTED, with why: the backend does not do this attention; ST_NO_MEMORY, with how much.
 */
enum status performer_new(const struct jobspec *spec, const struct params *params,
                          const struct backend *backend, int threads, struct performer **model,
                          struct fault *fault);
void performer_free(struct performer *model);

/* Bytes of scratch that the stream handed to the passes must have. */
size_t performer_scratch_bytes(const struct performer *model);

/* Bytes held: activations as proto/cost.h counts them, and what the backend's attention keeps besides. */
size_t performer_activation_bytes(const struct performer *model);
size_t performer_saved_bytes(const struct performer *model);

/* Bytes of the table of fixed positions, sinusoidal or rotary; part of what proto/cost.h counts as weights. */
size_t performer_positions_bytes(const struct performer *model);

/* (layers, projection_floats), to be filled by the caller; NULL where the attention has none. */
float *performer_projections(struct performer *model);

/* Draws number `draw` of all layers: a function of (seed, layer, draw). */
void performer_redraw(struct performer *model, uint32_t draw);

/* XXH3 of all layers' projections, of 0 bytes where there are none. */
uint64_t performer_projections_hash(const struct performer *model);

/* Activations of the batch up to the logits. */
enum status performer_forward(struct performer *model, struct stream *stream, const float *weights,
                              const struct batch *batch, const struct performer_pass *pass);

/* (sequences, length, vocab) of the last forward pass; overwritten by performer_loss. */
const float *performer_logits(const struct performer *model);

struct loss {
    double sum; /* nats, over predicted tokens */
    int64_t counted, correct;
};

/* The loss of the last forward pass; with `backward`, what performer_backward starts from. */
enum status performer_loss(struct performer *model, struct stream *stream,
                           const struct batch *batch, bool backward, struct loss *loss);

/* Writes the gradient of the loss's sum (params->floats). Enqueued when it returns: the batch is still read, until `sync`. */
enum status performer_backward(struct performer *model, struct stream *stream, const float *weights,
                               const struct batch *batch, float *gradient,
                               const struct performer_hooks *hooks);

#endif
