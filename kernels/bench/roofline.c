#include "kernels/bench/roofline.h"

#include <math.h>

#include "kernels/cuda/tiling.h"

/* NVIDIA's figures for H100 SXM5 with 80 GB: bytes/s, FLOP/s without sparsity. */
static const double BANDWIDTH = 3.35e12, PEAK_FP32 = 67e12, PEAK_BF16 = 989e12;

/* Chunks are taken to be as long as they can be, which heads of 64 let them. */
enum { CHUNK_ROWS = CHUNK_ROWS_MOST, FLOAT_BYTES = 4 };

/* The costs of a call, as they are put down. */
struct account {
    const struct attention *call;
    double rows, d, e; /* B H L */
    struct kernel_cost *costs;
    int count;
};

static void put(struct account *a, struct kernel_cost cost)
{
    a->costs[a->count++] = cost;
}

static double up(double count, double unit)
{
    return (double)(((int64_t)count + (int64_t)unit - 1) / (int64_t)unit * (int64_t)unit);
}

/* Bytes of so many floats for each position of each head. */
static double moved(const struct account *a, double floats)
{
    return a->rows * floats * FLOAT_BYTES;
}

/* ---- favor: kernels/cuda/favor.cu ---- */

static bool is_projected_for_shifts(enum attention_kernel kernel)
{
    return kernel == KERNEL_SOFTMAX_POSITIVE || kernel == KERNEL_SOFTMAX_HYPERBOLIC ||
           kernel == KERNEL_EXP;
}

static void favor_costs(struct account *a)
{
    const struct attention *call = a->call;
    const bool pairs =
        call->kernel == KERNEL_SOFTMAX_HYPERBOLIC || call->kernel == KERNEL_SOFTMAX_TRIG;
    const double projections =
        (double)(call->kernel == KERNEL_ELU1 ? call->head_dim : call->features);
    const double n = up(pairs ? 2 * projections : projections, FAVOR_COLUMNS);
    const double width = up(a->e + 1, TILE_UNIT), dim = up(a->d, TILE_UNIT), C = CHUNK_ROWS;
    const double project = 2 * a->rows * n * dim, causal = call->causal, sides = 1 + causal;
    const double chunks = up((double)call->length, C) / C * a->rows / (double)call->length;
    const double states = chunks * n * width * FLOAT_BYTES, product = 2 * a->rows;
    const double shifts = is_projected_for_shifts(call->kernel) ? 2 * project : 0;

    put(a,
        (struct kernel_cost){"shifts of queries and keys", false, shifts, 0, moved(a, 2 * a->d)});
    for (int backward = 0; backward <= 1; backward++) {
        put(a, (struct kernel_cost){"states of keys", backward, project, product * n * width,
                                    moved(a, a->d + a->e) + states});
        put(a, (struct kernel_cost){"scan", backward, 2 * states / FLOAT_BYTES, 0, 2 * states});
        if (!backward)
            put(a, (struct kernel_cost){"out", false, sides * project,
                                        product * (n * width + causal * C * (n + width)),
                                        moved(a, sides * a->d + (1 + causal) * a->e) + states});
    }
    put(a, (struct kernel_cost){"dq", true, sides * project,
                                product * (C * width + n * width + causal * C * n + n * dim),
                                moved(a, 3 * a->d + 3 * a->e) + states});
    put(a, (struct kernel_cost){"states of queries", true, project, product * n * width,
                                moved(a, a->d + 2 * a->e) + states});
    put(a, (struct kernel_cost){"scan", true, 2 * states / FLOAT_BYTES, 0, 2 * states});
    put(a, (struct kernel_cost){
               "dk and dv", true, sides * project,
               product * (C * width + 2 * n * width + causal * (2 * C * n + C * width) + n * dim),
               moved(a, 3 * a->d + 4 * a->e) + states});
}

/* ---- softmax: kernels/cuda/softmax_tiles.cuh ---- */

static void softmax_costs(struct account *a)
{
    const double length = (double)a->call->length, d = a->d, e = a->e;
    const double pairs = a->rows * (a->call->causal ? (length + CHUNK_ROWS) / 2 : length);
    put(a, (struct kernel_cost){"out", false, 0, 2 * pairs * (d + e), moved(a, 2 * d + 2 * e)});
    put(a, (struct kernel_cost){"dq", true, 0, 2 * pairs * (2 * d + e), moved(a, 3 * d + 3 * e)});
    put(a, (struct kernel_cost){"dk and dv", true, 0, 2 * pairs * (2 * d + 2 * e),
                                moved(a, 3 * d + 4 * e)});
}

/* ---- linformer: kernels/cuda/linformer.cu ---- */

static void linformer_costs(struct account *a)
{
    const double length = (double)a->call->length, rank = (double)a->call->rank;
    const double d = a->d, e = a->e, pairs = a->rows * rank;
    const double compressed = a->rows / length * rank * (d + e) * FLOAT_BYTES; /* K and V */
    const double least = ceil(length / SLICE_POSITIONS_LEAST);
    const double partial = (least < SLICES_MOST ? least : SLICES_MOST) * compressed;
    const double matrices = 2 * rank * length * FLOAT_BYTES;

    put(a, (struct kernel_cost){"K and V", false, 0, 2 * pairs * (d + e),
                                moved(a, d + e) + matrices + partial});
    put(a, (struct kernel_cost){"their slices", false, 0, 0, partial + compressed});
    put(a,
        (struct kernel_cost){"out", false, 0, 2 * pairs * (d + e), moved(a, d + e) + compressed});
    put(a, (struct kernel_cost){"dq", true, 0, 2 * pairs * (2 * d + e),
                                moved(a, 2 * d + 2 * e) + compressed});
    put(a, (struct kernel_cost){"dK and dV", true, 0, 2 * pairs * (2 * d + 2 * e),
                                moved(a, d + 2 * e) + compressed + partial});
    put(a, (struct kernel_cost){"their slices", true, 0, 0, partial + compressed});
    put(a, (struct kernel_cost){"dk and dv", true, 0, 2 * pairs * (d + e),
                                moved(a, d + e) + matrices + compressed});
}

/* ---- reformer: kernels/cuda/reformer.cu ---- */

/* Tiles of C queries and C keys in a bucket of `size`. The backward pass has as many, seen from the keys. */
static double bucket_tiles(const struct attention *call, int64_t size)
{
    const int64_t chunk = call->chunk;
    const int64_t ranks = chunk < CHUNK_ROWS ? CHUNK_ROWS / chunk * chunk : CHUNK_ROWS;
    double tiles = 0;
    for (int64_t first = 0; first < size; first += ranks) {
        const int64_t last = (first + ranks < size ? first + ranks : size) - 1;
        const int64_t before = (first / chunk - 1) * chunk;
        int64_t behind = call->causal ? last + 1 : (last / chunk + 1) * chunk;
        if (behind > size) behind = size;
        tiles += up((double)(behind - (before > 0 ? before : 0)), CHUNK_ROWS) / CHUNK_ROWS;
    }
    return tiles;
}

/* As if all buckets were of one size. */
static void reformer_costs(struct account *a)
{
    const struct attention *call = a->call;
    const double rounds = (double)call->rounds, buckets = (double)call->buckets;
    const double d = a->d, e = a->e, dim = up(d, TILE_UNIT), width = up(e, TILE_UNIT);
    const int64_t size = (call->length + call->buckets - 1) / call->buckets;
    const double heads = a->rows / (double)call->length;
    const double pairs =
        heads * rounds * buckets * bucket_tiles(call, size) * CHUNK_ROWS * CHUNK_ROWS;

    for (int backward = 0; backward <= 1; backward++)
        put(a, (struct kernel_cost){"buckets and order", backward,
                                    2 * 2 * a->rows * rounds * d * buckets / 2, 0,
                                    moved(a, d + 5 * rounds)});
    put(a, (struct kernel_cost){"out of each round", false, 0, 2 * pairs * (dim + width),
                                moved(a, rounds * (2 * d + 2 * e))});
    put(a, (struct kernel_cost){"rounds together", false, 0, 0, moved(a, (rounds + 1) * e)});
    put(a, (struct kernel_cost){"dq of each round", true, 0, 2 * pairs * (2 * dim + width),
                                moved(a, rounds * (3 * d + 3 * e))});
    put(a,
        (struct kernel_cost){"dk and dv of each round", true, 0, 2 * pairs * (2 * dim + 2 * width),
                             moved(a, rounds * (3 * d + 4 * e))});
    put(a, (struct kernel_cost){"rounds together", true, 0, 0,
                                moved(a, (2 * rounds + 2) * d + (rounds + 1) * e)});
}

int kernel_costs(const struct attention *call, struct kernel_cost costs[KERNEL_COSTS_MAX])
{
    struct account a = {
        .call = call,
        .rows = (double)(call->batch * call->heads * call->length),
        .d = (double)call->head_dim,
        .e = (double)call->value_dim,
        .costs = costs,
    };
    switch (call->kind) {
    case ATTENTION_FAVOR:
        favor_costs(&a);
        break;
    case ATTENTION_SOFTMAX:
        softmax_costs(&a);
        break;
    case ATTENTION_LINFORMER:
        linformer_costs(&a);
        break;
    case ATTENTION_REFORMER:
        reformer_costs(&a);
        break;
    case ATTENTION_IDENTITY:
        put(&a, (struct kernel_cost){"out", false, 0, 0, moved(&a, 2 * a.e)});
        put(&a, (struct kernel_cost){"dq, dk and dv", true, 0, 0, moved(&a, 2 * a.d + 2 * a.e)});
        break;
    }
    return a.count;
}

double roofline_seconds(const struct kernel_cost *cost, enum precision precision)
{
    const double peak = precision == PRECISION_BF16 ? PEAK_BF16 : PEAK_FP32;
    const double computing = cost->flops_fp32 / PEAK_FP32 + cost->flops / peak;
    const double moving = cost->bytes / BANDWIDTH;
    return computing > moving ? computing : moving;
}
