/* The power is cut at any moment of a run's saves and prunes: what is not on the disk by then is lost, in any part. */

#include <criterion/criterion.h>

#include "tests/daemon/scratch.h"
#include "tests/faults/platter.h"
#include "tests/faults/small_checkpoint.h"
#include "worker/checkpoint.h"

enum { SAVES = 6, SUBSETS = 6, KEEP = 1 };

static struct scratch scratch, cut;
static struct fault fault;

/* What the run had been told was saved, once that many things had been done. */
struct acknowledgement {
    size_t length;
    uint64_t step;
};

/* Steps 10, 20, 20 once more, 30 ...: each saved, acknowledged, and those before it pruned. */
static void run(struct acknowledgement acknowledgements[SAVES])
{
    const char *directory = scratch_path(&scratch, "run/checkpoints");
    for (int i = 0; i < SAVES; i++) {
        uint64_t step = 10 + 10 * (uint64_t)(i > 1 ? i - 1 : i);
        cr_assert_eq(small_checkpoint_save(directory, step, &fault), ST_OK, "%s", fault.text);
        acknowledgements[i] = (struct acknowledgement){platter_length(), step};
        checkpoint_prune(directory, step, KEEP, (struct spared_steps){0}, NULL, NULL);
    }
}

static void expect_acknowledged(size_t length, uint64_t seed, uint64_t acknowledged)
{
    uint64_t step = 0;
    int rejected;
    enum status status =
        small_checkpoint_newest(scratch_path(&cut, "run/checkpoints"), &step, &rejected, &fault);
    cr_assert(status == ST_OK || (status == ST_NOT_FOUND && acknowledged == 0),
              "cut after %zu, seed %llu: %s", length, (unsigned long long)seed, fault.text);
    cr_assert_geq(step, acknowledged, "cut after %zu, seed %llu", length, (unsigned long long)seed);
    cr_assert_eq(rejected, 0, "cut after %zu, seed %llu: %s", length, (unsigned long long)seed,
                 fault.text);
}

Test(power, is_cut_anywhere, .timeout = 120)
{
    struct acknowledgement acknowledgements[SAVES];
    scratch = (struct scratch){"/dev/shm/performerd-test.XXXXXX"};
    cr_assert_not_null(mkdtemp(scratch.path));
    platter_record(scratch.path);
    run(acknowledgements);
    cr_assert_gt(platter_length(), 120, "%zu", platter_length());

    int next = 0;
    for (size_t length = 0; length <= platter_length(); length++) {
        while (next < SAVES && acknowledgements[next].length <= length) next++;
        for (uint64_t seed = 0; seed < SUBSETS; seed++) {
            /* nothing that is uncertain, all of it, or half */
            unsigned keeps = seed == 0 ? 0 : seed == 1 ? 256 : 128;
            cut = (struct scratch){"/dev/shm/performerd-test.XXXXXX"};
            cr_assert_not_null(mkdtemp(cut.path));
            platter_cut(length, keeps, seed, cut.path);
            expect_acknowledged(length, seed, next > 0 ? acknowledgements[next - 1].step : 0);
            scratch_remove(&cut);
        }
    }
    scratch_remove(&scratch);
}
