/* Each word of the device language that the shim has, against what a scalar loop says, in every order of threads. */

#include <criterion/criterion.h>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/bf16.h"
#include "ptx_twins.h"
#include "tests/cudashim/cudashim.h"

/* An odd number of threads, so that the last warp is not whole. */
enum { BLOCKS = 3, THREADS = 75, LANES = 32 };
static const unsigned WHOLE = 0xffffffffu;

/* Runs it on the given threads and waits; the device's own status. */
template <typename... Parameters, typename... Arguments>
static cudaError_t run(dim3 grid, dim3 block, size_t shared_bytes, void (*kernel)(Parameters...),
                       Arguments... arguments)
{
    cudaStream_t stream;
    cr_assert_eq(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    cudaLaunchConfig_t config = {grid, block, shared_bytes, stream, nullptr, 0};
    cudaError_t error = cudaLaunchKernelEx(&config, kernel, arguments...);
    if (error == cudaSuccess) error = cudaStreamSynchronize(stream);
    cudaStreamDestroy(stream);
    return error;
}

/* Calls `hold` in every order of threads. */
static void in_every_order(void (*hold)())
{
    cudashim_order(CUDASHIM_FORWARD, 0);
    hold();
    cudashim_order(CUDASHIM_REVERSE, 0);
    hold();
    for (uint64_t seed = 1; seed <= 5; seed++) {
        cudashim_order(CUDASHIM_SEEDED, seed);
        hold();
    }
}

/* ---- where a thread is ---- */

static __global__ void place_kernel(unsigned *out)
{
    const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    const unsigned count = blockDim.x * blockDim.y * blockDim.z;
    out[block * count + thread] = block * 1000 + thread;
}

static void place_holds()
{
    std::vector<unsigned> out(2 * 3 * 4 * 5 * 6 * 7, ~0u);
    cr_assert_eq(run(dim3(2, 3, 4), dim3(5, 6, 7), 0, place_kernel, out.data()), cudaSuccess);
    for (unsigned i = 0; i < out.size(); i++) cr_expect_eq(out[i], i / 210 * 1000 + i % 210);
}

Test(intrinsics, threadIdx_and_the_like)
{
    in_every_order(place_holds);
}

/* ---- barriers ---- */

static __global__ void reverse_kernel(const int *in, int *out)
{
    int *kept = static_cast<int *>(cudashim::dynamic_shared());
    const unsigned i = threadIdx.x, first = blockIdx.x * blockDim.x;
    for (int round = 0; round < 3; round++) {
        kept[i] = in[first + i] + round;
        __syncthreads();
        out[first + i] = kept[blockDim.x - 1 - i];
        __syncthreads();
    }
}

static void syncthreads_holds()
{
    std::vector<int> in(BLOCKS * THREADS), out(in.size());
    for (size_t i = 0; i < in.size(); i++) in[i] = (int)(i * i);
    cr_assert_eq(run(BLOCKS, THREADS, THREADS * sizeof(int), reverse_kernel, in.data(), out.data()),
                 cudaSuccess);
    for (size_t i = 0; i < in.size(); i++) {
        const size_t block = i / THREADS;
        cr_expect_eq(out[i], in[block * THREADS + THREADS - 1 - i % THREADS] + 2);
    }
}

Test(intrinsics, syncthreads)
{
    in_every_order(syncthreads_holds);
}

/* One thread ends early, and is missed by nobody. */
static __global__ void vote_block_kernel(const int *predicates, int *out)
{
    if (threadIdx.x == THREADS - 1) return;
    const int p = predicates[threadIdx.x];
    out[0 * THREADS + threadIdx.x] = __syncthreads_count(p);
    out[1 * THREADS + threadIdx.x] = __syncthreads_and(p);
    out[2 * THREADS + threadIdx.x] = __syncthreads_or(p);
}

static void vote_block_holds()
{
    for (int ones = 0; ones < THREADS; ones += 37) {
        int predicates[THREADS], out[3 * THREADS];
        for (int i = 0; i < THREADS; i++) predicates[i] = i < ones ? i + 1 : 0;
        cr_assert_eq(run(1, THREADS, 0, vote_block_kernel, predicates, out), cudaSuccess);
        for (int i = 0; i < THREADS - 1; i++) {
            cr_expect_eq(out[i], ones);
            cr_expect_eq(out[THREADS + i], ones == THREADS - 1);
            cr_expect_eq(out[2 * THREADS + i], ones > 0);
        }
    }
}

Test(intrinsics, syncthreads_count_and_or)
{
    in_every_order(vote_block_holds);
}

static __global__ void syncwarp_kernel(int *out)
{
    int *kept = static_cast<int *>(cudashim::dynamic_shared());
    kept[threadIdx.x] = (int)threadIdx.x;
    __syncwarp();
    out[threadIdx.x] = kept[threadIdx.x ^ 1];
}

static void syncwarp_holds()
{
    int out[2 * LANES];
    cr_assert_eq(run(1, 2 * LANES, sizeof out, syncwarp_kernel, out), cudaSuccess);
    for (int i = 0; i < 2 * LANES; i++) cr_expect_eq(out[i], i ^ 1);
}

Test(intrinsics, syncwarp)
{
    in_every_order(syncwarp_holds);
}

/* ---- shuffles and votes ---- */

enum { SHUFFLES = 4 };

static __global__ void shuffle_kernel(int argument, int width, double *out)
{
    const double mine = 100.0 + threadIdx.x;
    double *row = out + SHUFFLES * threadIdx.x;
    row[0] = __shfl_sync(WHOLE, mine, argument, width);
    row[1] = __shfl_up_sync(WHOLE, mine, (unsigned)argument, width);
    row[2] = __shfl_down_sync(WHOLE, mine, (unsigned)argument, width);
    row[3] = __shfl_xor_sync(WHOLE, mine, argument, width);
}

/* The programming guide's words: lane `lane` of its segment takes from `from` if that is in the segment. */
static double taken(int thread, int from, int width)
{
    return 100.0 + (from >= 0 && from < width ? thread / width * width + from : thread);
}

static void shuffle_holds()
{
    for (int width = 4; width <= LANES; width *= 2) {
        for (int argument = 0; argument < LANES; argument++) {
            double out[2 * LANES * SHUFFLES];
            cr_assert_eq(run(1, 2 * LANES, 0, shuffle_kernel, argument, width, out), cudaSuccess);
            for (int i = 0; i < 2 * LANES; i++) {
                const int lane = i % width, crossed = (i % LANES) ^ argument;
                cr_expect_eq(out[i * SHUFFLES], taken(i, argument % width, width));
                cr_expect_eq(out[i * SHUFFLES + 1], taken(i, lane - argument, width));
                cr_expect_eq(out[i * SHUFFLES + 2], taken(i, lane + argument, width));
                /* An earlier segment may be read from, a later one not. */
                const bool later = crossed / width > i % LANES / width;
                cr_expect_eq(out[i * SHUFFLES + 3],
                             100.0 + (later ? i : i / LANES * LANES + crossed));
            }
        }
    }
}

Test(intrinsics, shfl_sync_up_down_xor)
{
    in_every_order(shuffle_holds);
}

static __global__ void absent_kernel(float *out)
{
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_down_sync(0xffffu, 1.0f, 8);
}

Test(intrinsics, a_shuffle_from_a_lane_that_is_not_there_is_no_number)
{
    float out[16];
    cr_assert_eq(run(1, LANES, 0, absent_kernel, out), cudaSuccess);
    for (int i = 0; i < 16; i++) cr_expect_eq(std::isnan(out[i]), i >= 8, "lane %d", i);
}

static __global__ void vote_warp_kernel(unsigned votes, unsigned *out)
{
    const unsigned lane = threadIdx.x % LANES;
    const int p = (int)(votes >> lane & 1);
    out[threadIdx.x] = __ballot_sync(WHOLE, p);
    out[2 * LANES + threadIdx.x] = (unsigned)__any_sync(WHOLE, p);
    out[4 * LANES + threadIdx.x] = (unsigned)__all_sync(WHOLE, p);
}

static void vote_warp_holds()
{
    for (unsigned votes : {0u, 1u, 0x80000000u, 0xdeadbeefu, WHOLE}) {
        unsigned out[6 * LANES];
        cr_assert_eq(run(1, 2 * LANES, 0, vote_warp_kernel, votes, out), cudaSuccess);
        for (int i = 0; i < 2 * LANES; i++) {
            cr_expect_eq(out[i], votes);
            cr_expect_eq(out[2 * LANES + i], votes != 0);
            cr_expect_eq(out[4 * LANES + i], votes == WHOLE);
        }
    }
}

Test(intrinsics, ballot_any_all_sync)
{
    in_every_order(vote_warp_holds);
}

/* ---- the matrix product, and what it reads ---- */

static __global__ void mma_kernel(const uint32_t *a, const uint32_t *b, const float *c, float *d)
{
    const unsigned i = threadIdx.x;
    cudashim::mma_m16n8k16_bf16(d + 4 * i, a + 4 * i, b + 2 * i, c + 4 * i);
}

static uint32_t pair_of(float low, float high)
{
    return (uint32_t)bf16_of(high) << 16 | bf16_of(low);
}

/*
 * Small whole numbers, so that sums are exact. Registers are filled from the ISA's formulas, as printed there: for a,
 * row = groupID for a0 a1 a4 a5, else groupID + 8; col = threadID_in_group * 2 + (i & 1), + 8 for i >= 4.
 */
static void mma_holds()
{
    int a[16][16], b[16][8], c[16][8];
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++) a[i][j] = (i * 7 + j * 5) % 17 - 8;
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) b[i][j] = (i * 3 + j * 11) % 13 - 6, c[i][j] = i * 100 + j;

    uint32_t a_registers[LANES][4], b_registers[LANES][2];
    float c_registers[LANES][4], d[LANES][4];
    for (int lane = 0; lane < LANES; lane++) {
        const int group = lane >> 2, member = lane & 3;
        float values[8];
        for (int i = 0; i < 8; i++) {
            const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
            values[i] = (float)a[row][member * 2 + (i & 1) + (i >= 4 ? 8 : 0)];
        }
        for (int i = 0; i < 4; i++)
            a_registers[lane][i] = pair_of(values[2 * i], values[2 * i + 1]);
        for (int i = 0; i < 4; i++)
            values[i] = (float)b[member * 2 + (i & 1) + (i >= 2 ? 8 : 0)][group];
        for (int i = 0; i < 2; i++)
            b_registers[lane][i] = pair_of(values[2 * i], values[2 * i + 1]);
        for (int i = 0; i < 4; i++)
            c_registers[lane][i] = (float)c[i < 2 ? group : group + 8][member * 2 + (i & 1)];
    }
    cr_assert_eq(run(1, LANES, 0, mma_kernel, a_registers[0], b_registers[0], c_registers[0], d[0]),
                 cudaSuccess);
    for (int lane = 0; lane < LANES; lane++) {
        for (int i = 0; i < 4; i++) {
            const int row = i < 2 ? lane >> 2 : (lane >> 2) + 8, column = (lane & 3) * 2 + (i & 1);
            int expected = c[row][column];
            for (int k = 0; k < 16; k++) expected += a[row][k] * b[k][column];
            cr_expect_eq(d[lane][i], (float)expected, "row %d column %d", row, column);
        }
    }
}

Test(intrinsics, mma_m16n8k16_bf16)
{
    in_every_order(mma_holds);
}

Test(intrinsics, bf16_pair)
{
    const struct {
        float value;
        uint16_t bits;
    } table[] = {
        {1.0f, 0x3f80},        {-2.0f, 0xc000},       {1.00390625f, 0x3f80}, /* ties to even */
        {1.01171875f, 0x3f82}, {1.00390637f, 0x3f81}, {3.4e38f, 0x7f80},
        {0x1p-133f, 0x0001},   {0x1p-134f, 0x0000},   {INFINITY, 0x7f80},
    };
    for (const auto &row : table) {
        cr_expect_eq(cudashim::bf16_pair(row.value, 0), row.bits, "%g", (double)row.value);
        cr_expect_eq(cudashim::bf16_pair(0, row.value), (uint32_t)row.bits << 16);
    }
    cr_expect(std::isnan(bf16_float((bf16)cudashim::bf16_pair(NAN, 0))));
}

/* ---- the rest ---- */

Test(intrinsics, umulhi_popc_and_rsqrtf)
{
    cr_expect(__popc(0) == 0 && __popc(0x80000001u) == 2 && __popc(0xffffffffu) == 32);
    for (unsigned a : {0u, 1u, 0x10000u, 0xffffffffu})
        for (unsigned b : {0u, 3u, 0x10000u, 0xffffffffu})
            cr_expect_eq(__umulhi(a, b), (unsigned)((unsigned __int128)a * b >> 32));
    for (float x : {1e-30f, 0.25f, 2.0f, 1e30f})
        cr_expect(std::fabs(rsqrtf(x) * std::sqrt((double)x) - 1) < 2e-7);
}

static __global__ void stale_kernel(float *out)
{
    float *kept = static_cast<float *>(cudashim::dynamic_shared());
    out[blockIdx.x] = kept[0];
    kept[0] = 1;
}

Test(intrinsics, shared_memory_is_no_number_at_first)
{
    float out[2] = {0, 0};
    cr_assert_eq(run(2, 1, sizeof(float), stale_kernel, out), cudaSuccess);
    cr_expect(std::isnan(out[0]) && std::isnan(out[1]));
}
