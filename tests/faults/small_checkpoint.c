#include "tests/faults/small_checkpoint.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "worker/checkpoint.h"

enum { VALUES = 24 };

static void fill(float values[VALUES], uint64_t step, int tensor)
{
    for (int i = 0; i < VALUES; i++) values[i] = (float)step + (float)(tensor * VALUES + i) / 7;
}

enum status small_checkpoint_save(const char *directory, uint64_t step, struct fault *fault)
{
    float weights[VALUES], moments[VALUES];
    fill(weights, step, 0);
    fill(moments, step, 1);
    struct tensor_entry model = {"w", TENSOR_F32, 1, {VALUES}, sizeof weights, weights};
    struct tensor_entry optimizer = {"m", TENSOR_F32, 1, {VALUES}, sizeof moments, moments};
    struct checkpoint_state state = {.step = step, .best_valid_loss = NAN};
    const struct checkpoint_content content = {&model, &optimizer, 1, 1, &state};
    char path[4096] = "untouched";
    uint64_t bytes = 0;
    enum status status =
        checkpoint_save(directory, &content, NULL, NULL, path, sizeof path, &bytes, fault);
    cr_assert_eq(bytes > 0, status == ST_OK);
    cr_assert_eq(strcmp(path, "untouched") != 0, status == ST_OK);
    return status;
}

struct rejections {
    int count;
    struct fault *newest;
};

static void note_rejected(void *context, const char *path, const char *why)
{
    struct rejections *rejections = context;
    cr_assert(strlen(path) > 0 && strlen(why) > 0);
    rejections->count++;
    fault_set(rejections->newest, ST_CORRUPT, "%s", why);
}

static void expect_tensor(const struct safetensors *file, const char *name, uint64_t step,
                          int tensor)
{
    float expected[VALUES];
    fill(expected, step, tensor);
    const struct tensor_entry *entry = safetensors_find(file, name);
    cr_assert_not_null(entry);
    cr_assert_arr_eq(entry->data, expected, sizeof expected);
}

enum status small_checkpoint_newest(const char *directory, uint64_t *step, int *rejected,
                                    struct fault *fault)
{
    struct rejections rejections = {.newest = fault};
    const struct checkpoint_choice choice = {.context = &rejections, .rejected = note_rejected};
    struct checkpoint *checkpoint = NULL;
    enum status status = checkpoint_open_newest(directory, &choice, &checkpoint, fault);
    cr_assert_eq(checkpoint != NULL, status == ST_OK);
    *rejected = rejections.count;
    if (status != ST_OK) return status;
    *step = checkpoint->state.step;
    expect_tensor(checkpoint->model, "w", *step, 0);
    expect_tensor(checkpoint->optimizer, "m", *step, 1);
    checkpoint_close(checkpoint);
    return ST_OK;
}
