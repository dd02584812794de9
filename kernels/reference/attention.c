#include "kernels/reference/attention.h"

#include <assert.h>
#include <string.h>

#include "kernels/reference/reference.h"

size_t reference_attention_saved_floats(const struct attention *arguments)
{
    (void)arguments;
    return 0; /* the backward pass computes everything again */
}

/* The words for what proto/jobspec.def marks LATER, and NULL for what is BUILT. */
#define WHY_NOT_BUILT(text) NULL
#define WHY_NOT_LATER(text) text " is not built yet"

static const char *kind_why_not(enum attention_kind kind)
{
    switch (kind) {
#define KIND_CASE(enumerator, text, support) \
    case enumerator:                         \
        return WHY_NOT_##support("attention " text);
        JOBSPEC_ATTENTION_KIND(KIND_CASE)
#undef KIND_CASE
    }
    return "no such attention";
}

static const char *kernel_why_not(enum attention_kernel kernel)
{
    switch (kernel) {
#define KERNEL_CASE(enumerator, text, support) \
    case enumerator:                           \
        return WHY_NOT_##support("kernel " text);
        JOBSPEC_KERNEL(KERNEL_CASE)
#undef KERNEL_CASE
    }
    return "no such kernel";
}

bool reference_attention_supported(const struct attention *arguments, const char **why_not)
{
    const char *why = kind_why_not(arguments->kind);
    if (!why && arguments->kind == ATTENTION_FAVOR) why = kernel_why_not(arguments->kernel);
    if (!why && arguments->kind == ATTENTION_LINFORMER && arguments->causal)
        why = "attention linformer cannot be causal: a row of E k holds all keys";
    if (why) *why_not = why;
    return !why;
}

static int64_t doubles_per_head(const struct attention *call)
{
    switch (call->kind) {
    case ATTENTION_FAVOR:
        return reference_favor_doubles(call);
    case ATTENTION_SOFTMAX:
        return reference_softmax_doubles(call);
    case ATTENTION_LINFORMER:
        return reference_linformer_doubles(call);
    case ATTENTION_REFORMER:
        return reference_reformer_doubles(call);
    default:
        return 0;
    }
}

size_t reference_attention_scratch(const struct attention *arguments, int threads)
{
    (void)threads;
    return (size_t)doubles_per_head(arguments) * sizeof(double);
}

size_t reference_attention_backward_scratch(const struct attention_backward *arguments, int threads)
{
    return reference_attention_scratch(&arguments->forward, threads);
}

static struct rows head_rows(struct heads_view view, int64_t sequence, int64_t head)
{
    return (struct rows){view.data + sequence * view.batch_stride + head * view.head_stride,
                         view.row_stride};
}

static struct head head_of(const struct attention *call, int64_t sequence, int64_t head)
{
    return (struct head){
        .call = call,
        .key_mask = call->key_mask ? call->key_mask + sequence * call->length : NULL,
        .q = head_rows(call->q, sequence, head),
        .k = head_rows(call->k, sequence, head),
        .v = head_rows(call->v, sequence, head),
        .out = head_rows(call->out, sequence, head),
    };
}

static void rows_copy(const struct attention *call, int64_t width, struct rows from, struct rows to)
{
    for (int64_t row = 0; row < call->length; row++)
        memcpy(row_at(to, row), row_at(from, row), (size_t)width * sizeof(float));
}

static void rows_zero(const struct attention *call, int64_t width, struct rows rows)
{
    for (int64_t row = 0; row < call->length; row++)
        memset(row_at(rows, row), 0, (size_t)width * sizeof(float));
}

static void head_forward(const struct head *head, double *scratch)
{
    switch (head->call->kind) {
    case ATTENTION_FAVOR:
        reference_favor(head, scratch);
        return;
    case ATTENTION_SOFTMAX:
        reference_softmax(head, scratch);
        return;
    case ATTENTION_LINFORMER:
        reference_linformer(head, scratch);
        return;
    case ATTENTION_REFORMER:
        reference_reformer(head, scratch);
        return;
    default: /* identity: out = v */
        rows_copy(head->call, head->call->value_dim, head->v, head->out);
    }
}

static void head_backward(const struct head *head, double *scratch)
{
    switch (head->call->kind) {
    case ATTENTION_FAVOR:
        reference_favor_backward(head, scratch);
        return;
    case ATTENTION_SOFTMAX:
        reference_softmax_backward(head, scratch);
        return;
    case ATTENTION_LINFORMER:
        reference_linformer_backward(head, scratch);
        return;
    case ATTENTION_REFORMER:
        reference_reformer_backward(head, scratch);
        return;
    default:
        rows_copy(head->call, head->call->value_dim, head->dout, head->dv);
        rows_zero(head->call, head->call->head_dim, head->dq);
        rows_zero(head->call, head->call->head_dim, head->dk);
    }
}

enum status reference_attention(struct stream *stream, const struct attention *arguments)
{
    const char *why_not;
    if (!reference_attention_supported(arguments, &why_not)) return ST_UNSUPPORTED;
    assert(stream->scratch_bytes >= reference_attention_scratch(arguments, 1));

    for (int64_t b = 0; b < arguments->batch; b++) {
        for (int64_t h = 0; h < arguments->heads; h++) {
            struct head head = head_of(arguments, b, h);
            head_forward(&head, stream->scratch);
        }
    }
    return ST_OK;
}

enum status reference_attention_backward(struct stream *stream,
                                         const struct attention_backward *arguments)
{
    const struct attention *call = &arguments->forward;
    const char *why_not;
    if (!reference_attention_supported(call, &why_not)) return ST_UNSUPPORTED;
    assert(stream->scratch_bytes >= reference_attention_backward_scratch(arguments, 1));

    for (int64_t b = 0; b < call->batch; b++) {
        for (int64_t h = 0; h < call->heads; h++) {
            struct head head = head_of(call, b, h);
            head.dout = head_rows(arguments->dout, b, h);
            head.dq = head_rows(arguments->dq, b, h);
            head.dk = head_rows(arguments->dk, b, h);
            head.dv = head_rows(arguments->dv, b, h);
            head_backward(&head, stream->scratch);
        }
    }
    return ST_OK;
}

enum status reference_sync(struct stream *stream)
{
    (void)stream;
    return ST_OK;
}
