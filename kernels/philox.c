#include "kernels/philox.h"

#include <assert.h>

/* Constants of the paper's table 2 and its Weyl key
 * schedule (golden ratio, square root of 3 less 1). */
enum { ROUNDS = 10 };
static const uint32_t MULTIPLIER[2] = {0xD2511F53, 0xCD9E8D57};
static const uint32_t WEYL[2] = {0x9E3779B9, 0xBB67AE85};

struct philox_words philox4x32_10(const uint32_t counter[4], const uint32_t key[2])
{
    struct philox_words x = {{counter[0], counter[1], counter[2], counter[3]}};
    uint32_t k0 = key[0], k1 = key[1];

    for (int round = 0; round < ROUNDS; round++, k0 += WEYL[0], k1 += WEYL[1]) {
        uint64_t product0 = (uint64_t)MULTIPLIER[0] * x.word[0];
        uint64_t product1 = (uint64_t)MULTIPLIER[1] * x.word[2];
        x = (struct philox_words){{
            (uint32_t)(product1 >> 32) ^ x.word[1] ^ k0,
            (uint32_t)product1,
            (uint32_t)(product0 >> 32) ^ x.word[3] ^ k1,
            (uint32_t)product0,
        }};
    }
    return x;
}

struct philox_words philox_draw(uint64_t seed, enum purpose purpose, uint32_t layer,
                                const uint32_t index[3])
{
    assert(layer < 1u << 24);
    const uint32_t counter[4] = {index[0], index[1], index[2], (uint32_t)purpose << 24 | layer};
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    return philox4x32_10(counter, key);
}

float philox_uniform(uint32_t word)
{
    return (float)(word >> 8) * 0x1p-24f;
}
