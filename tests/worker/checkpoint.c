/* Checkpoints: what is saved comes back, and what is not whole is never taken for one. */

#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include "proto/durable.h"
#include "worker/checkpoint.h"
#include "worker/checkpoint_state.h"

enum { VALUES = 24 };

static char base[64], directory[128], fence[128];
static struct fault fault;

static const char *const files[] = {"model.safetensors", "optimizer.safetensors", "state.json",
                                    "MANIFEST"};
enum { FILE_COUNT = sizeof files / sizeof files[0] };

static int entry_remove(const char *path, const struct stat *about, int kind, struct FTW *place)
{
    (void)about, (void)kind, (void)place;
    return remove(path);
}

static void setup(void)
{
    strcpy(base, "/tmp/checkpoint-XXXXXX");
    cr_assert(mkdtemp(base));
    snprintf(directory, sizeof directory, "%s/run/checkpoints", base);
    snprintf(fence, sizeof fence, "%s/fence", base);
}

static void teardown(void)
{
    nftw(base, entry_remove, 8, FTW_DEPTH | FTW_PHYS);
}

TestSuite(checkpoint, .init = setup, .fini = teardown);

static float weights[VALUES], moments[2 * VALUES];

/* What a run of `step` steps would save. */
static struct checkpoint_state state_of(uint64_t step)
{
    struct checkpoint_state state = {
        .step = step, .seed = 7, .epoch = 1, .epoch_row = 3, .draw = 2, .redraw_every = 100};
    state.data = (struct data_mark){9, UINT64_C(0xa123456789abcdef)};
    state.chain = UINT64_C(0xfedcba9876543210) + step;
    state.best_valid_loss = NAN;
    for (int i = 0; i < VALUES; i++) weights[i] = (float)step + (float)i / 7;
    for (int i = 0; i < 2 * VALUES; i++) moments[i] = (float)step - (float)i / 3;
    return state;
}

static enum status save_as(const struct checkpoint_state *state, const char *where,
                           const char *fence_file, const char *nonce)
{
    state_of(state->step); /* its tensors */
    struct tensor_entry model[] = {
        {"tok_embed.weight", TENSOR_F32, 2, {4, 3}, 12 * sizeof(float), weights},
        {"lm_head.weight", TENSOR_F32, 2, {3, 4}, 12 * sizeof(float), weights + 12}};
    struct tensor_entry optimizer[] = {{"m", TENSOR_F32, 1, {2 * VALUES}, sizeof moments, moments}};
    const struct checkpoint_content content = {model, optimizer, 2, 1, state};
    char path[4096] = "untouched";
    uint64_t bytes = 0;
    enum status status =
        checkpoint_save(where, &content, fence_file, nonce, path, sizeof path, &bytes, &fault);
    if (status == ST_OK) {
        char expected[256];
        snprintf(expected, sizeof expected, "%s/step-%010" PRIu64, where, state->step);
        cr_assert_str_eq(path, expected);
        cr_assert_gt(bytes, sizeof weights + sizeof moments);
    } else {
        cr_assert_str_eq(path, "untouched");
        cr_assert_eq(bytes, 0);
    }
    return status;
}

static enum status save(uint64_t step)
{
    struct checkpoint_state state = state_of(step);
    return save_as(&state, directory, NULL, NULL);
}

static struct {
    int count;
    char path[256], why[400];
} rejections;

static void note_rejected(void *context, const char *path, const char *why)
{
    (void)context;
    rejections.count++;
    snprintf(rejections.path, sizeof rejections.path, "%s", path);
    snprintf(rejections.why, sizeof rejections.why, "%s", why);
}

static const struct checkpoint_choice any = {0}, noting = {.rejected = note_rejected};

/* Step of the newest good one after checking its tensors, 0: none. */
static uint64_t newest(void)
{
    struct checkpoint *checkpoint = NULL;
    rejections.count = 0;
    enum status status = checkpoint_open_newest(directory, &noting, &checkpoint, &fault);
    if (status == ST_NOT_FOUND) {
        cr_assert_null(checkpoint);
        return 0;
    }
    cr_assert_eq(status, ST_OK, "%s", fault.text);
    uint64_t step = checkpoint->state.step;
    state_of(step);
    const struct tensor_entry *head = safetensors_find(checkpoint->model, "lm_head.weight");
    const struct tensor_entry *moment = safetensors_find(checkpoint->optimizer, "m");
    cr_assert(head && moment);
    cr_assert_arr_eq(head->data, weights + 12, 12 * sizeof(float));
    cr_assert_arr_eq(moment->data, moments, sizeof moments);
    checkpoint_close(checkpoint);
    return step;
}

static void path_of(char path[256], uint64_t step, const char *file)
{
    snprintf(path, 256, "%s/step-%010" PRIu64 "%s%s", directory, step, file ? "/" : "",
             file ? file : "");
}

static void file_write(const char *path, const char *bytes, size_t length)
{
    FILE *file = fopen(path, "wb");
    cr_assert(file);
    cr_assert_eq(fwrite(bytes, 1, length, file), length);
    cr_assert_eq(fclose(file), 0);
}

static void text_write(const char *path, const char *text)
{
    file_write(path, text, strlen(text));
}

static int entries_in(const char *where)
{
    char command[256];
    int count = -1;
    snprintf(command, sizeof command, "ls -A %s | wc -l", where);
    FILE *listing = popen(command, "r");
    cr_assert_eq(fscanf(listing, "%d", &count), 1);
    pclose(listing);
    return count;
}

Test(checkpoint, comes_back_as_it_was)
{
    struct checkpoint_state state = state_of(500);
    state.seed = (uint64_t)-3;
    state.best_valid_loss = 2.0 / 3.0;
    state.best_step = 400;
    state.applied_count = 2;
    state.applied[0] = (struct applied_order){9, PERFORMER__ORDER__KIND__REDRAW, 120};
    state.applied[1] = (struct applied_order){8, PERFORMER__ORDER__KIND__STOP, 120};
    cr_assert_eq(save_as(&state, directory, NULL, NULL), ST_OK, "%s", fault.text);
    cr_assert_eq(entries_in(directory), 1);

    struct checkpoint *checkpoint;
    cr_assert_eq(checkpoint_open_newest(directory, &any, &checkpoint, &fault), ST_OK);
    const struct checkpoint_state *read = &checkpoint->state;
    cr_assert_eq(read->step, 500);
    cr_assert_eq(read->seed, (uint64_t)-3);
    cr_assert_eq(read->epoch, 1);
    cr_assert_eq(read->epoch_row, 3);
    cr_assert_eq(read->draw, 2);
    cr_assert_eq(read->redraw_every, 100);
    cr_assert_eq(read->data.rows, 9);
    cr_assert_eq(read->data.hash, UINT64_C(0xa123456789abcdef));
    cr_assert_eq(read->chain, UINT64_C(0xfedcba9876543210) + 500);
    cr_assert_eq(read->best_valid_loss, 2.0 / 3.0);
    cr_assert_eq(read->best_step, 400);
    cr_assert_eq(read->applied_count, 2);
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(read->applied[i].id, state.applied[i].id);
        cr_assert_eq(read->applied[i].kind, state.applied[i].kind);
        cr_assert_eq(read->applied[i].step, 120);
    }
    cr_assert_eq(safetensors_count(checkpoint->model), 2);
    checkpoint_close(checkpoint);

    cr_assert_eq(save(600), ST_OK);
    cr_assert_eq(newest(), 600);
    cr_assert_eq(checkpoint_open_newest(directory, &any, &checkpoint, &fault), ST_OK);
    cr_assert(isnan(checkpoint->state.best_valid_loss));
    checkpoint_close(checkpoint);
}

Test(checkpoint, files_hold_nothing_of_who_wrote_them)
{
    char other[160];
    snprintf(other, sizeof other, "%s/elsewhere", base);
    struct checkpoint_state state = state_of(40);
    text_write(fence, "second\n");
    cr_assert_eq(save_as(&state, directory, NULL, "first"), ST_OK, "%s", fault.text);
    cr_assert_eq(save_as(&state, other, fence, "second"), ST_OK, "%s", fault.text);
    for (int i = 0; i < FILE_COUNT; i++) {
        char path[256], *one, *two;
        size_t one_length, two_length;
        path_of(path, 40, files[i]);
        cr_assert_eq(file_read(path, 1 << 20, &one, &one_length, &fault), ST_OK);
        snprintf(path, sizeof path, "%s/step-0000000040/%s", other, files[i]);
        cr_assert_eq(file_read(path, 1 << 20, &two, &two_length, &fault), ST_OK);
        cr_assert_eq(one_length, two_length);
        cr_assert_arr_eq(one, two, one_length);
        free(one);
        free(two);
    }
}

Test(checkpoint, a_directory_without_checkpoints)
{
    struct checkpoint *checkpoint = (void *)&fault;
    cr_assert_eq(checkpoint_open_newest(directory, &any, &checkpoint, &fault), ST_NOT_FOUND);
    cr_assert(strstr(fault.text, directory));
    cr_assert_eq(checkpoint, (void *)&fault);
    cr_assert_eq(make_directories(directory, &fault), ST_OK);
    cr_assert_eq(newest(), 0);
}

Test(checkpoint, the_one_asked_for)
{
    for (uint64_t step = 10; step <= 30; step += 10) cr_assert_eq(save(step), ST_OK);
    struct checkpoint *checkpoint;
    cr_assert_eq(checkpoint_open(directory, 20, &checkpoint, &fault), ST_OK);
    cr_assert_eq(checkpoint->state.step, 20);
    checkpoint_close(checkpoint);
    cr_assert_eq(checkpoint_open(directory, 25, &checkpoint, &fault), ST_NOT_FOUND);
    cr_assert(strstr(fault.text, "step-0000000025"));
    cr_assert_eq(newest(), 30);
}

Test(checkpoint, the_same_step_is_replaced)
{
    struct checkpoint_state state = state_of(10);
    cr_assert_eq(save_as(&state, directory, NULL, NULL), ST_OK);
    state.chain = 77;
    cr_assert_eq(save_as(&state, directory, NULL, NULL), ST_OK, "%s", fault.text);
    cr_assert_eq(entries_in(directory), 1);
    struct checkpoint *checkpoint;
    cr_assert_eq(checkpoint_open_newest(directory, &any, &checkpoint, &fault), ST_OK);
    cr_assert_eq(checkpoint->state.chain, 77);
    checkpoint_close(checkpoint);
}

Test(checkpoint, a_file_or_a_link_in_the_way_is_replaced_and_not_followed)
{
    char path[256], outside[160];
    snprintf(outside, sizeof outside, "%s/outside", base);
    cr_assert_eq(make_directories(directory, &fault), ST_OK);
    cr_assert_eq(make_directories(outside, &fault), ST_OK);
    path_of(path, 10, NULL);
    cr_assert_eq(symlink(outside, path), 0);
    cr_assert_eq(save(10), ST_OK, "%s", fault.text);
    cr_assert_eq(newest(), 10);
    cr_assert_eq(entries_in(outside), 0);
    path_of(path, 20, NULL);
    text_write(path, "in the way");
    cr_assert_eq(save(20), ST_OK, "%s", fault.text);
    cr_assert_eq(newest(), 20);
    cr_assert_eq(entries_in(directory), 2);
}

Test(checkpoint, fenced_off_nothing_appears)
{
    cr_assert_eq(save(10), ST_OK);
    text_write(fence, "newer\n");
    struct checkpoint_state state = state_of(20);
    cr_assert_eq(save_as(&state, directory, fence, "older"), ST_FENCED);
    cr_assert(strstr(fault.text, fence), "%s", fault.text);
    cr_assert_eq(entries_in(directory), 1);
    cr_assert_eq(newest(), 10);
    cr_assert_eq(save_as(&state, directory, fence, "newer"), ST_OK, "%s", fault.text);
    cr_assert_eq(newest(), 20);
    unlink(fence);
    state = state_of(30);
    cr_assert_eq(save_as(&state, directory, fence, "newer"), ST_NOT_FOUND);
    cr_assert_eq(newest(), 20);
}

/* Damages the newer of two checkpoints: it is passed over, in words, for the older. */
static void expect_fallback(const char *file, const char *damage, size_t where)
{
    cr_assert_eq(newest(), 10, "%s: %s at %zu was not seen", file, damage, where);
    cr_assert_eq(rejections.count, 1);
    cr_assert(strstr(rejections.path, "step-0000000020"));
    cr_assert(strstr(rejections.why, "step-0000000020"), "%s", rejections.why);
}

Test(checkpoint, any_damage_is_seen)
{
    cr_assert_eq(save(10), ST_OK);
    cr_assert_eq(save(20), ST_OK);
    for (int i = 0; i < FILE_COUNT; i++) {
        char path[256], *bytes;
        size_t length;
        path_of(path, 20, files[i]);
        cr_assert_eq(file_read(path, 1 << 20, &bytes, &length, &fault), ST_OK);
        for (size_t cut = 0; cut < length; cut += cut < 16 || cut + 16 > length ? 1 : 7) {
            file_write(path, bytes, cut);
            expect_fallback(files[i], "a cut", cut);
        }
        for (size_t at = 0; at < length; at++) {
            bytes[at] ^= (char)(1 << at % 8);
            file_write(path, bytes, length);
            expect_fallback(files[i], "a flipped bit", at);
            bytes[at] ^= (char)(1 << at % 8);
        }
        file_write(path, bytes, length + 1); /* its NUL */
        expect_fallback(files[i], "a byte more", length);
        unlink(path);
        expect_fallback(files[i], "absence", 0);
        file_write(path, bytes, length);
        cr_assert_eq(newest(), 20);
        free(bytes);
    }
}

Test(checkpoint, links_are_refused)
{
    char path[256], moved[300];
    cr_assert_eq(save(10), ST_OK);
    cr_assert_eq(save(20), ST_OK);
    path_of(path, 20, NULL);
    snprintf(moved, sizeof moved, "%s/moved", base);
    cr_assert_eq(rename(path, moved), 0);
    cr_assert_eq(symlink(moved, path), 0);
    expect_fallback("directory", "a link", 0);
    cr_assert(strstr(rejections.why, "symbolic link"));
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(rename(moved, path), 0);
    cr_assert_eq(newest(), 20);
    path_of(path, 20, "model.safetensors");
    cr_assert_eq(rename(path, moved), 0);
    cr_assert_eq(symlink(moved, path), 0);
    expect_fallback("model.safetensors", "a link", 0);
    cr_assert(strstr(rejections.why, "symbolic link"));
}

Test(checkpoint, its_name_must_be_that_of_its_step)
{
    char from[256], to[256];
    cr_assert_eq(save(10), ST_OK);
    cr_assert_eq(save(15), ST_OK);
    path_of(from, 15, NULL);
    path_of(to, 20, NULL);
    cr_assert_eq(rename(from, to), 0);
    expect_fallback("directory", "another name", 0);
    cr_assert(strstr(rejections.why, "of step 15"), "%s", rejections.why);
}

/* Every file meets the end of the disk once, by the limit on a file's size. */
Test(checkpoint, a_full_disk_leaves_the_older_ones)
{
    signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(save(10), ST_OK);
    struct checkpoint_state state = state_of(20);
    state.applied_count = 40; /* makes state.json the largest file */
    for (int i = 0; i < 40; i++)
        state.applied[i] = (struct applied_order){(uint64_t)i, PERFORMER__ORDER__KIND__REDRAW, 5};
    struct rlimit unlimited;
    getrlimit(RLIMIT_FSIZE, &unlimited);
    int failed = 0;
    enum status status = ST_NO_SPACE;
    for (rlim_t bytes = 0; status != ST_OK; bytes += 64) {
        struct rlimit limit = {bytes, unlimited.rlim_max};
        cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
        status = save_as(&state, directory, NULL, NULL);
        cr_assert_eq(setrlimit(RLIMIT_FSIZE, &unlimited), 0);
        if (status == ST_OK) break;
        cr_assert_eq(status, ST_NO_SPACE, "%s", fault.text);
        cr_assert(strstr(fault.text, "step-0000000020"), "%s", fault.text);
        cr_assert_eq(entries_in(directory), 1);
        cr_assert_eq(newest(), 10);
        failed++;
    }
    cr_assert_gt(failed, 20);
    cr_assert_eq(newest(), 20);
}

Test(checkpoint, a_directory_that_was_deleted_is_made_again)
{
    cr_assert_eq(save(10), ST_OK);
    nftw(directory, entry_remove, 8, FTW_DEPTH | FTW_PHYS);
    cr_assert_eq(newest(), 0);
    cr_assert_eq(save(20), ST_OK, "%s", fault.text);
    cr_assert_eq(newest(), 20);
}

Test(checkpoint, a_path_that_cannot_be_made)
{
    char file[128];
    snprintf(file, sizeof file, "%s/run", base);
    text_write(file, "a file where a directory should be");
    cr_assert_neq(save(10), ST_OK);
    cr_assert(strstr(fault.text, file), "%s", fault.text);
    static char endless[5000];
    memset(endless, 'a', sizeof endless - 1);
    struct checkpoint_state state = state_of(10);
    cr_assert_eq(save_as(&state, endless, NULL, NULL), ST_TOO_LARGE);
}

/* A writer killed at any moment leaves a good checkpoint of the last step or the one before. */
Test(checkpoint, a_killed_writer_leaves_a_good_one, .timeout = 120)
{
    cr_assert_eq(save(1), ST_OK);
    for (unsigned round = 0; round < 30 || newest() < 4; round++) {
        uint64_t before = newest();
        pid_t writer = fork();
        if (writer == 0) {
            for (uint64_t step = before;; step++) { /* the first is replaced */
                if (save(step) != ST_OK) _exit(1);
                checkpoint_prune(directory, step, 2, (struct spared_steps){0}, NULL, NULL);
            }
        }
        usleep(500 + 2003 * round);
        kill(writer, SIGKILL);
        int ended;
        cr_assert_eq(waitpid(writer, &ended, 0), writer);
        cr_assert(WIFSIGNALED(ended));
        cr_assert_geq(newest(), before);
        cr_assert_eq(rejections.count, 0, "%s", rejections.why);
    }
    checkpoint_prune(directory, newest(), 1, (struct spared_steps){0}, NULL, NULL);
    cr_assert_eq(entries_in(directory), 1);
}

static struct {
    int count;
    uint64_t steps[16];
} removals;

static void note_removed(void *context, uint64_t step, const char *path)
{
    (void)context;
    cr_assert(strstr(path, directory));
    removals.steps[removals.count++] = step;
}

Test(checkpoint, pruning_keeps_the_newest_and_the_best)
{
    char path[300];
    for (uint64_t step = 10; step <= 60; step += 10) cr_assert_eq(save(step), ST_OK);
    snprintf(path, sizeof path, "%s/.step-0000000070.nonce", directory);
    cr_assert_eq(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/.step-0000000070.nonce/model.safetensors", directory);
    text_write(path, "half");
    snprintf(path, sizeof path, "%s/step-80", directory); /* not a name of ours */
    cr_assert_eq(mkdir(path, 0700), 0);
    cr_assert_eq(newest(), 60);
    cr_assert_eq(rejections.count, 0);

    checkpoint_prune(directory, 60, 2, (struct spared_steps){.best = 20}, note_removed, NULL);
    cr_assert_eq(removals.count, 3);
    cr_assert_eq(removals.steps[0], 40);
    cr_assert_eq(removals.steps[1], 30);
    cr_assert_eq(removals.steps[2], 10);
    cr_assert_eq(entries_in(directory), 4); /* 20 50 60 and step-80 */
    checkpoint_prune(directory, 60, 0, (struct spared_steps){0}, note_removed, NULL);
    cr_assert_eq(entries_in(directory), 2);
    cr_assert_eq(newest(), 60);
}

/* What a run that has diverged goes back to stays however many follow it; once it has gone back, what lay behind goes. */
Test(checkpoint, where_a_run_goes_back_to_stays_and_what_is_behind_goes)
{
    const struct spared_steps spared = {.best = 10, .rewind = 30};
    for (uint64_t step = 10; step <= 60; step += 10) cr_assert_eq(save(step), ST_OK);
    checkpoint_prune(directory, 60, 1, spared, note_removed, NULL);
    cr_assert_eq(entries_in(directory), 3); /* 10 30 60 */
    cr_assert_eq(save(40), ST_OK);
    removals.count = 0;
    checkpoint_remove_behind(directory, 30, 40, note_removed, NULL);
    cr_assert_eq(removals.count, 1);
    cr_assert_eq(removals.steps[0], 60);
    cr_assert_eq(newest(), 40);
    cr_assert_eq(entries_in(directory), 3);
}

static bool has_met_none(void *context, const struct checkpoint_state *state)
{
    (void)context;
    return state->rewind == 0;
}

Test(checkpoint, a_good_one_that_is_not_kept_is_passed_over)
{
    const struct checkpoint_choice choice = {.kept = has_met_none, .rejected = note_rejected};
    struct checkpoint_state met = state_of(20);
    struct checkpoint *checkpoint = NULL;
    met.rewind = 1;
    cr_assert_eq(save(10), ST_OK);
    cr_assert_eq(save_as(&met, directory, NULL, NULL), ST_OK);
    cr_assert_eq(newest(), 20);
    cr_assert_eq(checkpoint_open_newest(directory, &choice, &checkpoint, &fault), ST_OK);
    cr_assert_eq(checkpoint->state.step, 10);
    cr_assert_eq(rejections.count, 0);
    checkpoint_close(checkpoint);
}

Test(checkpoint, room_is_made_by_what_would_go_after_the_save)
{
    const uint64_t endless = UINT64_C(1) << 60;
    for (uint64_t step = 10; step <= 50; step += 10) cr_assert_eq(save(step), ST_OK);
    cr_assert_eq(checkpoint_make_room(directory, 60, 1, 3, (struct spared_steps){.best = 10},
                                      note_removed, NULL, &fault),
                 ST_OK);
    cr_assert_eq(removals.count, 0, "there is room");
    cr_assert_eq(checkpoint_make_room(directory, 60, endless, 3, (struct spared_steps){.best = 10},
                                      note_removed, NULL, &fault),
                 ST_NO_SPACE);
    cr_assert(strstr(fault.text, "checkpoint.keep"), "%s", fault.text);
    cr_assert_eq(removals.count, 2);
    cr_assert_eq(removals.steps[0], 30);
    cr_assert_eq(removals.steps[1], 20);
    cr_assert_eq(checkpoint_make_room(directory, 60, endless, 1, (struct spared_steps){0},
                                      note_removed, NULL, &fault),
                 ST_NO_SPACE);
    cr_assert_eq(newest(), 50, "the newest stays until there is another");
    cr_assert_eq(entries_in(directory), 1);
    cr_assert_eq(checkpoint_make_room("/tmp/no-such-directory", 60, endless, 1,
                                      (struct spared_steps){0}, NULL, NULL, &fault),
                 ST_OK, "whoever saves makes it");
}

Test(checkpoint, pruning_what_is_not_there)
{
    checkpoint_prune(directory, 10, 2, (struct spared_steps){0}, note_removed, NULL);
    cr_assert_eq(removals.count, 0);
}

/* A spoiled one is newer than what a resumed run saves; it must not stand for the good ones. */
Test(checkpoint, pruning_counts_none_behind_the_saved_one)
{
    char path[300];
    for (uint64_t step = 10; step <= 40; step += 10) cr_assert_eq(save(step), ST_OK);
    snprintf(path, sizeof path, "%s/step-0000000040/model.safetensors", directory);
    text_write(path, "spoiled");
    cr_assert_eq(newest(), 30);
    cr_assert_eq(save(35), ST_OK);

    checkpoint_prune(directory, 35, 1, (struct spared_steps){0}, note_removed, NULL);
    cr_assert_eq(removals.count, 3);
    cr_assert_eq(removals.steps[0], 30);
    cr_assert_eq(entries_in(directory), 2); /* 35, and 40 as it was */
    cr_assert_eq(newest(), 35);
}

/* Reads state.json with `old` replaced by `new`. */
static enum status parse_changed(const char *old, const char *new, struct checkpoint_state *read)
{
    struct checkpoint_state state = state_of(500);
    state.applied_count = 2;
    state.applied[0] = (struct applied_order){1, PERFORMER__ORDER__KIND__REDRAW, 100};
    state.applied[1] = (struct applied_order){2, PERFORMER__ORDER__KIND__REDRAW, 200};
    char *text, changed[2048];
    cr_assert_eq(checkpoint_state_print(&state, &text), ST_OK);
    cr_assert_eq(checkpoint_state_parse(text, strlen(text), read, &fault), ST_OK);
    char *place = strstr(text, old);
    cr_assert(place, "no %s in %s", old, text);
    snprintf(changed, sizeof changed, "%.*s%s%s", (int)(place - text), text, new,
             place + strlen(old));
    free(text);
    return checkpoint_state_parse(changed, strlen(changed), read, &fault);
}

/* The fault names `key`. */
static void expect_refused(const char *old, const char *new, const char *key)
{
    struct checkpoint_state read;
    cr_assert_eq(parse_changed(old, new, &read), ST_CORRUPT, "%s is taken", new);
    cr_assert(strstr(fault.text, key), "%s", fault.text);
}

Test(checkpoint, state_of_an_older_worker_does_not_say_which_data)
{
    struct checkpoint_state read;
    cr_assert_eq(parse_changed("\"data\"", "\"unknown\"", &read), ST_OK, "%s", fault.text);
    cr_assert_eq(read.data.rows, 0);
}

Test(checkpoint, state_out_of_range)
{
    expect_refused("\"step\": 500", "\"step\": -1", "\"step\"");
    expect_refused("\"step\": 500", "\"step\": 500.0", "\"step\"");
    expect_refused("\"step\": 500", "\"stop\": 500", "\"step\"");
    expect_refused("\"step\": 500", "\"step\": 99999999999999999999", "state.json:2");
    expect_refused("\"step\": 500", "\"step\": 150", "\"applied\"");
    expect_refused("\"step\": 200", "\"step\": 99", "\"applied\"");
    expect_refused("\"seed\": 7", "\"seed\": \"7\"", "\"seed\"");
    expect_refused("\"draw\": 2", "\"draw\": 4294967296", "\"draw\"");
    expect_refused("\"rows\": 9", "\"rows\": -1", "\"data\"");
    expect_refused("\"hash\": \"a", "\"hash\": \"A", "\"data\"");
    expect_refused("\"hash\"", "\"sum\"", "\"data\"");
    expect_refused("\"chain\": \"f", "\"chain\": \"g", "\"chain\"");
    expect_refused("\"chain\": \"f", "\"chain\": \"", "\"chain\"");
    expect_refused("\"best_valid_loss\": null", "\"best_valid_loss\": true", "\"best_valid_loss\"");
    expect_refused("\"best_step\": 0", "\"best_step\": 501", "\"best_step\"");
    expect_refused("REDRAW", "REDRAWN", "\"applied\"");
    expect_refused("}", "", "state.json:");
}
