/* Saves beside the steps: what was there at the start is what is saved, and what became of it is told once. */

#include <fcntl.h>
#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include "worker/saver.h"

enum { VALUES = 1000 };

static char base[64], directory[128], fence[128];
static float weights[VALUES], moments[2 * VALUES];
static const struct tensor_entry model = {"w", TENSOR_F32, 1, {VALUES}, sizeof weights, weights};
static const struct tensor_entry optimizer = {"m",          TENSOR_F32,     1,
                                              {2 * VALUES}, sizeof moments, moments};
static struct uplink *uplink;
static const struct save_marks no_marks;
static struct saver *saver;
static struct checkpoint_state state;
static struct fault fault;

static void fill(float value)
{
    for (int i = 0; i < VALUES; i++) weights[i] = value;
    for (int i = 0; i < 2 * VALUES; i++) moments[i] = -value;
}

static void setup(void)
{
    strcpy(base, "/tmp/saver-XXXXXX");
    cr_assert(mkdtemp(base));
    snprintf(directory, sizeof directory, "%s/checkpoints", base);
    snprintf(fence, sizeof fence, "%s/fence", base);
    cr_assert_eq(uplink_open_file(base, 1, &uplink, &fault), ST_OK);
    const struct saver_setup with = {.directory = directory,
                                     .fence = fence,
                                     .nonce = "mine",
                                     .keep = 2,
                                     .tensors = {&model, &optimizer, 1, 1, NULL},
                                     .uplink = uplink};
    cr_assert_eq(saver_open(&with, &saver, &fault), ST_OK, "%s", fault.text);
    state = (struct checkpoint_state){.step = 10, .best_valid_loss = NAN};
}

static int entry_remove(const char *path, const struct stat *about, int kind, struct FTW *place)
{
    (void)about, (void)kind, (void)place;
    return remove(path);
}

static void teardown(void)
{
    saver_close(saver);
    uplink_close(uplink, 0, &fault);
    nftw(base, entry_remove, 8, FTW_DEPTH | FTW_PHYS);
}

TestSuite(saver, .init = setup, .fini = teardown, .timeout = 30);

static void write_nonce(const char *nonce)
{
    int file = open(fence, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    cr_assert(file >= 0);
    cr_assert_eq(write(file, nonce, strlen(nonce)), (ssize_t)strlen(nonce));
    close(file);
}

static enum status save(uint64_t step, double valid_loss)
{
    state.step = step;
    saver_start(saver, &state, valid_loss, &no_marks);
    return saver_finish(saver, true, &state, &fault);
}

static void expect_saved(uint64_t step, float value)
{
    struct checkpoint *saved;
    float read[2 * VALUES];
    cr_assert_eq(checkpoint_open(directory, step, &saved, &fault), ST_OK, "%s", fault.text);
    memcpy(read, safetensors_find(saved->model, "w")->data, sizeof weights);
    for (int i = 0; i < VALUES; i++) cr_assert_eq(read[i], value);
    memcpy(read, safetensors_find(saved->optimizer, "m")->data, sizeof moments);
    for (int i = 0; i < 2 * VALUES; i++) cr_assert_eq(read[i], -value);
    checkpoint_close(saved);
}

/* The fence is a pipe: whoever reads it, as the last thing before the rename, waits until somebody writes. */
Test(saver, steps_go_on_while_a_save_is_under_way)
{
    cr_assert_eq(mkfifo(fence, 0600), 0);
    fill(1);
    saver_start(saver, &state, 0.5, &no_marks);
    fill(2);
    state.step = 11;
    cr_expect_eq(saver_finish(saver, false, &state, &fault), ST_OK);
    cr_expect(isnan(state.best_valid_loss), "the best before it is saved");
    cr_expect_neq(checkpoint_open(directory, 10, &(struct checkpoint *){NULL}, &fault), ST_OK);

    write_nonce("mine");
    cr_assert_eq(saver_finish(saver, true, &state, &fault), ST_OK, "%s", fault.text);
    expect_saved(10, 1);
    cr_expect_eq(state.best_valid_loss, 0.5);
    cr_expect_eq(state.best_step, 10);
    cr_expect_eq(state.step, 11, "the steps that went on are taken back");
}

Test(saver, a_failure_is_told_once_and_changes_nothing)
{
    write_nonce("mine");
    fill(1);
    cr_assert_eq(save(10, 0.5), ST_OK, "%s", fault.text);
    write_nonce("another's");
    fill(2);
    cr_expect_eq(save(20, 0.25), ST_FENCED);
    cr_expect(strstr(fault.text, "another attempt's nonce"), "%s", fault.text);
    cr_expect_eq(saver_step(saver), 20);
    cr_expect_eq(saver_finish(saver, true, &state, &fault), ST_OK, "told twice");
    cr_expect_eq(state.best_valid_loss, 0.5);
    cr_expect_eq(state.best_step, 10);
    expect_saved(10, 1);

    write_nonce("mine");
    cr_expect_eq(save(30, NAN), ST_OK, "%s", fault.text);
    expect_saved(30, 2);
}

Test(saver, retention_keeps_the_newest_and_the_best)
{
    write_nonce("mine");
    for (uint64_t step = 10; step <= 50; step += 10) {
        fill((float)step);
        cr_assert_eq(save(step, step == 20 ? 0.5 : 1.0), ST_OK, "%s", fault.text);
    }
    expect_saved(20, 20);
    expect_saved(40, 40);
    expect_saved(50, 50);
    cr_expect_neq(checkpoint_open(directory, 10, &(struct checkpoint *){NULL}, &fault), ST_OK);
    cr_expect_neq(checkpoint_open(directory, 30, &(struct checkpoint *){NULL}, &fault), ST_OK);
}

Test(saver, a_save_under_way_is_whole_before_the_saver_is_closed)
{
    write_nonce("mine");
    fill(3);
    saver_start(saver, &state, NAN, &no_marks);
    saver_close(saver);
    saver = NULL;
    expect_saved(10, 3);
}

Test(saver, the_copy_is_as_large_as_the_tensors)
{
    cr_expect_eq(saver_bytes(saver), sizeof weights + sizeof moments);
}

static bool is_there(uint64_t step)
{
    struct checkpoint *found;
    if (checkpoint_open(directory, step, &found, &fault) != ST_OK) return false;
    checkpoint_close(found);
    return true;
}

Test(saver, what_the_run_has_gone_back_from_goes_with_the_first_good_save)
{
    Performer__Rewind rewind;
    performer__rewind__init(&rewind);
    rewind.step = 10;
    write_nonce("mine");
    for (uint64_t step = 10; step <= 40; step += 10) save(step, NAN);
    cr_assert(is_there(30) && is_there(40));

    write_nonce("another's");
    state.step = 15;
    saver_start(saver, &state, NAN, &(struct save_marks){10, &rewind});
    cr_assert_eq(saver_finish(saver, true, &state, &fault), ST_FENCED);
    cr_expect(is_there(30) && is_there(40));

    write_nonce("mine");
    cr_assert_eq(save(20, NAN), ST_OK, "%s", fault.text);
    cr_expect(is_there(20));
    cr_expect_not(is_there(30));
    cr_expect_not(is_there(40));
}
