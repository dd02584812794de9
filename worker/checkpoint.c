#include "worker/checkpoint.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "proto/durable.h"
#include "worker/checkpoint_state.h"
#include "worker/manifest.h"

#define STEP_NAME    "step-%010" PRIu64
#define ASIDE_PREFIX ".step-"

enum {
    PATH_BYTES_MAX = 4096,                /* of a checkpoint's directory */
    FILE_BYTES_MAX = PATH_BYTES_MAX + 64, /* of a file in it */
    NAME_BYTES_MAX = 160,                 /* of anything that is put under a checkpoint's path */
    STATE_BYTES_MAX = 1 << 20,
    NONCE_BYTES_MAX = 256,
    OPEN_FILES_MAX = 8,
};

static int entry_remove(const char *path, const struct stat *about, int kind, struct FTW *place)
{
    (void)about, (void)kind, (void)place;
    remove(path);
    return 0;
}

/* Follows no symbolic link; what is not there is fine. */
static void tree_remove(const char *path)
{
    nftw(path, entry_remove, OPEN_FILES_MAX, FTW_DEPTH | FTW_PHYS);
}

static enum status state_write(const char *directory, const struct checkpoint_state *state,
                               struct fault *fault)
{
    char path[FILE_BYTES_MAX], *text;
    snprintf(path, sizeof path, "%s/" STATE_FILE, directory);
    enum status status = checkpoint_state_print(state, &text);
    if (status != ST_OK) return fault_set(fault, status, "write %s: out of memory", path);
    status = durable_write(path, text, strlen(text), fault);
    free(text);
    return status;
}

/* All files of a checkpoint, each synced, MANIFEST last. */
static enum status files_write(const char *directory, const struct checkpoint_content *content,
                               uint64_t *bytes, struct fault *fault)
{
    char path[FILE_BYTES_MAX];
    snprintf(path, sizeof path, "%s/" MODEL_FILE, directory);
    enum status status =
        safetensors_write(path, content->model, content->model_count, NULL, 0, fault);
    if (status != ST_OK) return status;
    snprintf(path, sizeof path, "%s/" OPTIMIZER_FILE, directory);
    status = safetensors_write(path, content->optimizer, content->optimizer_count, NULL, 0, fault);
    if (status != ST_OK) return status;
    status = state_write(directory, content->state, fault);
    if (status != ST_OK) return status;
    status = manifest_write(directory, bytes, fault);
    if (status != ST_OK) return status;
    return durable_sync_directory(directory, fault);
}

static enum status fence_check(const char *fence, const char *nonce, struct fault *fault)
{
    if (!fence) return ST_OK;
    char *text;
    size_t length;
    enum status status = file_read(fence, NONCE_BYTES_MAX, &text, &length, fault);
    if (status != ST_OK) return status;
    text[strcspn(text, "\n")] = '\0';
    if (strcmp(text, nonce) != 0)
        status =
            fault_set(fault, ST_FENCED,
                      "%s holds another attempt's nonce: this one saves no checkpoints", fence);
    free(text);
    return status;
}

/* Where the file system cannot exchange two names: the old one is out of sight for a moment, and comes
 * back if the new one cannot be put there. */
static int exchange_by_hand(const char *aside, const char *path)
{
    char old[FILE_BYTES_MAX];
    snprintf(old, sizeof old, "%s.old", aside);
    if (rename(path, old) != 0) return -1;
    if (rename(aside, path) != 0) {
        int error = errno;
        rename(old, path);
        errno = error;
        return -1;
    }
    return rename(old, aside);
}

/* Puts `aside` at `path`; what was there is at `aside` afterwards. */
static enum status put_in_place(const char *directory, const char *aside, const char *path,
                                struct fault *fault)
{
    struct stat about;
    if (lstat(path, &about) != 0) return durable_rename(aside, path, fault);
    int failed = renameat2(AT_FDCWD, aside, AT_FDCWD, path, RENAME_EXCHANGE);
    if (failed && (errno == EINVAL || errno == ENOSYS)) failed = exchange_by_hand(aside, path);
    if (failed) return fault_errno(fault, errno, "could not replace %s", path);
    return durable_sync_directory(directory, fault);
}

enum status checkpoint_save(const char *directory, const struct checkpoint_content *content,
                            const char *fence, const char *nonce, char *path, size_t path_size,
                            uint64_t *bytes, struct fault *fault)
{
    assert(!fence || nonce);
    char aside[PATH_BYTES_MAX], target[PATH_BYTES_MAX];
    uint64_t step = content->state->step, total;
    if (strlen(directory) + NAME_BYTES_MAX > sizeof target || strlen(directory) + 32 > path_size)
        return fault_set(fault, ST_TOO_LARGE, "the path %.80s... is too long for a checkpoint",
                         directory);
    snprintf(target, sizeof target, "%s/" STEP_NAME, directory, step);
    snprintf(aside, sizeof aside, "%s/." STEP_NAME ".%.64s", directory, step,
             nonce ? nonce : "new");

    enum status status = make_directories(directory, fault);
    if (status != ST_OK) return fault_wrap(fault, "save %s", target);
    tree_remove(aside);
    if (mkdir(aside, 0700) != 0) {
        fault_errno(fault, errno, "could not make the directory %s", aside);
        return fault_wrap(fault, "save %s", target);
    }
    status = files_write(aside, content, &total, fault);
    if (status != ST_OK) goto remove_aside;
    /* As late as can be: only the rename lies between this and the checkpoint's appearance. */
    status = fence_check(fence, nonce, fault);
    if (status != ST_OK) goto remove_aside;
    status = put_in_place(directory, aside, target, fault);
    if (status != ST_OK) goto remove_aside;
    *bytes = total;
    snprintf(path, path_size, "%s", target);
remove_aside:
    tree_remove(aside);
    if (status != ST_OK) return fault_wrap(fault, "save %s", target);
    return ST_OK;
}

/* step-0000000500 → 500; only names as they are written count. */
static bool step_from_name(const char *name, uint64_t *step)
{
    char written[32];
    uint64_t number;
    if (sscanf(name, "step-%" SCNu64, &number) != 1) return false;
    snprintf(written, sizeof written, STEP_NAME, number);
    if (strcmp(written, name) != 0) return false;
    *step = number;
    return true;
}

struct steps {
    uint64_t *step; /* newest first */
    size_t count, capacity;
};

static int step_compare(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return (left < right) - (left > right);
}

static enum status steps_add(struct steps *steps, uint64_t step)
{
    if (steps->count == steps->capacity) {
        size_t capacity = 2 * steps->capacity + 64;
        uint64_t *grown = realloc(steps->step, capacity * sizeof *grown);
        if (!grown) return ST_NO_MEMORY;
        steps->step = grown;
        steps->capacity = capacity;
    }
    steps->step[steps->count++] = step;
    return ST_OK;
}

/* The next entry, NULL at the end; `*status` tells an end from a failure. */
static const struct dirent *entry_next(DIR *listing, enum status *status)
{
    errno = 0;
    const struct dirent *entry = readdir(listing);
    if (!entry && errno != 0) *status = status_from_errno(errno);
    return entry;
}

/* Whatever is named like a checkpoint. `*steps` is the caller's; a missing directory has none. */
static enum status steps_list(const char *directory, struct steps *steps, struct fault *fault)
{
    struct steps found = {0};
    DIR *listing = opendir(directory);
    if (!listing && errno != ENOENT)
        return fault_errno(fault, errno, "could not list %s", directory);
    enum status status = ST_OK;
    const struct dirent *entry;
    uint64_t step;
    while (listing && status == ST_OK && (entry = entry_next(listing, &status)))
        if (step_from_name(entry->d_name, &step)) status = steps_add(&found, step);
    if (listing) closedir(listing);
    if (status != ST_OK) {
        free(found.step);
        return fault_set(fault, status, "could not list %s: %s", directory, status_text(status));
    }
    if (found.count > 0) qsort(found.step, found.count, sizeof *found.step, step_compare);
    *steps = found;
    return ST_OK;
}

static enum status state_read(const char *directory, uint64_t step, struct checkpoint_state *state,
                              struct fault *fault)
{
    char path[FILE_BYTES_MAX], *text;
    size_t length;
    snprintf(path, sizeof path, "%s/" STATE_FILE, directory);
    enum status status = file_read(path, STATE_BYTES_MAX, &text, &length, fault);
    if (status != ST_OK) return status;
    status = checkpoint_state_parse(text, length, state, fault);
    free(text);
    if (status != ST_OK) return status;
    if (state->step != step)
        return fault_set(fault, ST_CORRUPT, "%s is of step %" PRIu64, path, state->step);
    return ST_OK;
}

enum status checkpoint_open(const char *directory, uint64_t step, struct checkpoint **checkpoint,
                            struct fault *fault)
{
    struct checkpoint *opened = calloc(1, sizeof *opened);
    if (!opened) return fault_set(fault, ST_NO_MEMORY, "open a checkpoint: out of memory");
    char file[FILE_BYTES_MAX];
    snprintf(opened->path, sizeof opened->path, "%s/" STEP_NAME, directory, step);
    /* Sizes and checksums before anything is believed. */
    enum status status = manifest_verify(opened->path, fault);
    if (status != ST_OK) goto close_checkpoint;
    status = state_read(opened->path, step, &opened->state, fault);
    if (status != ST_OK) goto close_checkpoint;
    snprintf(file, sizeof file, "%s/" MODEL_FILE, opened->path);
    status = safetensors_open(file, &opened->model, fault);
    if (status != ST_OK) goto close_checkpoint;
    snprintf(file, sizeof file, "%s/" OPTIMIZER_FILE, opened->path);
    status = safetensors_open(file, &opened->optimizer, fault);
    if (status != ST_OK) goto close_checkpoint;
    *checkpoint = opened;
    return ST_OK;

close_checkpoint:
    checkpoint_close(opened);
    return status;
}

static enum status newest_open(const char *directory, const struct steps *steps,
                               const struct checkpoint_choice *choice,
                               struct checkpoint **checkpoint, struct fault *fault)
{
    enum status unread = ST_OK; /* of the newest that may be good, and could not be read */
    for (size_t i = 0; i < steps->count; i++) {
        struct fault why = {0};
        if (choice->wanted && !choice->wanted(choice->context, steps->step[i])) continue;
        struct checkpoint *opened;
        enum status status = checkpoint_open(directory, steps->step[i], &opened, &why);
        if (status == ST_OK && choice->kept && !choice->kept(choice->context, &opened->state)) {
            checkpoint_close(opened);
            continue;
        }
        if (status == ST_OK) {
            *checkpoint = opened;
            return ST_OK;
        }
        if (status == ST_NO_MEMORY) return fault_set(fault, status, "%s", why.text);
        char path[PATH_BYTES_MAX];
        snprintf(path, sizeof path, "%s/" STEP_NAME, directory, steps->step[i]);
        if (choice->rejected) choice->rejected(choice->context, path, why.text);
        if (status == ST_CORRUPT || status == ST_NOT_FOUND || unread != ST_OK) continue;
        unread = fault_set(fault, status, "%s", why.text);
    }
    if (unread != ST_OK) return unread;
    return fault_set(fault, ST_NOT_FOUND, "no good checkpoint in %s", directory);
}

enum status checkpoint_open_newest(const char *directory, const struct checkpoint_choice *choice,
                                   struct checkpoint **checkpoint, struct fault *fault)
{
    if (strlen(directory) + NAME_BYTES_MAX > PATH_BYTES_MAX)
        return fault_set(fault, ST_TOO_LARGE, "the path %.80s... is too long for a checkpoint",
                         directory);
    struct steps steps;
    enum status status = steps_list(directory, &steps, fault);
    if (status != ST_OK) return status;
    status = newest_open(directory, &steps, choice, checkpoint, fault);
    free(steps.step);
    return status;
}

void checkpoint_close(struct checkpoint *checkpoint)
{
    if (!checkpoint) return;
    safetensors_close(checkpoint->model);
    safetensors_close(checkpoint->optimizer);
    free(checkpoint);
}

/* Out of sight first: a removal that is cut short leaves no half of a checkpoint under its name. */
static bool checkpoint_remove(const char *directory, uint64_t step, const char *path)
{
    char aside[PATH_BYTES_MAX];
    snprintf(aside, sizeof aside, "%s/." STEP_NAME ".removed", directory, step);
    tree_remove(aside);
    if (rename(path, aside) != 0) return false;
    tree_remove(aside);
    return true;
}

static void leftovers_remove(const char *directory)
{
    DIR *listing = opendir(directory);
    const struct dirent *entry;
    while (listing && (entry = readdir(listing))) {
        if (strncmp(entry->d_name, ASIDE_PREFIX, strlen(ASIDE_PREFIX)) != 0) continue;
        char path[PATH_BYTES_MAX];
        int length = snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        if (length < PATH_BYTES_MAX) tree_remove(path);
    }
    if (listing) closedir(listing);
}

static void remove_and_tell(const char *directory, uint64_t step, checkpoint_removed *removed,
                            void *context)
{
    char path[PATH_BYTES_MAX];
    snprintf(path, sizeof path, "%s/" STEP_NAME, directory, step);
    if (checkpoint_remove(directory, step, path) && removed) removed(context, step, path);
}

/* Keeps the newest `keep` up to `step`, and those that are spared. */
static void prune(const char *directory, uint64_t step, size_t keep, struct spared_steps spared,
                  checkpoint_removed *removed, void *context)
{
    struct steps steps;
    if (strlen(directory) + NAME_BYTES_MAX > PATH_BYTES_MAX) return;
    if (steps_list(directory, &steps, NULL) != ST_OK) return;
    size_t first = 0;
    while (first < steps.count && steps.step[first] > step) first++;
    for (size_t i = first + keep; i < steps.count; i++) {
        uint64_t old = steps.step[i];
        if (old == spared.best || old == spared.rewind) continue;
        remove_and_tell(directory, old, removed, context);
    }
    free(steps.step);
    leftovers_remove(directory);
}

void checkpoint_prune(const char *directory, uint64_t step, int64_t keep,
                      struct spared_steps spared, checkpoint_removed *removed, void *context)
{
    prune(directory, step, keep > 1 ? (size_t)keep : 1, spared, removed, context);
}

void checkpoint_remove_behind(const char *directory, uint64_t step, uint64_t saved,
                              checkpoint_removed *removed, void *context)
{
    struct steps steps;
    if (strlen(directory) + NAME_BYTES_MAX > PATH_BYTES_MAX) return;
    if (steps_list(directory, &steps, NULL) != ST_OK) return;
    for (size_t i = 0; i < steps.count && steps.step[i] > step; i++)
        if (steps.step[i] != saved) remove_and_tell(directory, steps.step[i], removed, context);
    free(steps.step);
}

uint64_t checkpoint_bytes(const struct checkpoint_content *content)
{
    enum { TENSOR_HEADER_BYTES = 256, ORDER_BYTES = 128, OTHER_BYTES = 16 << 10 };
    uint64_t bytes = OTHER_BYTES + content->state->applied_count * ORDER_BYTES;
    for (size_t i = 0; i < content->model_count; i++)
        bytes += content->model[i].bytes + TENSOR_HEADER_BYTES;
    for (size_t i = 0; i < content->optimizer_count; i++)
        bytes += content->optimizer[i].bytes + TENSOR_HEADER_BYTES;
    return bytes;
}

/* UINT64_MAX: the file system does not say. */
static uint64_t free_bytes(const char *directory)
{
    struct statvfs about;
    if (statvfs(directory, &about) != 0 || about.f_blocks == 0) return UINT64_MAX;
    return (uint64_t)about.f_bavail * about.f_frsize;
}

enum status checkpoint_make_room(const char *directory, uint64_t step, uint64_t bytes, int64_t keep,
                                 struct spared_steps spared, checkpoint_removed *removed,
                                 void *context, struct fault *fault)
{
    if (free_bytes(directory) >= bytes) return ST_OK;
    prune(directory, step, keep > 2 ? (size_t)keep - 1 : 1, spared, removed, context);
    uint64_t found = free_bytes(directory);
    if (found >= bytes) return ST_OK;
    return fault_set(fault, ST_NO_SPACE,
                     "a checkpoint takes %" PRIu64 " bytes, and %" PRIu64
                     " are free for %s: make room there, or lower checkpoint.keep",
                     bytes, found, directory);
}
