#include "worker/saver.h"

#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/notices.h"
#include "worker/training.h"

enum saver_phase { SAVER_IDLE, SAVER_UNDER_WAY, SAVER_ENDED };

struct saver {
    struct saver_setup setup;
    struct tensor_entry *entries; /* the model's and the optimizer's; their data is in `copy` */
    uint8_t *copy;                /* (bytes) */
    size_t bytes;

    /* of the newest save; the thread's own while it is under way */
    struct checkpoint_state state;
    uint64_t best_step_before;
    struct save_marks marks;
    double valid_loss, begin_ms;
    bool best;
    enum status status;
    struct fault fault;

    pthread_t thread;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t moved;
    enum saver_phase phase;
    bool closing;
};

/* ---- the thread ---- */

static void tell_removed(void *context, uint64_t step, const char *path)
{
    const struct saver *saver = context;
    notice_checkpoint_removed(saver->setup.uplink, step, path);
}

static enum status write_copy(struct saver *saver, char *path, size_t path_size, uint64_t *bytes)
{
    const struct saver_setup *setup = &saver->setup;
    const struct checkpoint_content content = {
        .model = saver->entries,
        .model_count = setup->tensors.model_count,
        .optimizer = saver->entries + setup->tensors.model_count,
        .optimizer_count = setup->tensors.optimizer_count,
        .state = &saver->state,
    };
    enum status status = checkpoint_make_room(
        setup->directory, saver->state.step, checkpoint_bytes(&content), setup->keep,
        (struct spared_steps){saver->best_step_before, saver->marks.rewind_step}, tell_removed,
        saver, &saver->fault);
    if (status != ST_OK) return status;
    return checkpoint_save(setup->directory, &content, setup->fence, setup->nonce, path, path_size,
                           bytes, &saver->fault);
}

static enum status save(struct saver *saver)
{
    const struct saver_setup *setup = &saver->setup;
    const uint64_t step = saver->state.step;
    char path[4096];
    struct saved_checkpoint saved = {
        .path = path, .best = saver->best, .valid_loss = saver->valid_loss};
    enum status status = write_copy(saver, path, sizeof path, &saved.bytes);
    if (status != ST_OK) {
        notice_checkpoint_failed(setup->uplink, step, saver->fault.text);
        return status;
    }
    saved.seconds = (steady_clock_ms() - saver->begin_ms) / 1e3;
    notice_checkpoint_saved(setup->uplink, step, &saved);
    if (saver->marks.rewound)
        checkpoint_remove_behind(setup->directory, saver->marks.rewound->step, step, tell_removed,
                                 saver);
    checkpoint_prune(setup->directory, step, setup->keep,
                     (struct spared_steps){saver->state.best_step, saver->marks.rewind_step},
                     tell_removed, saver);
    return ST_OK;
}

static bool save_awaited(struct saver *saver)
{
    pthread_mutex_lock(&saver->lock);
    while (saver->phase != SAVER_UNDER_WAY && !saver->closing)
        pthread_cond_wait(&saver->moved, &saver->lock);
    const bool awaited = saver->phase == SAVER_UNDER_WAY;
    pthread_mutex_unlock(&saver->lock);
    return awaited;
}

static void saver_move(struct saver *saver, enum saver_phase phase)
{
    pthread_mutex_lock(&saver->lock);
    saver->phase = phase;
    pthread_cond_signal(&saver->moved);
    pthread_mutex_unlock(&saver->lock);
}

static void *saver_run(void *context)
{
    struct saver *saver = context;
    while (save_awaited(saver)) {
        saver->status = save(saver);
        saver_move(saver, SAVER_ENDED);
    }
    return NULL;
}

/* ---- the training thread ---- */

/* The entries of what is to be saved, their data at its place in the copy. */
static void lay_out(struct saver *saver, const struct tensor_entry *entries, size_t count,
                    struct tensor_entry *copies, size_t *offset)
{
    for (size_t i = 0; i < count; i++) {
        copies[i] = entries[i];
        copies[i].data = saver->copy + *offset;
        *offset += entries[i].bytes;
    }
}

static size_t bytes_of(const struct tensor_entry *entries, size_t count)
{
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++) bytes += entries[i].bytes;
    return bytes;
}

static enum status copy_new(struct saver *saver, struct fault *fault)
{
    const struct checkpoint_content *tensors = &saver->setup.tensors;
    size_t offset = 0;
    saver->bytes = bytes_of(tensors->model, tensors->model_count) +
                   bytes_of(tensors->optimizer, tensors->optimizer_count);
    saver->entries =
        calloc(tensors->model_count + tensors->optimizer_count, sizeof *saver->entries);
    saver->copy = malloc(saver->bytes);
    if (!saver->entries || !saver->copy)
        return fault_set(fault, ST_NO_MEMORY,
                         "%zu bytes for a copy to save: a smaller [model] takes less",
                         saver->bytes);
    memset(saver->copy, 0, saver->bytes); /* its pages are there from now on */
    lay_out(saver, tensors->model, tensors->model_count, saver->entries, &offset);
    lay_out(saver, tensors->optimizer, tensors->optimizer_count,
            saver->entries + tensors->model_count, &offset);
    return ST_OK;
}

static void saver_free(struct saver *saver)
{
    pthread_cond_destroy(&saver->moved);
    pthread_mutex_destroy(&saver->lock);
    free(saver->copy);
    free(saver->entries);
    free(saver);
}

enum status saver_open(const struct saver_setup *setup, struct saver **saver, struct fault *fault)
{
    struct saver *opened = calloc(1, sizeof *opened);
    if (!opened) return fault_set(fault, ST_NO_MEMORY, "no memory to save");
    opened->setup = *setup;
    pthread_mutex_init(&opened->lock, NULL);
    pthread_cond_init(&opened->moved, NULL);
    enum status status = copy_new(opened, fault);
    if (status == ST_OK) {
        int error = pthread_create(&opened->thread, NULL, saver_run, opened);
        if (error != 0) status = fault_errno(fault, error, "could not start the thread that saves");
    }
    if (status != ST_OK) {
        saver_free(opened);
        return status;
    }
    *saver = opened;
    return ST_OK;
}

uint64_t saver_bytes(const struct saver *saver)
{
    return saver->bytes;
}

/* Returns the place behind the last. */
static uint8_t *copy_tensors(const struct tensor_entry *entries, size_t count, uint8_t *copy)
{
    for (size_t i = 0; i < count; copy += entries[i++].bytes)
        memcpy(copy, entries[i].data, entries[i].bytes);
    return copy;
}

void saver_start(struct saver *saver, const struct checkpoint_state *state, double valid_loss,
                 const struct save_marks *marks)
{
    const struct checkpoint_content *tensors = &saver->setup.tensors;
    assert(saver->phase == SAVER_IDLE);
    saver->begin_ms = steady_clock_ms();
    uint8_t *place = copy_tensors(tensors->model, tensors->model_count, saver->copy);
    copy_tensors(tensors->optimizer, tensors->optimizer_count, place);
    saver->state = *state;
    saver->best_step_before = state->best_step;
    /* What a save that failed was to remove is still there. */
    const Performer__Rewind *left = saver->status == ST_OK ? NULL : saver->marks.rewound;
    saver->marks = *marks;
    if (left) saver->marks.rewound = left;
    saver->valid_loss = valid_loss;
    saver->best = valid_loss < state->best_valid_loss ||
                  (!isnan(valid_loss) && isnan(state->best_valid_loss));
    if (saver->best) {
        saver->state.best_valid_loss = valid_loss;
        saver->state.best_step = state->step;
    }
    saver_move(saver, SAVER_UNDER_WAY);
}

enum status saver_finish(struct saver *saver, bool wait, struct checkpoint_state *state,
                         struct fault *fault)
{
    pthread_mutex_lock(&saver->lock);
    while (wait && saver->phase == SAVER_UNDER_WAY) pthread_cond_wait(&saver->moved, &saver->lock);
    const bool ended = saver->phase == SAVER_ENDED;
    if (ended) saver->phase = SAVER_IDLE;
    pthread_mutex_unlock(&saver->lock);
    if (!ended) return ST_OK;
    if (saver->status != ST_OK) {
        *fault = saver->fault;
        return saver->status;
    }
    state->best_valid_loss = saver->state.best_valid_loss;
    state->best_step = saver->state.best_step;
    return ST_OK;
}

uint64_t saver_step(const struct saver *saver)
{
    return saver->state.step;
}

void saver_close(struct saver *saver)
{
    if (!saver) return;
    pthread_mutex_lock(&saver->lock);
    saver->closing = true;
    pthread_cond_signal(&saver->moved);
    pthread_mutex_unlock(&saver->lock);
    pthread_join(saver->thread, NULL);
    saver_free(saver);
}
