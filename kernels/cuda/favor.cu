/*
 * FAVOR+ (Choromanski et al. 2021, Algorithm 1) in chunks of C positions, for one head after another along blockIdx.y.
 *
 *   shifts    c of each query, and of each key the largest so far (of all, when bidirectional)
 *   states    of each chunk alone: S = Σ φ(k) [v 1]ᵀ, relative to the shift at its end
 *   scan      S of all chunks before each (of all, when bidirectional): the only loop over chunks
 *   out       φ(q) S, and when causal what the chunk's own keys add: a masked product of features
 *
 * The backward pass makes the states again, and then from behind those of queries, U = Σ φ(q) [ȳ ρ̄]ᵀ, with ȳ = dout /
 * denominator and ρ̄ = -(ȳ . out). The weight of key s for query t is exp(c_s - c_t) <= 1 throughout, so that nothing
 * overflows and nothing that counts is lost: kernels/reference/favor.c. Sums are taken in a fixed order.
 */

#include "kernels/cuda/favor_features.cuh"

/* ---- shifts ---- */

/* 36 KiB, where heads are 64 wide. */
struct shift_tiles {
    struct favor_side side;
    struct tile w, p;
    float *largest;

    __host__ __device__ void place(const struct favor &f, struct shared_arena *arena)
    {
        side.place(f, arena);
        w = arena->tile(FAVOR_COLUMNS, f.dim);
        p = arena->tile(f.rows, FAVOR_COLUMNS);
        largest = arena->row(f.rows);
    }
};

/* largest (C) becomes the largest p of each row, or |p| */
static __device__ void project_largest(const struct favor &f, const struct shift_tiles &t)
{
    const int lane = (int)threadIdx.x % WARP;
    const bool size = f.call.kernel == KERNEL_SOFTMAX_HYPERBOLIC;
    for (int row = (int)threadIdx.x; row < f.rows; row += BLOCK_THREADS) t.largest[row] = -INFINITY;
    for (int first = 0; first < f.projections; first += FAVOR_COLUMNS) {
        projection_load(f, first, t.w);
        project(f, t.side, t.w, t.p);
        for (int row = (int)threadIdx.x / WARP; row < f.rows; row += BLOCK_WARPS) {
            float p = first + lane < f.projections ? t.p(row, lane) : -INFINITY;
            if (size) p = first + lane < f.projections ? fabsf(p) : 0;
            p = warp_max(p);
            if (lane == 0) t.largest[row] = fmaxf(t.largest[row], p);
        }
    }
    __syncthreads();
}

/* c of a row: no exponential of it is above 1 then. */
static __device__ float row_shift(const struct favor &f, float largest, float half)
{
    switch (f.call.kernel) {
    case KERNEL_SOFTMAX_POSITIVE:
    case KERNEL_SOFTMAX_HYPERBOLIC:
        return largest - half;
    case KERNEL_SOFTMAX_TRIG:
        return half;
    case KERNEL_EXP:
        return fmaxf(largest, logf(f.call.epsilon));
    default:
        return 0;
    }
}

static __global__ void REGISTERS(128) shift_kernel(struct favor f, bool keys)
{
    const struct shift_tiles t = tiles_place<struct shift_tiles>(f);
    const struct chunk chunk = favor_chunk(f);
    float *shift = of_head(f, keys ? f.key_shift : f.query_shift);

    side_load(f, keys, t.side);
    const bool projected = f.call.kernel == KERNEL_SOFTMAX_POSITIVE ||
                           f.call.kernel == KERNEL_SOFTMAX_HYPERBOLIC ||
                           f.call.kernel == KERNEL_EXP;
    if (projected) project_largest(f, t);
    for (int row = (int)threadIdx.x; row < f.rows; row += BLOCK_THREADS) {
        if (!chunk.holds(row)) continue;
        const float own = row_shift(f, projected ? t.largest[row] : 0, t.side.half[row]);
        shift[chunk.first + row] = t.side.present[row] != 0 ? own : -INFINITY;
    }
}

/* The running maximum of a head's keys; when bidirectional its last value everywhere. A thread has a run of positions. */
static __global__ void REGISTERS(48) running_shift_kernel(struct favor f)
{
    __shared__ float largest[BLOCK_THREADS];
    float *shift = of_head(f, f.key_shift);
    const int64_t run = (f.call.length + BLOCK_THREADS - 1) / BLOCK_THREADS;
    const int64_t first = threadIdx.x * run;
    const int64_t end = first + run < f.call.length ? first + run : f.call.length;

    float maximum = -INFINITY;
    for (int64_t i = first; i < end; i++) maximum = fmaxf(maximum, shift[i]);
    largest[threadIdx.x] = maximum;
    __syncthreads();
    maximum = -INFINITY;
    for (int i = 0; i < (f.call.causal ? (int)threadIdx.x : BLOCK_THREADS); i++)
        maximum = fmaxf(maximum, largest[i]);
    for (int64_t i = first; i < end; i++) shift[i] = maximum = fmaxf(maximum, shift[i]);
}

/* ---- what features are multiplied with ---- */

/* values (C, width) = [v 1 0] */
static __device__ void values_load(const struct favor &f, struct tile values)
{
    const struct chunk chunk = favor_chunk(f);
    const struct head_rows v = rows_of_head(f.call.v, f.call.heads, blockIdx.y);
    const int e = (int)f.call.value_dim;
    __syncthreads();
    rows_load(chunk, v, e, f.width, 1, values);
    __syncthreads();
    for (int row = (int)threadIdx.x; row < f.rows; row += BLOCK_THREADS)
        values(row, e) = chunk.holds(row) ? 1.0f : 0.0f;
    __syncthreads();
}

/* slopes (C, width) = [ȳ ρ̄ 0] */
static __device__ void slopes_load(const struct favor &f, struct tile slopes)
{
    const struct chunk chunk = favor_chunk(f);
    const struct head_rows dout = rows_of_head(f.dout, f.call.heads, blockIdx.y);
    const struct head_rows out = rows_of_head(f.call.out, f.call.heads, blockIdx.y);
    const float *inverse = of_head(f, f.inverse);
    const int lane = (int)threadIdx.x % WARP, e = (int)f.call.value_dim;

    __syncthreads();
    for (int row = (int)threadIdx.x / WARP; row < f.rows; row += BLOCK_WARPS) {
        const int64_t t = chunk.first + row;
        float sum = 0;
        for (int j = lane; j < f.width; j += WARP) {
            float y = 0;
            if (chunk.holds(row) && j < e) {
                y = dout.data[t * dout.stride + j] * inverse[t];
                sum += y * out.data[t * out.stride + j];
            }
            slopes(row, j) = y;
        }
        sum = warp_sum(sum);
        __syncwarp(); /* slopes(row, e) was written by another lane */
        if (lane == 0) slopes(row, e) = -sum;
    }
    __syncthreads();
}

static __device__ void rows_scale(const struct favor &f, struct tile tile, int columns,
                                  const float *factor)
{
    __syncthreads();
    for (int i = (int)threadIdx.x; i < f.rows * columns; i += BLOCK_THREADS)
        tile(i / columns, i % columns) *= factor[i / columns];
    __syncthreads();
}

/* Each row's weight beside a state: of keys in the state behind their chunk, of queries in the one before it. */
static __device__ void state_weights(const struct favor &f, bool keys, float *weight)
{
    const struct chunk chunk = favor_chunk(f);
    const float *shift = of_head(f, f.key_shift);
    const float before = shift_before(f, blockIdx.x), after = shift_after(f, blockIdx.x);
    __syncthreads();
    for (int row = (int)threadIdx.x; row < f.rows; row += BLOCK_THREADS) {
        const float own = chunk.holds(row) ? shift[chunk.first + row] : 0;
        const float there = keys ? decay(own, after) : decay(before, own);
        weight[row] = chunk.holds(row) ? there : 0;
    }
    __syncthreads();
}

/* ---- states ---- */

/* 67 KiB, where heads are 64 wide. */
struct state_tiles {
    struct favor_side side;
    struct tile w, phi, right, sum;
    float *weight;

    __host__ __device__ void place(const struct favor &f, struct shared_arena *arena)
    {
        side.place(f, arena);
        w = arena->tile(FAVOR_COLUMNS, f.dim);
        phi = arena->tile(f.rows, FAVOR_COLUMNS);
        right = arena->tile(f.rows, f.width);
        sum = arena->tile(FAVOR_COLUMNS, f.width);
        weight = arena->row(f.rows);
    }
};

/* Columns first ... of the state of a chunk. */
static __device__ float *state_at(const struct favor &f, int64_t chunk, int first)
{
    return f.states + ((int64_t)blockIdx.y * f.chunks + chunk) * f.state_floats() +
           (int64_t)first * f.width;
}

template <enum precision PRECISION>
static __global__ void REGISTERS(128) states_kernel(struct favor f, bool keys)
{
    const struct state_tiles t = tiles_place<struct state_tiles>(f);

    side_load(f, keys, t.side);
    if (keys)
        values_load(f, t.right);
    else
        slopes_load(f, t.right);
    state_weights(f, keys, t.weight);
    rows_scale(f, t.right, f.width, t.weight);
    for (int first = 0; first < f.columns; first += FAVOR_COLUMNS) {
        projection_load(f, first, t.w);
        project(f, t.side, t.w, t.phi);
        features_map(f, t.side, first, t.phi, t.phi);
        tile_zero(t.sum, FAVOR_COLUMNS, f.width);
        __syncthreads();
        tile_product<PRECISION>(FAVOR_COLUMNS, f.width, f.rows, t.phi.transposed(), t.right, t.sum);
        __syncthreads();
        float *state = state_at(f, blockIdx.x, first);
        for (int i = (int)threadIdx.x; i < FAVOR_COLUMNS * f.width; i += BLOCK_THREADS)
            state[i] = t.sum(i / f.width, i % f.width);
    }
}

/* An element of the state, from chunk to chunk: in place becomes what lies before it (forward), or behind it. */
static __global__ void REGISTERS(128) scan_kernel(struct favor f, bool forward)
{
    const int64_t count = f.state_floats();
    FOR_ELEMENTS(i, count)
    {
        float *state = f.states + (int64_t)blockIdx.y * f.chunks * count + i;
        float sum = 0;
        for (int64_t step = 0; step < f.chunks; step++) {
            const int64_t chunk = forward ? step : f.chunks - 1 - step;
            const float own = state[chunk * count];
            state[chunk * count] = sum;
            sum = sum * decay(shift_before(f, chunk), shift_after(f, chunk)) + own;
        }
        if (!f.call.causal) state[0] = sum;
    }
}

/* state (FAVOR_COLUMNS, width): what a chunk starts from; when bidirectional the first one's place holds all */
static __device__ void state_load(const struct favor &f, int first, struct tile tile)
{
    const float *state = state_at(f, f.call.causal ? blockIdx.x : 0, first);
    __syncthreads();
    for (int i = (int)threadIdx.x; i < FAVOR_COLUMNS * f.width; i += BLOCK_THREADS)
        tile(i / f.width, i % f.width) = state[i];
    __syncthreads();
}

/* ---- inside a chunk ---- */

/* pairs (C, C): query t, key s: times the weight of s for t, 0 where t does not see s */
static __device__ void pairs_weigh(const struct favor &f, const float *key_shift, struct tile pairs)
{
    const struct chunk chunk = favor_chunk(f);
    __syncthreads();
    for (int i = (int)threadIdx.x; i < f.rows * f.rows; i += BLOCK_THREADS) {
        const int t = i / f.rows, s = i % f.rows;
        pairs(t, s) =
            s <= t && chunk.holds(t) ? pairs(t, s) * decay(key_shift[s], key_shift[t]) : 0;
    }
    __syncthreads();
}

/* 132 KiB, where heads are 64 wide. */
struct out_tiles {
    struct favor_side query, key;
    struct tile w, phi_query, phi_key, values, state, scores, out;
    float *weight;

    __host__ __device__ void place(const struct favor &f, struct shared_arena *arena)
    {
        query.place(f, arena);
        key.place(f, arena);
        w = arena->tile(FAVOR_COLUMNS, f.dim);
        phi_query = arena->tile(f.rows, FAVOR_COLUMNS);
        phi_key = arena->tile(f.rows, FAVOR_COLUMNS);
        values = arena->tile(f.rows, f.width);
        state = arena->tile(FAVOR_COLUMNS, f.width);
        scores = arena->tile(f.rows, f.rows);
        out = arena->tile(f.rows, f.width);
        weight = arena->row(f.rows);
    }
};

static __device__ void out_store(const struct favor &f, struct tile out, float *inverse)
{
    const struct chunk chunk = favor_chunk(f);
    const struct head_rows to = rows_of_head(f.call.out, f.call.heads, blockIdx.y);
    const int e = (int)f.call.value_dim;
    for (int row = (int)threadIdx.x; row < f.rows; row += BLOCK_THREADS) {
        inverse[row] = inverse_of(f.call.kernel, out(row, e));
        if (chunk.holds(row)) of_head(f, f.inverse)[chunk.first + row] = inverse[row];
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < f.rows * e; i += BLOCK_THREADS) {
        const int row = i / e, j = i % e;
        if (chunk.holds(row))
            to.data[(chunk.first + row) * to.stride + j] = out(row, j) * inverse[row];
    }
}

template <enum precision PRECISION> static __global__ void REGISTERS(128) out_kernel(struct favor f)
{
    const struct out_tiles t = tiles_place<struct out_tiles>(f);
    const bool causal = f.call.causal;

    side_load(f, false, t.query);
    if (causal) side_load(f, true, t.key);
    tile_zero(t.out, f.rows, f.width);
    tile_zero(t.scores, f.rows, f.rows);
    for (int first = 0; first < f.columns; first += FAVOR_COLUMNS) {
        projection_load(f, first, t.w);
        project(f, t.query, t.w, t.phi_query);
        features_map(f, t.query, first, t.phi_query, t.phi_query);
        state_load(f, first, t.state);
        tile_product<PRECISION>(f.rows, f.width, FAVOR_COLUMNS, t.phi_query, t.state, t.out);
        if (!causal) continue;
        project(f, t.key, t.w, t.phi_key);
        features_map(f, t.key, first, t.phi_key, t.phi_key);
        tile_product<PRECISION>(f.rows, f.rows, FAVOR_COLUMNS, t.phi_query, t.phi_key.transposed(),
                                t.scores);
    }
    if (causal) {
        values_load(f, t.values);
        state_weights(f, false, t.weight);
        rows_scale(f, t.out, f.width, t.weight);
        pairs_weigh(f, t.key.shift, t.scores);
        tile_product<PRECISION>(f.rows, f.width, f.rows, t.scores, t.values, t.out);
    }
    __syncthreads();
    out_store(f, t.out, t.weight);
}

/* ---- backward ---- */

/* Both gradients take what is alike from here. 205 KiB, where heads are 64 wide. */
struct gradient_tiles {
    struct favor_side query, key;
    struct tile w, phi_query, phi_key, p, dphi, values, slopes, state, scores, pairs, dx, dv;
    float *weight, *growth;

    __host__ __device__ void place(const struct favor &f, struct shared_arena *arena)
    {
        query.place(f, arena);
        key.place(f, arena);
        w = arena->tile(FAVOR_COLUMNS, f.dim);
        phi_query = arena->tile(f.rows, FAVOR_COLUMNS);
        phi_key = arena->tile(f.rows, FAVOR_COLUMNS);
        p = arena->tile(f.rows, FAVOR_COLUMNS);
        dphi = arena->tile(f.rows, FAVOR_COLUMNS);
        values = arena->tile(f.rows, f.width);
        slopes = arena->tile(f.rows, f.width);
        state = arena->tile(FAVOR_COLUMNS, f.width);
        scores = arena->tile(f.rows, f.rows);
        pairs = arena->tile(f.rows, f.rows);
        dx = arena->tile(f.rows, f.dim);
        dv = arena->tile(f.rows, f.width);
        weight = arena->row(f.rows);
        growth = arena->row(f.rows);
    }
};

/* Loads a chunk, and makes pairs (C, C) = ȳ . v + ρ̄, weighed: what comes back to φ(q_t) . φ(k_s). */
template <enum precision PRECISION>
static __device__ void gradient_begin(const struct favor &f, const struct gradient_tiles &t,
                                      bool keys)
{
    side_load(f, false, t.query);
    side_load(f, true, t.key);
    values_load(f, t.values);
    slopes_load(f, t.slopes);
    state_weights(f, keys, t.weight);
    tile_zero(t.scores, f.rows, f.rows);
    tile_zero(t.pairs, f.rows, f.rows);
    tile_zero(t.dx, f.rows, f.dim);
    tile_zero(t.dv, f.rows, f.width);
    for (int row = (int)threadIdx.x; row < f.rows; row += BLOCK_THREADS) t.growth[row] = 0;
    __syncthreads();
    tile_product<PRECISION>(f.rows, f.rows, f.width, t.slopes, t.values.transposed(), t.pairs);
    pairs_weigh(f, t.key.shift, t.pairs);
}

/* dφ of the side at hand has come through the state: weigh it, add what comes from the chunk, and take it back to x̃. */
template <enum precision PRECISION>
static __device__ void gradient_columns(const struct favor &f, const struct gradient_tiles &t,
                                        const struct favor_side &side, int first, struct tile pairs,
                                        struct tile phi_other)
{
    rows_scale(f, t.dphi, FAVOR_COLUMNS, t.weight);
    if (f.call.causal)
        tile_product<PRECISION>(f.rows, FAVOR_COLUMNS, f.rows, pairs, phi_other, t.dphi);
    features_backward(f, side, first, t.dphi, t.p, t.growth);
    tile_product<PRECISION>(f.rows, f.dim, FAVOR_COLUMNS, t.p, t.w, t.dx);
}

/* x = scale (dx̃ + growth x̃) */
static __device__ void gradient_store(const struct favor &f, const struct gradient_tiles &t,
                                      const struct favor_side &side, const struct heads_view &view)
{
    const struct chunk chunk = favor_chunk(f);
    const struct head_rows to = rows_of_head(view, f.call.heads, blockIdx.y);
    const int d = (int)f.call.head_dim;
    for (int i = (int)threadIdx.x; i < f.rows * d; i += BLOCK_THREADS) {
        const int row = i / d, j = i % d;
        if (chunk.holds(row))
            to.data[(chunk.first + row) * to.stride + j] =
                f.scale * (t.dx(row, j) + t.growth[row] * side.x(row, j));
    }
}

template <enum precision PRECISION>
static __global__ void REGISTERS(128) query_gradient_kernel(struct favor f)
{
    const struct gradient_tiles t = tiles_place<struct gradient_tiles>(f);

    gradient_begin<PRECISION>(f, t, false);
    for (int first = 0; first < f.columns; first += FAVOR_COLUMNS) {
        projection_load(f, first, t.w);
        project(f, t.query, t.w, t.p);
        if (f.call.causal) {
            project(f, t.key, t.w, t.phi_key);
            features_map(f, t.key, first, t.phi_key, t.phi_key);
        }
        state_load(f, first, t.state);
        tile_zero(t.dphi, f.rows, FAVOR_COLUMNS);
        __syncthreads();
        tile_product<PRECISION>(f.rows, FAVOR_COLUMNS, f.width, t.slopes, t.state.transposed(),
                                t.dphi);
        gradient_columns<PRECISION>(f, t, t.query, first, t.pairs, t.phi_key);
    }
    __syncthreads();
    gradient_store(f, t, t.query, f.dq);
}

template <enum precision PRECISION>
static __global__ void REGISTERS(128) key_gradient_kernel(struct favor f)
{
    const struct gradient_tiles t = tiles_place<struct gradient_tiles>(f);
    const bool causal = f.call.causal;

    gradient_begin<PRECISION>(f, t, true);
    for (int first = 0; first < f.columns; first += FAVOR_COLUMNS) {
        projection_load(f, first, t.w);
        project(f, t.key, t.w, t.p);
        features_map(f, t.key, first, t.p, t.phi_key);
        state_load(f, first, t.state);
        tile_zero(t.dphi, f.rows, FAVOR_COLUMNS);
        __syncthreads();
        tile_product<PRECISION>(f.rows, f.width, FAVOR_COLUMNS, t.phi_key, t.state, t.dv);
        tile_product<PRECISION>(f.rows, FAVOR_COLUMNS, f.width, t.values, t.state.transposed(),
                                t.dphi);
        if (causal) {
            project(f, t.query, t.w, t.phi_query);
            features_map(f, t.query, first, t.phi_query, t.phi_query);
            tile_product<PRECISION>(f.rows, f.rows, FAVOR_COLUMNS, t.phi_query,
                                    t.phi_key.transposed(), t.scores);
        }
        gradient_columns<PRECISION>(f, t, t.key, first, t.pairs.transposed(), t.phi_query);
    }
    rows_scale(f, t.dv, f.width, t.weight);
    if (causal) {
        pairs_weigh(f, t.key.shift, t.scores);
        tile_product<PRECISION>(f.rows, f.width, f.rows, t.scores.transposed(), t.slopes, t.dv);
    }
    __syncthreads();
    rows_store(favor_chunk(f), t.dv, 1, (int)f.call.value_dim,
               rows_of_head(f.dv, f.call.heads, blockIdx.y));
    gradient_store(f, t, t.key, f.dk);
}

/* ---- calls ---- */

static int64_t rows_of(const struct attention *call)
{
    return call->batch * call->heads * call->length;
}

/* Shifts of queries and keys, and inverse denominators. */
size_t favor_saved_floats(const struct attention *call)
{
    return 3 * (size_t)rows_of(call);
}

static struct favor favor_of(const struct attention *call)
{
    struct favor f = {};
    const bool pairs =
        call->kernel == KERNEL_SOFTMAX_HYPERBOLIC || call->kernel == KERNEL_SOFTMAX_TRIG;
    const bool trig = call->kernel == KERNEL_SOFTMAX_TRIG, elu1 = call->kernel == KERNEL_ELU1;
    f.call = *call;
    f.projections = (int)(elu1 ? call->head_dim : call->features);
    f.columns = (pairs ? 2 : 1) * f.projections;
    f.dim = tile_round_up(call->head_dim);
    f.width = tile_round_up(call->value_dim + 1);
    f.scale = elu1 ? 1.0f : powf((float)call->head_dim, -0.25f);
    f.norm = 1.0f / sqrtf((float)(trig ? f.projections : f.columns));
    return f;
}

bool favor_fits(const struct attention *call)
{
    return chunk_rows<struct gradient_tiles>(favor_of(call)) > 0;
}

static struct favor favor_place(const struct attention *call, struct arena *arena)
{
    struct favor f = favor_of(call);
    f.rows = chunk_rows<struct gradient_tiles>(f);
    f.chunks = ceiling(call->length, f.rows);

    const int64_t rows = rows_of(call);
    float *own = (float *)arena_take(arena, 3 * (size_t)rows * sizeof(float));
    float *kept = call->saved ? call->saved : own;
    f.query_shift = kept;
    f.key_shift = kept ? kept + rows : NULL;
    f.inverse = kept ? kept + 2 * rows : NULL;
    f.states = (float *)arena_take(
        arena, (size_t)(call->batch * call->heads * f.chunks * f.state_floats()) * sizeof(float));
    return f;
}

static unsigned heads_of(const struct favor &f)
{
    return (unsigned)(f.call.batch * f.call.heads);
}

template <typename Tiles, typename Kernel, typename... Arguments>
static enum status launch_favor(Kernel kernel, const struct favor &f, Arguments... arguments)
{
    return launch_chunks<Tiles>(kernel, f.chunks, heads_of(f), f, arguments...);
}

static enum status states_make(const struct favor &f, bool keys)
{
    const enum status status =
        f.call.precision == PRECISION_BF16
            ? launch_favor<struct state_tiles>(states_kernel<PRECISION_BF16>, f, keys)
            : launch_favor<struct state_tiles>(states_kernel<PRECISION_FP32>, f, keys);
    if (status != ST_OK) return status;
    return launch(scan_kernel, dim3(blocks_for(f.state_floats()), heads_of(f)), BLOCK_THREADS, 0, f,
                  keys);
}

enum status favor_forward(const struct attention *call, struct arena *arena)
{
    const struct favor f = favor_place(call, arena);
    if (!arena->base) return ST_OK;
    enum status status = launch_favor<struct shift_tiles>(shift_kernel, f, false);
    if (status == ST_OK) status = launch_favor<struct shift_tiles>(shift_kernel, f, true);
    if (status == ST_OK)
        status = launch(running_shift_kernel, dim3(1, heads_of(f)), BLOCK_THREADS, 0, f);
    if (status == ST_OK) status = states_make(f, true);
    if (status != ST_OK) return status;
    return call->precision == PRECISION_BF16
               ? launch_favor<struct out_tiles>(out_kernel<PRECISION_BF16>, f)
               : launch_favor<struct out_tiles>(out_kernel<PRECISION_FP32>, f);
}

enum status favor_backward(const struct attention_backward *call, struct arena *arena)
{
    struct favor f = favor_place(&call->forward, arena);
    if (!arena->base) return ST_OK;
    f.dout = call->dout;
    f.dq = call->dq;
    f.dk = call->dk;
    f.dv = call->dv;
    const bool bf16 = call->forward.precision == PRECISION_BF16;
    enum status status = states_make(f, true);
    if (status == ST_OK)
        status =
            bf16 ? launch_favor<struct gradient_tiles>(query_gradient_kernel<PRECISION_BF16>, f)
                 : launch_favor<struct gradient_tiles>(query_gradient_kernel<PRECISION_FP32>, f);
    if (status == ST_OK) status = states_make(f, false);
    if (status != ST_OK) return status;
    return bf16 ? launch_favor<struct gradient_tiles>(key_gradient_kernel<PRECISION_BF16>, f)
                : launch_favor<struct gradient_tiles>(key_gradient_kernel<PRECISION_FP32>, f);
}
