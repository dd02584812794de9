#include "kernels/cpu/attention.h"

#include <assert.h>
#include <string.h>

#include "kernels/cpu/pieces.h"

static void head_copy(void *context, int64_t piece, int thread)
{
    const struct attention *call = context;
    const struct rows v = head_rows(call->v, piece / call->heads, piece % call->heads);
    const struct rows out = head_rows(call->out, piece / call->heads, piece % call->heads);
    (void)thread;
    for (int64_t l = 0; l < call->length; l++)
        memcpy(row_of(out, l), row_of(v, l), (size_t)call->value_dim * sizeof(float));
}

static enum status identity(struct stream *stream, const struct attention *call)
{
    team_run(stream->team, call->batch * call->heads, head_copy, (void *)call);
    return ST_OK;
}

static void head_copy_backward(void *context, int64_t piece, int thread)
{
    const struct attention_backward *a = context;
    const struct attention *call = &a->forward;
    const int64_t sequence = piece / call->heads, head = piece % call->heads;
    const struct rows dq = head_rows(a->dq, sequence, head), dk = head_rows(a->dk, sequence, head);
    const struct rows dv = head_rows(a->dv, sequence, head);
    const struct rows dout = head_rows(a->dout, sequence, head);
    (void)thread;

    for (int64_t l = 0; l < call->length; l++) {
        memset(row_of(dq, l), 0, (size_t)call->head_dim * sizeof(float));
        memset(row_of(dk, l), 0, (size_t)call->head_dim * sizeof(float));
        memcpy(row_of(dv, l), row_of(dout, l), (size_t)call->value_dim * sizeof(float));
    }
}

static enum status identity_backward(struct stream *stream, const struct attention_backward *a)
{
    team_run(stream->team, a->forward.batch * a->forward.heads, head_copy_backward, (void *)a);
    return ST_OK;
}

enum status CPU(attention)(struct stream *stream, const struct attention *arguments)
{
    switch (arguments->kind) {
    case ATTENTION_FAVOR:
        return arguments->causal ? CPU(favor_causal)(stream, arguments)
                                 : CPU(favor_bidirectional)(stream, arguments);
    case ATTENTION_SOFTMAX:
        return CPU(softmax)(stream, arguments);
    case ATTENTION_LINFORMER:
        return CPU(linformer)(stream, arguments);
    case ATTENTION_REFORMER:
        return CPU(reformer)(stream, arguments);
    case ATTENTION_IDENTITY:
        return identity(stream, arguments);
    default:
        return ST_UNSUPPORTED;
    }
}

enum status CPU(attention_backward)(struct stream *stream,
                                    const struct attention_backward *arguments)
{
    switch (arguments->forward.kind) {
    case ATTENTION_FAVOR:
        return arguments->forward.causal ? CPU(favor_causal_backward)(stream, arguments)
                                         : CPU(favor_bidirectional_backward)(stream, arguments);
    case ATTENTION_SOFTMAX:
        return CPU(softmax_backward)(stream, arguments);
    case ATTENTION_LINFORMER:
        return CPU(linformer_backward)(stream, arguments);
    case ATTENTION_REFORMER:
        return CPU(reformer_backward)(stream, arguments);
    case ATTENTION_IDENTITY:
        return identity_backward(stream, arguments);
    default:
        return ST_UNSUPPORTED;
    }
}

size_t CPU(attention_scratch)(const struct attention *arguments, int threads)
{
    switch (arguments->kind) {
    case ATTENTION_FAVOR:
        return arguments->causal ? CPU(favor_causal_scratch)(arguments, threads)
                                 : CPU(favor_bidirectional_scratch)(arguments, threads);
    case ATTENTION_SOFTMAX:
        return CPU(softmax_scratch)(arguments, threads);
    case ATTENTION_LINFORMER:
        return CPU(linformer_scratch)(arguments, threads);
    case ATTENTION_REFORMER:
        return CPU(reformer_scratch)(arguments, threads);
    default:
        return 0;
    }
}

size_t CPU(attention_backward_scratch)(const struct attention_backward *arguments, int threads)
{
    const struct attention *call = &arguments->forward;
    switch (call->kind) {
    case ATTENTION_FAVOR:
        return call->causal ? CPU(favor_causal_backward_scratch)(call, threads)
                            : CPU(favor_bidirectional_backward_scratch)(call, threads);
    case ATTENTION_SOFTMAX:
        return CPU(softmax_backward_scratch)(call, threads);
    case ATTENTION_LINFORMER:
        return CPU(linformer_backward_scratch)(call, threads);
    case ATTENTION_REFORMER:
        return CPU(reformer_backward_scratch)(call, threads);
    default:
        return 0;
    }
}

size_t CPU(attention_saved_floats)(const struct attention *arguments)
{
    switch (arguments->kind) {
    case ATTENTION_FAVOR:
        return arguments->causal ? CPU(favor_causal_saved_floats)(arguments)
                                 : CPU(favor_bidirectional_saved_floats)(arguments);
    case ATTENTION_SOFTMAX:
        return CPU(softmax_saved_floats)(arguments);
    case ATTENTION_LINFORMER:
        return CPU(linformer_saved_floats)(arguments);
    case ATTENTION_REFORMER:
        return CPU(reformer_saved_floats)(arguments);
    default:
        return 0;
    }
}
