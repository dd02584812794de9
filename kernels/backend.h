#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H

/*
 * A backend is a table of operations. It is filled with the plain reference first, then overridden by faster
 * code, and picked once, at run time. Rules for every operation:
 *
 *   1. It allocates nothing: scratch memory is in the stream, of a size asked for before.
 *   2. Outputs are written, not accumulated, unless said; they do not overlap inputs unless said.
 *   3. Work is cut into pieces that do not depend on the number of threads, and sums over pieces are
 *      taken in a fixed order: same inputs, same bits, for any number of threads.
 *   4. It enqueues on the stream; only `sync` waits. On a CPU it is done when it returns.
 *
 * Precision: in bf16 both inputs of a matrix product are rounded to bf16 (kernels/bf16.h), and summed in fp32. All else
 * stays fp32: what operations read and write, biases, exponentials, sums, division, the running state of attention, and two
 * products whose rounding would be blown up, by an exponential and by a choice: x with the projection of favor (but
 * not what comes back through it), and with the rotations of reformer. Which products an attention consists of, and
 * so where it rounds, is the backend's own.
 *
 * Matrices are row-major and contiguous unless a stride is given; sizes and strides count elements.
 * R rows are B * L: sequence b, position l is row b * L + l.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/ops.def"
#include "kernels/team.h"
#include "proto/choice.h"
#include "proto/status.h"

struct stream {
    struct team *team;
    void *scratch; /* 64-byte aligned */
    size_t scratch_bytes;
};

/* Which activations are dropped: a pure function of where they stand (design: numbers). */
struct dropout_key {
    float rate; /* 0: nothing is dropped; else kept values are scaled by 1 / (1 - rate) */
    uint64_t seed;
    uint32_t step;
    uint32_t site;           /* which dropout of the model, below 2^12 */
    uint32_t first_sequence; /* of row 0, in the global batch */
    int64_t length;          /* L: row r is sequence first_sequence + r / L, position r % L */
};

/* y = x wᵀ + bias */
struct linear {
    int64_t rows, in, out;
    const float *x;      /* (R, in) */
    const float *weight; /* (out, in) */
    const float *bias;   /* (out) or NULL */
    float *y;            /* (R, out) */
    enum precision precision;
};

/* dx = dy w, dweight = dyᵀ x, dbias = column sums of dy */
struct linear_backward {
    int64_t rows, in, out;
    const float *x, *weight, *dy; /* (R, in) (out, in) (R, out) */
    float *dx;                    /* (R, in) or NULL */
    float *dweight, *dbias;       /* (out, in), (out) or NULL */
    enum precision precision;
};

/* u = x wᵀ + bias, y = gelu(u) with the exact erf */
struct linear_gelu {
    struct linear linear; /* y: gelu(u) */
    float *u;             /* (R, out), kept for the backward pass */
};

/* du = dy * gelu'(u); du may be dy */
struct gelu_backward {
    int64_t count;
    const float *u, *dy;
    float *du;
};

/* y = residual + dropout(x wᵀ + bias); y may be residual */
struct linear_residual {
    struct linear linear;
    const float *residual; /* (R, out) */
    struct dropout_key dropout;
};

/* y = dropout(x), the same values dropped as forward: also its own backward; y may be x */
struct dropout {
    int64_t rows, width;
    struct dropout_key key;
    const float *x;
    float *y;
};

/* y = (x - mean) / sqrt(var + 1e-5) * weight + bias, by row */
struct layernorm {
    int64_t rows, width;
    const float *x, *weight, *bias;
    float *y;
    float *mean, *rstd; /* (R), kept for the backward pass */
};

/* dx = dresidual + (what comes back through the norm); dx may be dresidual */
struct layernorm_backward {
    int64_t rows, width;
    const float *x, *weight, *mean, *rstd, *dy;
    const float *dresidual; /* (R, width) or NULL */
    float *dx, *dweight, *dbias;
};

/* y = dropout(tokens[id] + positions[l]) */
struct embed {
    int64_t rows, width, vocab;
    const int32_t *ids;     /* (R), 0 ... vocab-1 */
    const float *tokens;    /* (vocab, width) */
    const float *positions; /* (L, width) or NULL; L is dropout.length */
    struct dropout_key dropout;
    float *y; /* (R, width) */
};

struct embed_backward {
    int64_t rows, width, vocab;
    const int32_t *ids;
    struct dropout_key dropout;
    const float *dy;
    /* (vocab, width) (positions, width), written whole; dpositions NULL where there are none */
    float *dtokens, *dpositions;
    int64_t positions; /* L or more: to those from L on nothing comes back */
};

/* x[b, h, l, i] at data[b * batch_stride + h * head_stride + l * row_stride + i] */
struct heads_view {
    float *data;
    int64_t batch_stride, head_stride, row_stride;
};

/*
 * Each pair (x[2i], x[2i + 1]) of position l is turned by the pair's angle there: Su et al. 2021 (RoFormer), equation
 * 34. With `back` by its negative: the inverse, and what takes a gradient back. An odd d: the last column stays.
 */
struct rotary {
    int64_t batch, heads, length, head_dim;
    bool back;
    const float *table;  /* (L, d), of kernels/positions.h */
    struct heads_view x; /* (B, H, L, d), in place */
};

/*
 * out = attention(q, k, v) by head: design section 6, paper equations (1)-(7), Algorithm 1.
 *
 * linformer (Wang et al. 2020, equation 7): softmax(q (E k)^T / sqrt(d)) (F v). A key that is masked is left
 * out of both products. Every query sees all keys: causal is not supported.
 *
 * reformer (Kitaev et al. 2020, section 2 and its appendix on several rounds): keys are k = q / |q|, so q alone
 * is read. In each round a position's bucket is argmax [q R; -q R], first of equals. The positions of a bucket, in
 * their order, are cut into chunks of `chunk`, the last what remains. A query sees the keys of its own chunk
 * and of the chunk of its bucket before it, and when causal only those at positions before its own. Weights are
 * exp(q . k / sqrt(d)) over the union of what the rounds see: the paper's combination by log-sum-exp, each pair
 * divided by the number of rounds that see it. Itself a query sees only where it sees nothing else. A masked
 * position is neither key nor query: it is in no chunk, its output 0. Bucket and order are not differentiated.
 *
 * The paper cuts all positions, sorted by bucket, into chunks. There a later token moves earlier ones of the buckets
 * behind its own to other chunks, and so changes what they see, causal or not. Here a chunk begins where its
 * bucket does, and which chunk a position is in depends on nothing after it.
 */
struct attention {
    enum attention_kind kind;
    enum attention_kernel kernel; /* favor */
    enum precision precision;
    bool causal;
    float epsilon; /* favor */
    int64_t batch, heads, length, head_dim, value_dim;
    int64_t features;          /* favor: m */
    const float *projection;   /* favor: (m, d) */
    const uint8_t *key_mask;   /* (B, L), 0: not a key, in no sum at all; or NULL */
    struct heads_view q, k, v; /* (B, H, L, d) (B, H, L, d) (B, H, L, e); reformer: no k */
    struct heads_view out;     /* (B, H, L, e) */
    float *saved; /* attention_saved_floats of the backend's own; NULL: no backward pass comes */
    /* linformer: r rows of E and F; their columns, L or more, of which the first L are met */
    int64_t rank, columns;
    const float *key_projection, *value_projection; /* (r, columns) */
    int64_t rounds, buckets, chunk; /* reformer: hash rounds; buckets, even; positions of a chunk */
    const float *rotations;         /* reformer: R, (rounds, d, buckets / 2) */
};

/* dq, dk, dv from dout; the shift of the stabiliser is not differentiated */
struct attention_backward {
    struct attention forward;     /* as it was called, out and saved filled by the same backend */
    struct heads_view dout;       /* read only */
    struct heads_view dq, dk, dv; /* reformer: dq is all that comes back through k too, no dk */
};

/* Mean-free sums: loss_sum = Σ -log softmax(logits)[target], over rows with target >= 0 */
struct cross_entropy {
    int64_t rows, vocab;
    float *logits; /* (R, vocab); with `backward` they become softmax - onehot, 0 where no target */
    const int32_t *targets; /* (R), -1: this row predicts nothing */
    bool backward;
    double *loss_sum;
    int64_t *counted,
        *correct; /* rows with a target; those whose largest logit is the target (first of equals) */
};

/* y += x */
struct add {
    int64_t count;
    const float *x;
    float *y;
};

/* *sum = Σ x², in double, in a fixed order */
struct sum_squares {
    int64_t count;
    const float *x;
    double *sum;
};

/* AdamW with decoupled decay (Loshchilov & Hutter 2019, algorithm 2), on scale * gradient */
struct adamw {
    int64_t count;
    const float *gradient;
    float *weight, *moment1, *moment2;
    float scale; /* 1 / predicted tokens, times the clipping factor */
    float lr, beta1, beta2, epsilon, weight_decay;
    float correction1, correction2; /* 1 - beta^t */
};

struct backend {
    const char *name;        /* "reference", "cpu", "cuda" */
    const char *description; /* "cpu (x86-64-v3)": with what the bits depend on */
    bool has_bf16; /* products in bf16 by instructions of the machine; else by floats, and slower */
#define BACKEND_SLOT(op)                                                                            \
    enum status (*op)(struct stream * stream, const struct op *arguments);                          \
    /* bytes of scratch for it with so many threads; pointers in the arguments are not looked at */ \
    size_t (*op##_scratch)(const struct op *arguments, int threads);
    BACKEND_OPS(BACKEND_SLOT)
#undef BACKEND_SLOT
    /* floats that attention keeps for its backward pass */
    size_t (*attention_saved_floats)(const struct attention *arguments);
    /* whether attention of this kind, kernel and direction is there; where not, why not, in words */
    bool (*attention_supported)(const struct attention *arguments, const char **why_not);
    /* Memory for what operations read and write, scratch included, 64-byte aligned; bytes > 0. The caller's, to be
     * freed with memory_free, which takes NULL. The host may touch it too, but between an operation and the next `sync` not. */
    enum status (*memory_new)(size_t bytes, void **memory);
    void (*memory_free)(void *memory);
    enum status (*sync)(struct stream *stream);
    /* Of the operation, memory_new or sync that has just failed: which call of which library did, and why. "": the status says
     * all. */
    const char *(*failure)(void);
};

/* "reference", "cpu" or "cuda"; or "cpu (x86-64-v3)", as its description says, for another instruction set than the best. NULL
 * where there is none of that name, or where the machine or the build has not got it. */
const struct backend *backend_find(const char *name);

/* Why backend_find() gives NULL, in words. */
const char *backend_why_not(const char *name);

/* Fills `fault` with what an operation, memory_new or sync has just failed with, and the call behind it where one is known; gives
 * `status`. */
enum status backend_fault(const struct backend *backend, enum status status, struct fault *fault);

/* "oneDNN 2.6.3": the libraries that the bits of `cpu` depend on. */
const char *backend_libraries(void);

#endif
