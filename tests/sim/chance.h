#ifndef TESTS_SIM_CHANCE_H
#define TESTS_SIM_CHANCE_H

/* All chance of a simulated world: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), seeded by the number of the history. */

#include <stdbool.h>
#include <stdint.h>

struct chance {
    uint64_t state;
};

static inline uint64_t chance_word(struct chance *chance)
{
    uint64_t z = chance->state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

/* 0 ... count - 1 */
static inline uint64_t chance_below(struct chance *chance, uint64_t count)
{
    return (chance_word(chance) >> 16) % count;
}

/* low ... high */
static inline uint64_t chance_between(struct chance *chance, uint64_t low, uint64_t high)
{
    return low + chance_below(chance, high - low + 1);
}

/* True in `per_mille` of thousand cases. */
static inline bool chance_hits(struct chance *chance, unsigned per_mille)
{
    return chance_below(chance, 1000) < per_mille;
}

#endif
