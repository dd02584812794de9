/* The tree of sums: where a shard's gradient goes, and that ranks fit into it. */

#include <stdlib.h>

#include <criterion/criterion.h>

#include "worker/step.h"

enum { SHARDS_MAX = 67 };

/* A sum as a string, so that its shape can be compared: "((0+1)+2)". */
struct term {
    char text[1024];
};

static void direct(int64_t first, int64_t count, struct term *sum)
{
    if (count == 1) {
        snprintf(sum->text, sizeof sum->text, "%d", (int)first);
        return;
    }
    struct term *left = calloc(2, sizeof *left), *right = left + 1;
    direct(first, count / 2, left);
    direct(first + count / 2, count - count / 2, right);
    int length = snprintf(sum->text, sizeof sum->text, "(%s+%s)", left->text, right->text);
    cr_assert(length < (int)sizeof sum->text);
    free(left);
}

Test(step, shards_fold_into_one_binary_tree)
{
    static struct term buffers[16], joined, expected;
    for (int64_t count = 1; count <= SHARDS_MAX; count++) {
        for (int64_t i = 0; i < count; i++) {
            struct shard_place place = shard_place(i, count);
            cr_assert(place.buffer < gradient_buffers(count));
            snprintf(buffers[place.buffer].text, sizeof buffers->text, "%d", (int)i);
            for (int fold = 0; fold < place.folds; fold++) {
                struct term *into = &buffers[place.buffer - fold - 1];
                int length = snprintf(joined.text, sizeof joined.text, "(%.500s+%.500s)",
                                      into->text, (into + 1)->text);
                cr_assert(length < (int)sizeof joined.text);
                *into = joined;
            }
        }
        direct(0, count, &expected);
        cr_expect_str_eq(buffers[0].text, expected.text, "%d shards", (int)count);
    }
}

Test(step, buffers_grow_with_the_depth_of_the_tree)
{
    cr_expect(gradient_buffers(1) == 1);
    cr_expect(gradient_buffers(2) == 2);
    cr_expect(gradient_buffers(8) == 4);
    cr_expect(gradient_buffers(64) == 7);
}

/* 1, 2^-53 and -1 tell any two orders apart that are not the same tree. */
Test(step, ranks_that_are_a_power_of_two_sum_as_one)
{
    double values[24];
    for (int i = 0; i < 24; i++)
        values[i] = i % 3 == 0 ? 1.0 : i % 3 == 1 ? 0x1p-53 * (i + 1) : -1.0 + 0x1p-30 * i;
    for (int64_t count = 8; count <= 24; count += 8) {
        double one = tree_sum(values, count);
        for (int ranks = 2; ranks <= 8; ranks *= 2) {
            double by_rank[8];
            int64_t each = count / ranks;
            for (int rank = 0; rank < ranks; rank++)
                by_rank[rank] = tree_sum(values + rank * each, each);
            cr_expect(tree_sum(by_rank, ranks) == one, "%d shards, %d ranks", (int)count, ranks);
        }
    }
    double in_line = 0.0;
    for (int i = 0; i < 24; i++) in_line += values[i];
    cr_expect(in_line != tree_sum(values, 24), "these values do not tell orders apart");
}
