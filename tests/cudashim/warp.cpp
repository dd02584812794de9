#include "tests/cudashim/warp.h"

#include <cmath>

#include "cuda_runtime.h"
#include "kernels/bf16.h"
#include "ptx_twins.h"

namespace cudashim
{
/* ---- shuffles ---- */

/* A NaN as a float in either half, and as a double. */
static const uint64_t ABSENT = 0x7ff7dead7fdeadffu;

/* The lane whose value `lane` gets; its own where the source is outside its segment of `width`. */
static int source_lane(Shuffle kind, int lane, int argument, int width)
{
    const int first = lane / width * width, last = first + width - 1;
    int source = lane;
    switch (kind) {
    case Shuffle::Index:
        return first + (argument & (width - 1));
    case Shuffle::Up:
        source = lane - argument;
        return source < first ? lane : source;
    case Shuffle::Down:
        source = lane + argument;
        break;
    case Shuffle::Xor:
        source = lane ^ argument;
        break;
    }
    return source > last ? lane : source;
}

template <Shuffle KIND> static void shuffle_lanes(Lane *const lanes[WARP_LANES])
{
    for (int i = 0; i < WARP_LANES; i++) {
        if (!lanes[i]) continue;
        const auto &brought = lanes[i]->brought.shuffle;
        const Lane *source = lanes[source_lane(KIND, i, brought.argument, brought.width)];
        lanes[i]->taken.bits = source ? source->brought.shuffle.bits : ABSENT;
    }
}

static Collective shuffle_collective(Shuffle kind)
{
    switch (kind) {
    case Shuffle::Index:
        return shuffle_lanes<Shuffle::Index>;
    case Shuffle::Up:
        return shuffle_lanes<Shuffle::Up>;
    case Shuffle::Down:
        return shuffle_lanes<Shuffle::Down>;
    case Shuffle::Xor:
        return shuffle_lanes<Shuffle::Xor>;
    }
    return nullptr;
}

uint64_t warp_shuffle(unsigned mask, Shuffle kind, uint64_t bits, int argument, int width)
{
    Lane *lane = lane_current();
    lane->brought.shuffle = {bits, argument, width};
    lanes_meet(mask, shuffle_collective(kind));
    return lane->taken.bits;
}

/* ---- votes ---- */

static void ballot(Lane *const lanes[WARP_LANES])
{
    uint64_t votes = 0;
    for (int i = 0; i < WARP_LANES; i++)
        if (lanes[i] && lanes[i]->brought.predicate) votes |= 1u << i;
    for (int i = 0; i < WARP_LANES; i++)
        if (lanes[i]) lanes[i]->taken.bits = votes;
}

static void all(Lane *const lanes[WARP_LANES])
{
    bool agreed = true;
    for (int i = 0; i < WARP_LANES; i++)
        if (lanes[i]) agreed = agreed && lanes[i]->brought.predicate;
    for (int i = 0; i < WARP_LANES; i++)
        if (lanes[i]) lanes[i]->taken.bits = agreed;
}

unsigned warp_vote(unsigned mask, Vote vote, int predicate)
{
    Lane *lane = lane_current();
    lane->brought.predicate = predicate != 0;
    lanes_meet(mask, vote == Vote::And ? all : ballot);
    const unsigned votes = (unsigned)lane->taken.bits;
    return vote == Vote::Or ? votes != 0 : votes;
}

/* ---- the matrix product of a warp ---- */

static float half_of(uint32_t pair, int upper)
{
    return bf16_float((bf16)(upper ? pair >> 16 : pair));
}

struct Fragments {
    float a[16][16], b[16][8], c[16][8];
};

/* Lane 4 g + t holds columns 2 t and 2 t + 1 of rows g and g + 8 of a and c, and column g of b. */
static void fragments_gather(Lane *const lanes[WARP_LANES], Fragments *all)
{
    for (float *x = all->a[0]; x < all->c[0] + 16 * 8; x++)
        *x = NAN; /* of lanes that are not there */
    for (int i = 0; i < WARP_LANES; i++) {
        if (!lanes[i]) continue;
        const auto &brought = lanes[i]->brought.mma;
        const int g = i / 4, t = i % 4 * 2;
        for (int half = 0; half < 2; half++) {
            for (int part = 0; part < 4; part++)
                all->a[g + part % 2 * 8][t + part / 2 * 8 + half] = half_of(brought.a[part], half);
            for (int part = 0; part < 2; part++)
                all->b[t + part * 8 + half][g] = half_of(brought.b[part], half);
            for (int part = 0; part < 2; part++)
                all->c[g + part * 8][t + half] = brought.c[part * 2 + half];
        }
    }
}

static void mma_lanes(Lane *const lanes[WARP_LANES])
{
    Fragments all;
    fragments_gather(lanes, &all);
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++)
            for (int j = 0; j < 8; j++) all.c[i][j] += all.a[i][k] * all.b[k][j];
    for (int i = 0; i < WARP_LANES; i++)
        for (int part = 0; part < 4 && lanes[i]; part++)
            lanes[i]->taken.d[part] = all.c[i / 4 + part / 2 * 8][i % 4 * 2 + part % 2];
}

void mma_m16n8k16_bf16(float d[4], const uint32_t a[4], const uint32_t b[2], const float c[4])
{
    Lane *lane = lane_current();
    for (int i = 0; i < 4; i++) lane->brought.mma.a[i] = a[i];
    for (int i = 0; i < 2; i++) lane->brought.mma.b[i] = b[i];
    for (int i = 0; i < 4; i++) lane->brought.mma.c[i] = c[i];
    lanes_meet(0xffffffffu, mma_lanes);
    for (int i = 0; i < 4; i++) d[i] = lane->taken.d[i];
}

uint32_t bf16_pair(float low, float high)
{
    return (uint32_t)bf16_of(high) << 16 | bf16_of(low);
}
} // namespace cudashim
