#include "worker/performer.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "kernels/positions.h"
#include "kernels/projection.h"

enum { REGION_ALIGN_BYTES = 64 };

/* What a layer keeps from forward to backward. Rows R are sequences * length; D width, M mlp. */
struct layer_activations {
    float *input;              /* (R, D) the residual stream as it comes in */
    float *norm1;              /* (R, D) */
    float *qkv;                /* (R, P D): q, k and v; q and v where there is no k_proj */
    float *attended;           /* (R, D) */
    float *middle;             /* (R, D) the residual stream between attention and MLP */
    float *norm2;              /* (R, D) */
    float *inner, *inner_gelu; /* (R, M) before and after the GELU */
    float *mean1, *rstd1;      /* (R) */
    float *mean2, *rstd2;      /* (R) */
    float *saved;              /* the attention's own */
};

struct performer {
    const struct jobspec *spec;
    const struct params *params;
    const struct backend *backend;
    int threads;
    int64_t width, mlp, heads, head_dim, vocab;
    int64_t length; /* L of the batch under way */
    int64_t parts;  /* P: what one product makes, q, k and v; or q and v */

    struct layer_activations *layer; /* (layers) */
    float *output;                   /* (R, D) of the last layer */
    float *norm_f;                   /* (R, D) */
    float *mean_f, *rstd_f;          /* (R) */
    float *logits;                   /* (R, V); then their gradient */

    float *dstream;  /* (R, D) gradient of the residual stream */
    float *dnarrow;  /* (R, D) */
    float *dwide;    /* (R, max(P D, M)) */
    float *ddropped; /* (R, D) dstream behind a dropout; dstream itself where nothing is dropped */

    float *positions;        /* sinusoidal: (L, D); rotary: (L, d); else NULL */
    float *projections;      /* (layers, projection_floats) or NULL */
    double *projection_work; /* (projection_floats) */

    void *activations, *saved;
    size_t activation_bytes, saved_bytes;

    /* Of the pass under way. An operation that fails makes the rest of the pass skip. */
    struct stream *stream;
    struct performer_hooks hooks;
    struct performer_pass pass;
    enum status status;
    struct loss loss;     /* written by the device until the next `sync` */
    size_t scratch_bytes; /* the largest that an operation asked for */
    bool measuring;       /* operations are asked for their scratch, not run */
};

/* Runs an operation of the backend, or in the measuring pass asks what scratch it needs. */
#define RUN(model, op, arguments)                                                                 \
    do {                                                                                          \
        if ((model)->measuring)                                                                   \
            note_scratch((model), (model)->backend->op##_scratch((arguments), (model)->threads)); \
        else if ((model)->status == ST_OK) {                                                      \
            assert((model)->backend->op##_scratch((arguments), (model)->threads) <=               \
                   (model)->stream->scratch_bytes);                                               \
            (model)->status = (model)->backend->op((model)->stream, (arguments));                 \
        }                                                                                         \
        if ((model)->hooks.between && (model)->status == ST_OK)                                   \
            (model)->hooks.between((model)->hooks.context);                                       \
    } while (0)

/* DO(m, add, .count = n, .x = x, .y = y) */
#define DO(model, op, ...) RUN(model, op, (&(const struct op){__VA_ARGS__}))

static void note_scratch(struct performer *m, size_t bytes)
{
    if (bytes > m->scratch_bytes) m->scratch_bytes = bytes;
}

/* Sites of dropout: after the embedding, after each out_proj, after each fc2. */
enum { SITE_EMBEDDING = 0 };
static uint32_t site_attention(int64_t layer)
{
    return (uint32_t)(1 + 2 * layer);
}
static uint32_t site_mlp(int64_t layer)
{
    return (uint32_t)(2 + 2 * layer);
}

static struct dropout_key dropout_at(const struct performer *m, uint32_t site)
{
    return (struct dropout_key){
        .rate = m->pass.training ? (float)m->spec->model.dropout : 0.0F,
        .seed = (uint64_t)m->spec->job.seed,
        .step = (uint32_t)m->pass.step,
        .site = site,
        .first_sequence = (uint32_t)m->pass.first_sequence,
        .length = m->length,
    };
}

/* Recomputing, all layers share the activations of the last, which the backward pass finds filled; it fills them again
 * for each of the others, from the layer's input. */
static bool holds_own(const struct performer *m, int64_t layer)
{
    return m->spec->train.recompute == RECOMPUTE_NONE || layer == m->params->layers - 1;
}

/* One part of the common product of q, k and v: row stride P D. */
static struct heads_view part_view(const struct performer *m, float *qkv, int64_t part)
{
    return (struct heads_view){
        .data = qkv ? qkv + part * m->width : NULL,
        .batch_stride = m->length * m->parts * m->width,
        .head_stride = m->head_dim,
        .row_stride = m->parts * m->width,
    };
}

static struct heads_view q_view(const struct performer *m, float *qkv)
{
    return part_view(m, qkv, 0);
}

static struct heads_view k_view(const struct performer *m, float *qkv)
{
    return m->parts == 3 ? part_view(m, qkv, 1) : (struct heads_view){0};
}

static struct heads_view v_view(const struct performer *m, float *qkv)
{
    return part_view(m, qkv, m->parts - 1);
}

/* (R, D) seen by head. */
static struct heads_view row_view(const struct performer *m, float *rows)
{
    return (struct heads_view){
        .data = rows,
        .batch_stride = m->length * m->width,
        .head_stride = m->head_dim,
        .row_stride = m->width,
    };
}

/* A random matrix of a layer; NULL where this attention has none of that name. */
static const float *projection_of(const struct performer *m, int64_t layer, enum projection_id id)
{
    for (int i = 0; i < m->params->projections && m->projections; i++)
        if (m->params->projection[i].id == id)
            return m->projections + layer * m->params->projection_floats +
                   m->params->projection[i].offset;
    return NULL;
}

static struct attention attention_of(const struct performer *m, int64_t layer,
                                     const struct batch *batch)
{
    const struct layer_activations *a = &m->layer[layer];
    return (struct attention){
        .kind = m->spec->attention.kind,
        .kernel = m->spec->attention.kernel,
        .precision = m->spec->train.precision,
        .causal = m->spec->model.causal,
        .epsilon = (float)m->spec->attention.epsilon,
        .batch = batch->sequences,
        .heads = m->heads,
        .length = m->length,
        .head_dim = m->head_dim,
        .value_dim = m->head_dim,
        .features = m->spec->attention.features,
        .projection = projection_of(m, layer, PROJECTION_FAVOR),
        /* Rows joined end to end hold no padding, and kernels go faster where they need not look. */
        .key_mask = m->spec->data.packing == PACKING_PAD ? batch->key_mask : NULL,
        .q = q_view(m, a->qkv),
        .k = k_view(m, a->qkv),
        .v = v_view(m, a->qkv),
        .out = row_view(m, a->attended),
        .saved = m->pass.training ? a->saved : NULL,
        .rank = m->spec->attention.rank,
        .columns = m->spec->data.length,
        .key_projection = projection_of(m, layer, PROJECTION_KEYS),
        .value_projection = projection_of(m, layer, PROJECTION_VALUES),
        .rounds = m->spec->attention.rounds,
        .buckets = m->spec->attention.buckets,
        .chunk = m->spec->attention.chunk,
        .rotations = projection_of(m, layer, PROJECTION_ROTATIONS),
    };
}

/* Queries, and keys, which lie behind them as so many further heads, turned in place; `back`: their gradients. */
static void turn_heads(struct performer *m, float *qkv, const struct batch *batch, bool back)
{
    if (m->spec->model.positions != POSITIONS_ROTARY) return;
    DO(m, rotary, .batch = batch->sequences, .heads = (m->parts - 1) * m->heads,
       .length = m->length, .head_dim = m->head_dim, .back = back, .table = m->positions,
       .x = q_view(m, qkv));
}

static void show_attention(struct performer *m, int64_t layer, const struct batch *batch)
{
    if (!m->pass.attended) return;
    const struct attention attention = attention_of(m, layer, batch);
    if (m->status == ST_OK) m->status = m->backend->sync(m->stream);
    if (m->status == ST_OK) m->pass.attended(m->pass.context, layer, &attention);
}

/* All that the backward pass of a layer starts from: everything but its last product. */
static void fill_layer(struct performer *m, int64_t layer, const float *w,
                       const struct batch *batch)
{
    const int64_t R = batch->sequences * m->length, D = m->width, M = m->mlp;
    const struct layer_offsets *at = &m->params->layer[layer];
    struct layer_activations *a = &m->layer[layer];

    DO(m, layernorm, .rows = R, .width = D, .x = a->input, .weight = w + at->norm1_weight,
       .bias = w + at->norm1_bias, .y = a->norm1, .mean = a->mean1, .rstd = a->rstd1);
    DO(m, linear, .precision = m->spec->train.precision, .rows = R, .in = D, .out = m->parts * D,
       .x = a->norm1, .weight = w + at->q_weight, .bias = w + at->q_bias, .y = a->qkv);
    turn_heads(m, a->qkv, batch, false);
    const struct attention attention = attention_of(m, layer, batch);
    RUN(m, attention, &attention);
    DO(m, linear_residual,
       .linear = {.precision = m->spec->train.precision,
                  .rows = R,
                  .in = D,
                  .out = D,
                  .x = a->attended,
                  .weight = w + at->out_weight,
                  .bias = w + at->out_bias,
                  .y = a->middle},
       .residual = a->input, .dropout = dropout_at(m, site_attention(layer)));

    DO(m, layernorm, .rows = R, .width = D, .x = a->middle, .weight = w + at->norm2_weight,
       .bias = w + at->norm2_bias, .y = a->norm2, .mean = a->mean2, .rstd = a->rstd2);
    DO(m, linear_gelu,
       .linear = {.precision = m->spec->train.precision,
                  .rows = R,
                  .in = D,
                  .out = M,
                  .x = a->norm2,
                  .weight = w + at->fc1_weight,
                  .bias = w + at->fc1_bias,
                  .y = a->inner_gelu},
       .u = a->inner);
}

/* Where layer `layer` - 1 leaves the residual stream: the input of `layer`, or what norm_f reads. */
static float *stream_into(const struct performer *m, int64_t layer)
{
    return layer < m->params->layers ? m->layer[layer].input : m->output;
}

static void show_output(struct performer *m, int64_t layer)
{
    if (!m->pass.block_done) return;
    if (m->status == ST_OK) m->status = m->backend->sync(m->stream);
    if (m->status == ST_OK) m->pass.block_done(m->pass.context, layer, stream_into(m, layer + 1));
}

/* The residual stream as a filled layer leaves it. */
static void finish_layer(struct performer *m, int64_t layer, const float *w,
                         const struct batch *batch)
{
    const int64_t R = batch->sequences * m->length, D = m->width, M = m->mlp;
    const struct layer_offsets *at = &m->params->layer[layer];
    const struct layer_activations *a = &m->layer[layer];

    DO(m, linear_residual,
       .linear = {.precision = m->spec->train.precision,
                  .rows = R,
                  .in = M,
                  .out = D,
                  .x = a->inner_gelu,
                  .weight = w + at->fc2_weight,
                  .bias = w + at->fc2_bias,
                  .y = stream_into(m, layer + 1)},
       .residual = a->middle, .dropout = dropout_at(m, site_mlp(layer)));
}

/* What is added to the tokens' vectors, (L, D); NULL: nothing. */
static const float *added_positions(const struct performer *m, const float *w)
{
    if (m->params->embedding.pos_embed >= 0) return w + m->params->embedding.pos_embed;
    return m->spec->model.positions == POSITIONS_SINUSOIDAL ? m->positions : NULL;
}

static void forward(struct performer *m, const float *w, const struct batch *batch)
{
    const int64_t R = batch->sequences * m->length, D = m->width, V = m->vocab;
    const struct embedding_offsets *embedding = &m->params->embedding;
    const struct head_offsets *head = &m->params->head;

    DO(m, embed, .rows = R, .width = D, .vocab = V, .ids = batch->ids,
       .tokens = w + embedding->tok_embed, .positions = added_positions(m, w),
       .dropout = dropout_at(m, SITE_EMBEDDING), .y = stream_into(m, 0));
    for (int64_t layer = 0; layer < m->params->layers; layer++) {
        fill_layer(m, layer, w, batch);
        show_attention(m, layer, batch);
        finish_layer(m, layer, w, batch);
        show_output(m, layer);
    }
    DO(m, layernorm, .rows = R, .width = D, .x = m->output, .weight = w + head->norm_f_weight,
       .bias = w + head->norm_f_bias, .y = m->norm_f, .mean = m->mean_f, .rstd = m->rstd_f);
    DO(m, linear, .precision = m->spec->train.precision, .rows = R, .in = D, .out = V,
       .x = m->norm_f, .weight = w + head->lm_head, .y = m->logits);
}

/* The gradient behind a dropout of the residual stream: dstream itself where nothing is dropped. */
static const float *through_dropout(struct performer *m, int64_t rows, uint32_t site)
{
    if (m->ddropped == m->dstream) return m->dstream;
    DO(m, dropout, .rows = rows, .width = m->width, .key = dropout_at(m, site), .x = m->dstream,
       .y = m->ddropped);
    return m->ddropped;
}

/* From the last operation of the layer to its first; dstream goes in as the gradient of the layer's
 * output and comes out as that of its input. */
static void backward_layer(struct performer *m, int64_t layer, const float *w,
                           const struct batch *batch, float *g)
{
    const int64_t R = batch->sequences * m->length, D = m->width, M = m->mlp;
    const struct layer_offsets *at = &m->params->layer[layer];
    const struct layer_activations *a = &m->layer[layer];

    const float *dmlp = through_dropout(m, R, site_mlp(layer));
    DO(m, linear_backward, .precision = m->spec->train.precision, .rows = R, .in = M, .out = D,
       .x = a->inner_gelu, .weight = w + at->fc2_weight, .dy = dmlp, .dx = m->dwide,
       .dweight = g + at->fc2_weight, .dbias = g + at->fc2_bias);
    DO(m, gelu_backward, .count = R * M, .u = a->inner, .dy = m->dwide, .du = m->dwide);
    DO(m, linear_backward, .precision = m->spec->train.precision, .rows = R, .in = D, .out = M,
       .x = a->norm2, .weight = w + at->fc1_weight, .dy = m->dwide, .dx = m->dnarrow,
       .dweight = g + at->fc1_weight, .dbias = g + at->fc1_bias);
    DO(m, layernorm_backward, .rows = R, .width = D, .x = a->middle, .weight = w + at->norm2_weight,
       .mean = a->mean2, .rstd = a->rstd2, .dy = m->dnarrow, .dresidual = m->dstream,
       .dx = m->dstream, .dweight = g + at->norm2_weight, .dbias = g + at->norm2_bias);

    const float *dattended = through_dropout(m, R, site_attention(layer));
    DO(m, linear_backward, .precision = m->spec->train.precision, .rows = R, .in = D, .out = D,
       .x = a->attended, .weight = w + at->out_weight, .dy = dattended, .dx = m->dnarrow,
       .dweight = g + at->out_weight, .dbias = g + at->out_bias);
    DO(m, attention_backward, .forward = attention_of(m, layer, batch),
       .dout = row_view(m, m->dnarrow), .dq = q_view(m, m->dwide), .dk = k_view(m, m->dwide),
       .dv = v_view(m, m->dwide));
    turn_heads(m, m->dwide, batch, true);
    DO(m, linear_backward, .precision = m->spec->train.precision, .rows = R, .in = D,
       .out = m->parts * D, .x = a->norm1, .weight = w + at->q_weight, .dy = m->dwide,
       .dx = m->dnarrow, .dweight = g + at->q_weight, .dbias = g + at->q_bias);
    DO(m, layernorm_backward, .rows = R, .width = D, .x = a->input, .weight = w + at->norm1_weight,
       .mean = a->mean1, .rstd = a->rstd1, .dy = m->dnarrow, .dresidual = m->dstream,
       .dx = m->dstream, .dweight = g + at->norm1_weight, .dbias = g + at->norm1_bias);
}

static void bucket_done(struct performer *m, int bucket)
{
    if (m->status == ST_OK && m->hooks.bucket_done) m->hooks.bucket_done(m->hooks.context, bucket);
}

static void backward(struct performer *m, const float *w, const struct batch *batch, float *g)
{
    const int64_t R = batch->sequences * m->length, D = m->width, V = m->vocab;
    const struct embedding_offsets *embedding = &m->params->embedding;
    const struct head_offsets *head = &m->params->head;
    int bucket = m->params->buckets - 1;

    DO(m, linear_backward, .precision = m->spec->train.precision, .rows = R, .in = D, .out = V,
       .x = m->norm_f, .weight = w + head->lm_head, .dy = m->logits, .dx = m->dnarrow,
       .dweight = g + head->lm_head);
    DO(m, layernorm_backward, .rows = R, .width = D, .x = m->output,
       .weight = w + head->norm_f_weight, .mean = m->mean_f, .rstd = m->rstd_f, .dy = m->dnarrow,
       .dx = m->dstream, .dweight = g + head->norm_f_weight, .dbias = g + head->norm_f_bias);
    bucket_done(m, bucket--);

    for (int64_t layer = m->params->layers - 1; layer >= 0; layer--) {
        if (!holds_own(m, layer)) fill_layer(m, layer, w, batch);
        backward_layer(m, layer, w, batch, g);
        bucket_done(m, bucket--);
    }

    DO(m, embed_backward, .rows = R, .width = D, .vocab = V, .ids = batch->ids,
       .dropout = dropout_at(m, SITE_EMBEDDING), .dy = m->dstream,
       .dtokens = g + embedding->tok_embed,
       .dpositions = embedding->pos_embed >= 0 ? g + embedding->pos_embed : NULL,
       .positions = m->spec->data.length);
    bucket_done(m, bucket);
}

static void loss_of(struct performer *m, const struct batch *batch, bool with_backward)
{
    DO(m, cross_entropy, .rows = batch->sequences * m->length, .vocab = m->vocab,
       .logits = m->logits, .targets = batch->targets, .backward = with_backward,
       .loss_sum = &m->loss.sum, .counted = &m->loss.counted, .correct = &m->loss.correct);
}

enum status performer_forward(struct performer *model, struct stream *stream, const float *weights,
                              const struct batch *batch, const struct performer_pass *pass)
{
    assert(batch->length <= model->spec->data.length);
    assert(batch->sequences <= model->spec->train.micro_batch);
    model->length = batch->length;
    model->stream = stream;
    model->pass = *pass;
    model->status = ST_OK;
    forward(model, weights, batch);
    return model->status;
}

const float *performer_logits(const struct performer *model)
{
    return model->logits;
}

enum status performer_loss(struct performer *model, struct stream *stream,
                           const struct batch *batch, bool backward_follows, struct loss *loss)
{
    model->stream = stream;
    loss_of(model, batch, backward_follows);
    if (model->status == ST_OK) model->status = model->backend->sync(stream);
    if (model->status == ST_OK) *loss = model->loss;
    return model->status;
}

enum status performer_backward(struct performer *model, struct stream *stream, const float *weights,
                               const struct batch *batch, float *gradient,
                               const struct performer_hooks *hooks)
{
    assert(model->pass.training);
    model->stream = stream;
    if (hooks) model->hooks = *hooks;
    backward(model, weights, batch, gradient);
    memset(&model->hooks, 0, sizeof model->hooks);
    return model->status;
}

/* Hands out regions of one allocation; with base NULL it only counts. */
struct carver {
    char *base;
    size_t bytes;
};

static float *carve(struct carver *carver, int64_t floats)
{
    size_t bytes = (size_t)floats * sizeof(float);
    bytes = (bytes + REGION_ALIGN_BYTES - 1) / REGION_ALIGN_BYTES * REGION_ALIGN_BYTES;
    float *region = carver->base ? (float *)(carver->base + carver->bytes) : NULL;
    carver->bytes += bytes;
    return region;
}

static int64_t rows_at_most(const struct performer *m)
{
    return m->spec->train.micro_batch * m->spec->data.length;
}

/* All of a layer but its input. */
static void carve_layer(const struct performer *m, struct carver *carver,
                        struct layer_activations *a)
{
    const int64_t R = rows_at_most(m), D = m->width, M = m->mlp;

    a->norm1 = carve(carver, R * D);
    a->qkv = carve(carver, R * m->parts * D);
    a->attended = carve(carver, R * D);
    a->middle = carve(carver, R * D);
    a->norm2 = carve(carver, R * D);
    a->inner = carve(carver, R * M);
    a->inner_gelu = carve(carver, R * M);
    a->mean1 = carve(carver, R);
    a->rstd1 = carve(carver, R);
    a->mean2 = carve(carver, R);
    a->rstd2 = carve(carver, R);
}

static void carve_activations(struct performer *m, struct carver *carver)
{
    const int64_t R = rows_at_most(m), D = m->width, M = m->mlp;

    for (int64_t layer = m->params->layers - 1; layer >= 0; layer--) {
        if (holds_own(m, layer))
            carve_layer(m, carver, &m->layer[layer]);
        else
            m->layer[layer] = m->layer[layer + 1];
        m->layer[layer].input = carve(carver, R * D);
    }
    m->output = carve(carver, R * D);
    m->norm_f = carve(carver, R * D);
    m->mean_f = carve(carver, R);
    m->rstd_f = carve(carver, R);
    m->logits = carve(carver, R * m->vocab);
    m->dstream = carve(carver, R * D);
    m->dnarrow = carve(carver, R * D);
    m->dwide = carve(carver, R * (m->parts * D > M ? m->parts * D : M));
    m->ddropped = m->spec->model.dropout > 0.0 ? carve(carver, R * D) : m->dstream;
}

/* What attention keeps of a layer: layers are alike. */
static int64_t saved_floats(const struct performer *m, const struct batch *batch)
{
    const struct attention attention = attention_of(m, 0, batch);
    return (int64_t)m->backend->attention_saved_floats(&attention);
}

static void carve_saved(struct performer *m, struct carver *carver)
{
    const struct batch batch = {.sequences = m->spec->train.micro_batch, .length = m->length};
    for (int64_t layer = m->params->layers - 1; layer >= 0; layer--)
        m->layer[layer].saved = holds_own(m, layer) ? carve(carver, saved_floats(m, &batch))
                                                    : m->layer[layer + 1].saved;
}

static enum status allocate(struct performer *m,
                            void (*lay_out)(struct performer *, struct carver *), const char *what,
                            void **memory, size_t *bytes, struct fault *fault)
{
    struct carver carver = {0};
    lay_out(m, &carver);
    size_t needed = carver.bytes > 0 ? carver.bytes : REGION_ALIGN_BYTES;
    enum status status = m->backend->memory_new(needed, memory);
    if (status != ST_OK) {
        struct fault why;
        backend_fault(m->backend, status, &why);
        return fault_set(fault, status,
                         "%zu bytes for %s: %s; lower train.micro_batch or data.length, or set "
                         "train.recompute to \"layer\"",
                         needed, what, why.text);
    }
    *bytes = carver.bytes;
    carver = (struct carver){.base = *memory};
    lay_out(m, &carver);
    return ST_OK;
}

static void measure_shape(struct performer *m, const struct batch *batch)
{
    float *somewhere =
        m->activations; /* in place of weights and gradient: nothing is read or written */

    m->length = batch->length;
    for (int training = 0; training <= 1; training++) {
        m->pass = (struct performer_pass){.training = training};
        forward(m, somewhere, batch);
        loss_of(m, batch, training);
    }
    backward(m, somewhere, batch, somewhere);
}

/* The passes themselves are asked, so that no operation can be forgotten, and for all shapes of a shard: a smaller one, which
 * feeds fewer threads, may be cut into more pieces. */
static void measure_scratch(struct performer *m)
{
    const int64_t longest = m->spec->data.length;
    const bool cut = m->spec->data.packing == PACKING_PAD;
    struct batch batch = {.sequences = m->spec->train.micro_batch, .length = longest};
    const int64_t saved = saved_floats(m, &batch);

    m->measuring = true;
    for (batch.sequences = 1; batch.sequences <= m->spec->train.micro_batch; batch.sequences++)
        for (batch.length = longest; batch.length > 0;
             batch.length = cut ? dataset_shorter(batch.length) : 0) {
            assert(saved_floats(m, &batch) <= saved);
            measure_shape(m, &batch);
        }
    m->measuring = false;
}

static enum status check_support(const struct performer *m, struct fault *fault)
{
    const struct batch batch = {.sequences = m->spec->train.micro_batch, .length = m->length};
    const struct attention attention = attention_of(m, 0, &batch);
    const char *why_not = "";
    if (m->backend->attention_supported(&attention, &why_not)) return ST_OK;
    return fault_set(fault, ST_UNSUPPORTED, "attention.kind = \"%s\" on backend %s: %s",
                     attention_kind_text(attention.kind), m->backend->name, why_not);
}

/*
 * Made once: they do not change. Vaswani et al. 2017 (sections 3.4 and 3.5) add sines of amplitude 1 to tokens times √D, which
 * begin with a deviation of 1. Tokens begin smaller here, and the sines are smaller with them: at amplitude 1 they are all
 * that a layer norm leaves, and a model learns nothing for a long time.
 */
static enum status make_positions(struct performer *m, struct fault *fault)
{
    const size_t bytes = performer_positions_bytes(m);
    if (bytes == 0) return ST_OK;
    void *memory;
    enum status status = m->backend->memory_new(bytes, &memory);
    if (status != ST_OK) {
        backend_fault(m->backend, status, fault);
        return fault_wrap(fault, "a table of positions, which a smaller data.length makes smaller");
    }
    m->positions = memory;
    if (m->spec->model.positions == POSITIONS_SINUSOIDAL)
        positions_sinusoidal(m->spec->data.length, m->width, INITIAL_STD, m->positions);
    else
        positions_rotary(m->spec->data.length, m->head_dim, m->positions);
    return ST_OK;
}

static enum status allocate_projections(struct performer *m, struct fault *fault)
{
    const size_t floats = (size_t)m->params->projection_floats;
    if (floats == 0) return ST_OK;
    const size_t bytes = (size_t)m->params->layers * floats * sizeof *m->projections;
    void *memory = NULL;
    enum status status = m->backend->memory_new(bytes, &memory);
    m->projections = memory;
    m->projection_work = calloc(floats, sizeof *m->projection_work);
    if (status != ST_OK)
        backend_fault(m->backend, status, fault);
    else if (!m->projection_work)
        status = fault_set(fault, ST_NO_MEMORY, "out of memory");
    if (status != ST_OK)
        return fault_wrap(fault, "the projections, which a smaller [attention] makes smaller");
    memset(m->projections, 0, bytes);
    return ST_OK;
}

enum status performer_new(const struct jobspec *spec, const struct params *params,
                          const struct backend *backend, int threads, struct performer **model_out,
                          struct fault *fault)
{
    struct performer *model = calloc(1, sizeof *model);
    if (!model) return fault_set(fault, ST_NO_MEMORY, "no memory for the model");
    model->spec = spec;
    model->params = params;
    model->backend = backend;
    model->threads = threads;
    model->width = spec->model.width;
    model->mlp = spec->model.mlp;
    model->heads = spec->model.heads;
    model->head_dim = params->head_dim;
    model->vocab = jobspec_vocab(spec);
    model->length = spec->data.length;
    model->parts = params->layer[0].k_weight >= 0 ? 3 : 2;

    enum status status = ST_NO_MEMORY;
    model->layer = calloc((size_t)params->layers, sizeof *model->layer);
    if (!model->layer) {
        fault_set(fault, ST_NO_MEMORY, "no memory for the model");
        goto free_model;
    }
    status = check_support(model, fault);
    if (status != ST_OK) goto free_model;
    status = make_positions(model, fault);
    if (status != ST_OK) goto free_model;
    status = allocate_projections(model, fault);
    if (status != ST_OK) goto free_model;
    status = allocate(model, carve_activations, "activations", &model->activations,
                      &model->activation_bytes, fault);
    if (status != ST_OK) goto free_model;
    status = allocate(model, carve_saved, "what attention keeps", &model->saved,
                      &model->saved_bytes, fault);
    if (status != ST_OK) goto free_model;
    measure_scratch(model);
    *model_out = model;
    return ST_OK;

free_model:
    performer_free(model);
    return status;
}

void performer_free(struct performer *model)
{
    if (!model) return;
    void *memory[] = {model->saved, model->activations, model->projections, model->positions};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++)
        model->backend->memory_free(memory[i]);
    free(model->projection_work);
    free(model->layer);
    free(model);
}

size_t performer_scratch_bytes(const struct performer *model)
{
    return model->scratch_bytes;
}

size_t performer_activation_bytes(const struct performer *model)
{
    return model->activation_bytes;
}

size_t performer_saved_bytes(const struct performer *model)
{
    return model->saved_bytes;
}

size_t performer_positions_bytes(const struct performer *model)
{
    switch (model->spec->model.positions) {
    case POSITIONS_SINUSOIDAL:
        return (size_t)(model->spec->data.length * model->width) * sizeof(float);
    case POSITIONS_ROTARY:
        return (size_t)(model->spec->data.length * model->head_dim) * sizeof(float);
    default:
        return 0;
    }
}

float *performer_projections(struct performer *model)
{
    return model->projections;
}

/* One matrix of one layer. Variances: of linformer 1 / r (Wang et al. 2020, theorem 2); the directions of
 * reformer's rotations are all that counts. */
static void draw_projection(struct performer *m, const struct projection *projection, int64_t layer,
                            uint32_t draw)
{
    const uint64_t seed = (uint64_t)m->spec->job.seed;
    const double rank = (double)m->spec->attention.rank;
    float *out = m->projections + layer * m->params->projection_floats + projection->offset;
    const struct projection_draw features = {
        .seed = seed,
        .layer = (uint32_t)layer,
        .draw = draw,
        .features = projection->shape[0],
        .dim = projection->shape[1],
        .orthogonal = m->spec->attention.orthogonal,
        .regularized = m->spec->attention.regularized,
    };

    switch (projection->id) {
    case PROJECTION_FAVOR:
        projection_fill(&features, m->projection_work, out);
        return;
    case PROJECTION_KEYS:
        gaussian_draw(seed, PURPOSE_KEY_PROJECTION, (uint32_t)layer, draw, projection->count,
                      1 / sqrt(rank), out);
        return;
    case PROJECTION_VALUES:
        gaussian_draw(seed, PURPOSE_VALUE_PROJECTION, (uint32_t)layer, draw, projection->count,
                      1 / sqrt(rank), out);
        return;
    case PROJECTION_ROTATIONS:
        gaussian_draw(seed, PURPOSE_ROTATIONS, (uint32_t)layer, draw, projection->count, 1, out);
        return;
    case PROJECTION_COUNT:
        assert(false);
    }
}

void performer_redraw(struct performer *model, uint32_t draw)
{
    for (int64_t layer = 0; layer < model->params->layers; layer++)
        for (int i = 0; i < model->params->projections; i++)
            draw_projection(model, &model->params->projection[i], layer, draw);
}

uint64_t performer_projections_hash(const struct performer *model)
{
    const int64_t floats = model->params->layers * model->params->projection_floats;
    return XXH3_64bits(model->projections, (size_t)floats * sizeof(float));
}
