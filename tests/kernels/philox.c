/* The published vectors of Random123 1.14 (tests/kat_vectors,
 * philox4x32 with 10 rounds), and how draws are keyed. */

#include <criterion/criterion.h>
#include <string.h>

#include "kernels/philox.h"

Test(philox, published_vectors)
{
    static const struct {
        uint32_t counter[4], key[2], words[4];
    } vectors[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
        const struct philox_words words = philox4x32_10(vectors[i].counter, vectors[i].key);
        cr_expect_eq(memcmp(words.word, vectors[i].words, sizeof words.word), 0, "vector %zu", i);
    }
}

static bool same(struct philox_words a, struct philox_words b)
{
    return memcmp(a.word, b.word, sizeof a.word) == 0;
}

/* Every part of what a number is for counts, down to its highest bit. */
Test(philox, every_part_of_the_key_counts)
{
    const uint32_t index[3] = {5, 6, 7};
    const struct philox_words words = philox_draw(1, PURPOSE_WEIGHTS, 2, index);
    cr_expect(same(words, philox_draw(1, PURPOSE_WEIGHTS, 2, index)));
    cr_expect_not(same(words, philox_draw(2, PURPOSE_WEIGHTS, 2, index)));
    cr_expect_not(same(words, philox_draw(1 | 1ull << 63, PURPOSE_WEIGHTS, 2, index)));
    cr_expect_not(same(words, philox_draw(1, PURPOSE_DROPOUT, 2, index)));
    cr_expect_not(same(words, philox_draw(1, PURPOSE_WEIGHTS, 2 | 1u << 23, index)));
    for (int i = 0; i < 3; i++) {
        uint32_t other[3] = {5, 6, 7};
        other[i] ^= 1u << 31;
        cr_expect_not(same(words, philox_draw(1, PURPOSE_WEIGHTS, 2, other)), "word %d", i);
    }
}

/* The place of each part is part of the definition of a run's bits. */
Test(philox, draws_are_keyed_as_written)
{
    const uint32_t index[3] = {5, 6, 7}, counter[4] = {5, 6, 7, 4u << 24 | 9};
    const uint32_t key[2] = {0x89abcdef, 0x01234567};
    cr_expect(same(philox_draw(0x0123456789abcdef, PURPOSE_DROPOUT, 9, index),
                   philox4x32_10(counter, key)));
}

Test(philox, uniform_is_below_one)
{
    cr_expect_eq(philox_uniform(0), 0);
    cr_expect_eq(philox_uniform(0xff), 0);
    cr_expect_eq(philox_uniform(0x100), 0x1p-24f);
    cr_expect_eq(philox_uniform(0x80000000), 0.5f);
    cr_expect_eq(philox_uniform(0xffffffff), 1 - 0x1p-24f);
}
