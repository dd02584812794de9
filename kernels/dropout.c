#include "kernels/dropout.h"

#include "kernels/philox.h"

void dropout_factors(const struct dropout_key *key, int64_t row, int64_t width, float *factors)
{
    const uint32_t sequence = key->first_sequence + (uint32_t)(row / key->length);
    const int64_t first = row % key->length * ((width + 3) / 4);
    const float kept = 1.0f / (1.0f - key->rate);

    for (int64_t column = 0; column < width; column += 4) {
        const int64_t place = first + column / 4;
        const uint32_t index[3] = {key->step, sequence, (uint32_t)place};
        const uint32_t layer = key->site + (uint32_t)(place >> 32 << DROPOUT_SITE_BITS);
        const struct philox_words words = philox_draw(key->seed, PURPOSE_DROPOUT, layer, index);
        for (int64_t j = column; j < width && j < column + 4; j++)
            factors[j] = philox_uniform(words.word[j - column]) < key->rate ? 0.0f : kept;
    }
}
