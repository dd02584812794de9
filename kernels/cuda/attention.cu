/* Which kernels an attention is done by; and identity, out = v, which needs none to speak of. */

#include "kernels/cuda/attention.h"
#include "kernels/cuda/launch.cuh"

size_t cuda_attention_saved_floats(const struct attention *arguments)
{
    switch (arguments->kind) {
    case ATTENTION_FAVOR:
        return favor_saved_floats(arguments);
    case ATTENTION_SOFTMAX:
        return softmax_saved_floats(arguments);
    case ATTENTION_LINFORMER:
        return linformer_saved_floats(arguments);
    case ATTENTION_REFORMER:
        return reformer_saved_floats(arguments);
    default:
        return 0;
    }
}

/* ---- identity ---- */

/* to = from, or 0 where that is not given */
static __global__ void REGISTERS(48) rows_copy_kernel(struct attention call, int64_t width,
                                                      struct heads_view from, struct heads_view to)
{
    FOR_ELEMENTS(i, call.batch * call.heads * call.length * width)
    {
        const int64_t column = i % width, position = i / width % call.length;
        const int64_t head = i / width / call.length % call.heads;
        const int64_t sequence = i / width / call.length / call.heads;
        const float *x = from.data
                             ? from.data + sequence * from.batch_stride + head * from.head_stride +
                                   position * from.row_stride + column
                             : NULL;
        to.data[sequence * to.batch_stride + head * to.head_stride + position * to.row_stride +
                column] = x ? *x : 0;
    }
}

static enum status rows_copy(const struct attention *call, int64_t width, struct heads_view from,
                             struct heads_view to)
{
    const int64_t count = call->batch * call->heads * call->length * width;
    return launch(rows_copy_kernel, blocks_for(count), BLOCK_THREADS, 0, *call, width, from, to);
}

static enum status identity_backward(const struct attention_backward *a)
{
    const struct attention *call = &a->forward;
    const struct heads_view none = {};
    enum status status = rows_copy(call, call->value_dim, a->dout, a->dv);
    if (status == ST_OK) status = rows_copy(call, call->head_dim, none, a->dq);
    return status == ST_OK ? rows_copy(call, call->head_dim, none, a->dk) : status;
}

/* ---- calls ---- */

static enum status forward(const struct attention *call, struct arena *arena)
{
    switch (call->kind) {
    case ATTENTION_FAVOR:
        return favor_forward(call, arena);
    case ATTENTION_SOFTMAX:
        return softmax_forward(call, call->length, arena);
    case ATTENTION_LINFORMER:
        return linformer_forward(call, arena);
    case ATTENTION_REFORMER:
        return reformer_forward(call, arena);
    default: /* identity, which takes no scratch: arena->base says nothing of it */
        return ST_OK;
    }
}

static enum status backward(const struct attention_backward *call, struct arena *arena)
{
    switch (call->forward.kind) {
    case ATTENTION_FAVOR:
        return favor_backward(call, arena);
    case ATTENTION_SOFTMAX:
        return softmax_backward(call, call->forward.length, call->forward.length, arena);
    case ATTENTION_LINFORMER:
        return linformer_backward(call, arena);
    case ATTENTION_REFORMER:
        return reformer_backward(call, arena);
    default:
        return ST_OK;
    }
}

size_t cuda_attention_scratch(const struct attention *arguments, int)
{
    struct arena arena = {};
    forward(arguments, &arena);
    return arena.bytes;
}

size_t cuda_attention_backward_scratch(const struct attention_backward *arguments, int)
{
    struct arena arena = {};
    backward(arguments, &arena);
    return arena.bytes;
}

enum status cuda_attention(struct stream *stream, const struct attention *arguments)
{
    const char *why_not;
    if (!cuda_attention_supported(arguments, &why_not)) return ST_UNSUPPORTED;
    if (arguments->kind == ATTENTION_IDENTITY)
        return rows_copy(arguments, arguments->value_dim, arguments->v, arguments->out);
    struct arena arena = {(char *)stream->scratch, 0};
    return forward(arguments, &arena);
}

enum status cuda_attention_backward(struct stream *stream,
                                    const struct attention_backward *arguments)
{
    const char *why_not;
    if (!cuda_attention_supported(&arguments->forward, &why_not)) return ST_UNSUPPORTED;
    if (arguments->forward.kind == ATTENTION_IDENTITY) return identity_backward(arguments);
    struct arena arena = {(char *)stream->scratch, 0};
    return backward(arguments, &arena);
}
