#ifndef CUDASHIM_WARP_H
#define CUDASHIM_WARP_H

/* Collectives of a warp: each lane brings something, the last to come computes for all, each takes something. */

#include <stdint.h>

namespace cudashim
{
enum { WARP_LANES = 32 };

struct Lane {
    union {
        struct {
            uint64_t bits;
            int argument, width;
        } shuffle;
        bool predicate;
        struct {
            uint32_t a[4], b[2];
            float c[4];
        } mma;
    } brought;
    union {
        uint64_t bits;
        float d[4];
    } taken;
};

/* Null where a lane takes no part. */
typedef void (*Collective)(Lane *const lanes[WARP_LANES]);

/* Of the thread that runs. */
Lane *lane_current();

/* Returns when all lanes of the mask that have not ended have come, and `collective`, unless null, has run. */
void lanes_meet(unsigned mask, Collective collective);
} // namespace cudashim

#endif
