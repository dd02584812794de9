#include "proto/jobspec_fork.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "proto/jobspec_key.h"

/* F(section, key, why it stays) */
#define FIXED_KEYS(F)                                               \
    F(job, seed, "features, data order and dropout derive from it") \
    F(data, format, "it says what the tokens are")                  \
    F(data, vocab, "it says what the tokens are")                   \
    F(data, length, "tensors have this size")                       \
    F(model, layers, "it says which tensors there are")             \
    F(model, heads, "tensors have this size")                       \
    F(model, width, "tensors have this size")                       \
    F(model, mlp, "tensors have this size")                         \
    F(model, objective, "it says what the tokens are")              \
    F(model, positions, "it says which tensors there are")          \
    F(attention, kind, "it says which tensors there are")           \
    F(attention, kernel, "the features are those of the weights")   \
    F(attention, features, "tensors have this size")                \
    F(attention, rank, "tensors have this size")                    \
    F(attention, buckets, "tensors have this size")                 \
    F(attention, rounds, "tensors have this size")                  \
    F(train, batch, "the position in the data is counted in batches")

static const struct {
    enum jobspec_key_id id;
    const char *why;
} fixed_keys[] = {
#define FIXED_ROW(section, key, why) {KEY_##section##_##key, why},
    FIXED_KEYS(FIXED_ROW)
#undef FIXED_ROW
};

static int64_t value_of(const struct jobspec *spec, const struct jobspec_key *key)
{
    const void *value = (const char *)spec + key->offset;
    int choice;
    if (key->kind == KIND_INT) return *(const int64_t *)value;
    memcpy(&choice, value, sizeof choice);
    return choice;
}

static const char *value_text(const struct jobspec_key *key, int64_t value, char *text, size_t size)
{
    struct jobspec_choices choices = jobspec_kind_choices(key->kind);
    snprintf(text, size, "%" PRId64, value);
    for (size_t i = 0; i < choices.count; i++)
        if (choices.items[i].value == value) return choices.items[i].text;
    return text;
}

enum status jobspec_check_fork(const struct jobspec *source, const struct jobspec *job,
                               uint64_t step, struct fault *fault)
{
    for (size_t i = 0; i < sizeof fixed_keys / sizeof fixed_keys[0]; i++) {
        const struct jobspec_key *key = &jobspec_keys[fixed_keys[i].id];
        int64_t was = value_of(source, key), is = value_of(job, key);
        char texts[2][32];
        if (was == is) continue;
        return fault_set(fault, ST_INVALID,
                         "a fork cannot change `%s` in [%s], which is %s, to %s: %s", key->name,
                         jobspec_section_titles[key->section],
                         value_text(key, was, texts[0], sizeof texts[0]),
                         value_text(key, is, texts[1], sizeof texts[1]), fixed_keys[i].why);
    }
    if ((uint64_t)job->train.steps > step) return ST_OK;
    return fault_set(fault, ST_INVALID,
                     "`steps` in [train] is %" PRId64 ", and the checkpoint is of step %" PRIu64
                     ": give more, as --set train.steps=%" PRIu64,
                     job->train.steps, step, 2 * step);
}
