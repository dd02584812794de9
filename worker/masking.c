#include "worker/masking.h"

#include "kernels/philox.h"

#define CHOSEN_SHARE 0.15f
#define MASK_SHARE   0.8f
#define RANDOM_SHARE 0.1f

void masking_apply(const struct masking *masking, uint32_t sequence, int64_t length, int32_t *ids,
                   int32_t *targets)
{
    for (int64_t l = 0; l < length; l++) {
        targets[l] = -1;
        if (ids[l] >= masking->vocab) continue;
        const uint32_t index[3] = {masking->step, sequence, (uint32_t)l};
        struct philox_words words = philox_draw(masking->seed, PURPOSE_MASKING, 0, index);
        if (philox_uniform(words.word[0]) >= CHOSEN_SHARE) continue;
        targets[l] = ids[l];
        float what = philox_uniform(words.word[1]);
        if (what < MASK_SHARE)
            ids[l] = masking->mask;
        else if (what < MASK_SHARE + RANDOM_SHARE)
            ids[l] = (int32_t)((uint64_t)words.word[2] * (uint64_t)masking->vocab >> 32);
    }
}
