/* Exact attention: every query sees all keys, or when causal those at its own position and before. */

#include "kernels/cuda/softmax_tiles.cuh"

/* An Order of softmax_tiles.cuh: places are positions, blockIdx.x counts chunks and blockIdx.y heads, slice after slice. */
struct all_pairs {
    int64_t slice; /* queries that a chunk of keys is held against */

    __device__ int64_t head(const struct softmax &s) const
    {
        return blockIdx.y % (s.call.batch * s.call.heads);
    }
    __device__ struct chunk queries(const struct softmax &s) const
    {
        return {(int64_t)blockIdx.x * s.rows, s.call.length, s.rows, NULL};
    }
    __device__ struct chunk keys(const struct softmax &s) const
    {
        return {(int64_t)blockIdx.x * s.rows, s.keys, s.rows, NULL};
    }
    __device__ struct span keys_of(const struct softmax &s, const struct chunk &queries) const
    {
        const int64_t behind = queries.first + s.rows;
        return {0, s.call.causal && behind < s.keys ? behind : s.keys, NULL};
    }
    __device__ struct span queries_of(const struct softmax &s, const struct chunk &keys) const
    {
        const int64_t from = blockIdx.y / (s.call.batch * s.call.heads) * slice;
        const int64_t behind = from + slice;
        return {s.call.causal && keys.first > from ? keys.first : from,
                behind < s.call.length ? behind : s.call.length, NULL};
    }
    __device__ __forceinline__ bool sees(const struct softmax &s, int64_t query, int64_t key) const
    {
        return !s.call.causal || key <= query;
    }
    __device__ void keys_make(const struct softmax &s, const struct chunk &chunk,
                              struct tile k) const
    {
        rows_load(chunk, rows_of_head(s.call.k, s.call.heads, head(s)), (int)s.call.head_dim, s.dim,
                  1, k);
    }
};

size_t softmax_saved_floats(const struct attention *call)
{
    return (size_t)(call->batch * call->heads * call->length);
}

bool softmax_fits(const struct attention *call)
{
    return softmax_of(call, call->length).rows > 0;
}

static struct softmax softmax_place(const struct attention *call, int64_t keys, struct arena *arena)
{
    struct softmax s = softmax_of(call, keys);
    float *own = (float *)arena_take(arena, softmax_saved_floats(call) * sizeof(float));
    s.log_sum = call->saved ? call->saved : own;
    s.heads = call->heads;
    s.out = call->out;
    return s;
}

enum status softmax_forward(const struct attention *call, int64_t keys, struct arena *arena)
{
    const struct softmax s = softmax_place(call, keys, arena);
    if (!arena->base) return ST_OK;
    return softmax_launch_forward(s, ceiling(call->length, s.rows), all_pairs{call->length});
}

enum status softmax_backward(const struct attention_backward *call, int64_t keys, int64_t slice,
                             struct arena *arena)
{
    struct softmax s = softmax_place(&call->forward, keys, arena);
    if (!arena->base) return ST_OK;
    s.dout = call->dout;
    s.dq = call->dq;
    s.dk = call->dk;
    s.dv = call->dv;
    return softmax_launch_backward(s, ceiling(s.call.length, s.rows), ceiling(keys, s.rows),
                                   ceiling(s.call.length, slice), all_pairs{slice});
}
