#include "proto/jobspec_check.h"

#include <errno.h>
#include <math.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/cost.h"
#include "proto/vocabulary.h"

static const struct {
    char code[8];
    enum severity severity;
} mistakes[] = {
#define MISTAKE_ROW(enumerator, code, severity, meaning) [enumerator] = {code, severity},
    JOBSPEC_MISTAKES(MISTAKE_ROW)
#undef MISTAKE_ROW
};

/* The source line, or where it is very long the part of it around the place. */
static void copy_excerpt(const struct jobspec_place *place, struct diagnostic *diagnostic)
{
    enum { BEFORE = 60 };
    size_t room = sizeof diagnostic->excerpt - 1;
    size_t start = 0;
    if (place->line_length > room && place->column > BEFORE) start = (size_t)place->column - BEFORE;
    while (start > 0 && ((unsigned char)place->line_text[start] & 0xc0) == 0x80) start--;
    size_t length = place->line_length - start;
    if (length > room) length = room;
    memcpy(diagnostic->excerpt, place->line_text + start, length);
    /* A NUL in the file would end the text here; what cannot be shown is replaced later anyway. */
    for (size_t i = 0; i < length; i++)
        if (diagnostic->excerpt[i] == '\0') diagnostic->excerpt[i] = '?';
    diagnostic->excerpt[length] = '\0';
    diagnostic->excerpt_column = (int)start + 1;
}

void jobspec_report(const struct jobspec_reading *reading, enum jobspec_mistake mistake,
                    const struct jobspec_place *place, const char *label, const char *help,
                    const char *message, ...)
{
    struct diagnostic diagnostic = {
        .severity = mistakes[mistake].severity,
        .line = place->line,
        .column = place->column,
        .length = place->length,
    };
    memcpy(diagnostic.code, mistakes[mistake].code, sizeof diagnostic.code);
    snprintf(diagnostic.source, sizeof diagnostic.source, "%s",
             place->source ? place->source : reading->path);
    if (place->line > 0) copy_excerpt(place, &diagnostic);
    snprintf(diagnostic.label, sizeof diagnostic.label, "%s", label);
    snprintf(diagnostic.help, sizeof diagnostic.help, "%s", help);
    va_list args;
    va_start(args, message);
    vsnprintf(diagnostic.message, sizeof diagnostic.message, message, args);
    va_end(args);
    diagnostics_add(reading->diagnostics, &diagnostic);
}

static const char *title_of(enum jobspec_key_id id)
{
    return jobspec_section_titles[jobspec_keys[id].section];
}

static const void *value_of(const struct jobspec_reading *reading, enum jobspec_key_id id)
{
    return (const char *)reading->spec + jobspec_keys[id].offset;
}

/* Where to point for a value: at it, or at the header of its section where it is a default. */
static const struct jobspec_place *place_of(const struct jobspec_reading *reading,
                                            enum jobspec_key_id id)
{
    return reading->given[id] ? &reading->value[id] : &reading->section[jobspec_keys[id].section];
}

/* Of two values that do not agree, the first that was given. */
static const struct jobspec_place *blame(const struct jobspec_reading *reading,
                                         enum jobspec_key_id first, enum jobspec_key_id second)
{
    return place_of(reading, reading->given[first] ? first : second);
}

/* ---- ranges ---- */

/*
 * The upper limits are far beyond what anybody trains. They see to it that bytes and counts of a job,
 * layers and all, fit in 64 bits.
 * L(section, key, least, most)
 */
#define INT_LIMITS(L)                   \
    L(job, seed, 0, INT64_MAX)          \
    L(resources, ranks, 1, 65536)       \
    L(resources, threads, 1, 1024)      \
    L(slurm, nodes, 1, 65536)           \
    L(slurm, grace, 1, 65535)           \
    L(slurm, gpus_per_rank, 0, 1024)    \
    L(data, length, 1, 1 << 24)         \
    L(data, vocab, 0, 65536)            \
    L(model, layers, 1, 512)            \
    L(model, heads, 1, 256)             \
    L(model, width, 1, 1 << 16)         \
    L(model, mlp, 1, 1 << 18)           \
    L(attention, features, 1, 1 << 14)  \
    L(attention, rank, 1, 1 << 14)      \
    L(attention, buckets, 2, 1 << 14)   \
    L(attention, rounds, 1, 64)         \
    L(attention, chunk, 1, 1 << 14)     \
    L(redraw, every, 1, 1000000000)     \
    L(optimizer, warmup, 0, 1000000000) \
    L(train, steps, 1, 1000000000)      \
    L(train, batch, 1, 1 << 20)         \
    L(train, micro_batch, 1, 1 << 20)   \
    L(evaluate, every, 1, 1000000000)   \
    L(evaluate, batches, 1, 1000000)    \
    L(checkpoint, every, 1, 1000000000) \
    L(checkpoint, keep, 1, 1000000)     \
    L(restart, max, 0, 1000000)         \
    L(queue, priority, -1000000, 1000000)

enum bound { INCLUDED, EXCLUDED };

/* L(section, key, least, its bound, most, its bound). An epsilon below 1e-30 would be 0 in the 32-bit
 * arithmetic of the update. */
#define REAL_LIMITS(L)                                      \
    L(data, valid_fraction, 0, INCLUDED, 1, EXCLUDED)       \
    L(model, dropout, 0, INCLUDED, 1, EXCLUDED)             \
    L(attention, epsilon, 0, INCLUDED, 1000, INCLUDED)      \
    L(redraw, threshold, 0, EXCLUDED, 1000, INCLUDED)       \
    L(optimizer, lr, 0, EXCLUDED, 1000, INCLUDED)           \
    L(optimizer, final, 0, INCLUDED, 1, INCLUDED)           \
    L(optimizer, beta1, 0, INCLUDED, 1, EXCLUDED)           \
    L(optimizer, beta2, 0, INCLUDED, 1, EXCLUDED)           \
    L(optimizer, epsilon, 1e-30, INCLUDED, 1, INCLUDED)     \
    L(optimizer, weight_decay, 0, INCLUDED, 1000, INCLUDED) \
    L(optimizer, clip, 0, INCLUDED, 1e30, INCLUDED)         \
    L(restart, stall_seconds, 0, INCLUDED, 1e6, INCLUDED)

static void report_range(struct jobspec_reading *reading, enum jobspec_key_id id, const char *label)
{
    reading->good[id] = false;
    jobspec_report(reading, MISTAKE_RANGE, place_of(reading, id), label, "",
                   "`%s` in [%s] is out of range", jobspec_keys[id].name, title_of(id));
}

static void check_int(struct jobspec_reading *reading, enum jobspec_key_id id, int64_t least,
                      int64_t most)
{
    if (!reading->good[id]) return;
    int64_t value = *(const int64_t *)value_of(reading, id);
    char label[64];
    if (value < least)
        snprintf(label, sizeof label, "must be at least %lld", (long long)least);
    else if (value > most)
        snprintf(label, sizeof label, "must be at most %lld", (long long)most);
    else
        return;
    report_range(reading, id, label);
}

static void check_real(struct jobspec_reading *reading, enum jobspec_key_id id, double least,
                       enum bound least_bound, double most, enum bound most_bound)
{
    if (!reading->good[id]) return;
    double value = *(const double *)value_of(reading, id);
    char label[64];
    if (!isfinite(value))
        snprintf(label, sizeof label, "must be a finite number");
    else if (value < least || (least_bound == EXCLUDED && value == least))
        snprintf(label, sizeof label, "must be %s %g",
                 least_bound == EXCLUDED ? "above" : "at least", least);
    else if (value > most || (most_bound == EXCLUDED && value == most))
        snprintf(label, sizeof label, "must be %s %g", most_bound == EXCLUDED ? "below" : "at most",
                 most);
    else
        return;
    report_range(reading, id, label);
}

static void check_ranges(struct jobspec_reading *reading)
{
#define CHECK_INT(section, key, least, most) check_int(reading, KEY_##section##_##key, least, most);
    INT_LIMITS(CHECK_INT)
#undef CHECK_INT
#define CHECK_REAL(section, key, least, least_bound, most, most_bound) \
    check_real(reading, KEY_##section##_##key, least, least_bound, most, most_bound);
    REAL_LIMITS(CHECK_REAL)
#undef CHECK_REAL
}

/* ---- not built yet ---- */

static bool is_default(const struct jobspec_key *key, const void *value)
{
    switch (key->kind) {
    case KIND_INT:
        return *(const int64_t *)value == strtoll(key->default_text, NULL, 10);
    case KIND_REAL:
        return *(const double *)value == strtod(key->default_text, NULL);
    case KIND_TEXTS:
        return ((const struct text_list *)value)->count == 0;
    default:
        return strcmp(*(char *const *)value, key->default_text) == 0;
    }
}

static void check_built(struct jobspec_reading *reading)
{
    for (int i = 0; i < KEY_COUNT; i++) {
        const struct jobspec_key *key = &jobspec_keys[i];
        if (!key->only_default || !reading->given[i] || !reading->good[i]) continue;
        if (is_default(key, value_of(reading, i))) continue;
        bool quoted = key->kind == KIND_TEXT;
        char help[120];
        snprintf(help, sizeof help, "leave it out: only its default %s%s%s works so far",
                 quoted ? "\"" : "", key->default_text, quoted ? "\"" : "");
        jobspec_report(reading, MISTAKE_KEY_LATER, &reading->value[i], "not built yet", help,
                       "`%s` in [%s] is not built yet", key->name, title_of(i));
    }
}

/* ---- single keys ---- */

static void check_name(struct jobspec_reading *reading)
{
    enum { NAME_MAX_BYTES = 100 };
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    if (!reading->good[KEY_job_name]) return;
    const char *name = reading->spec->job.name;
    size_t length = strlen(name);
    if (length > 0 && length <= NAME_MAX_BYTES && strspn(name, allowed) == length) return;
    jobspec_report(reading, MISTAKE_TEXT, place_of(reading, KEY_job_name),
                   "1 to 100 letters, digits, '-', '_', '.'", "", "`name` in [job] cannot be used");
}

static void check_after(struct jobspec_reading *reading)
{
    enum { AFTER_MAX = 64 };
    if (!reading->good[KEY_queue_after] || reading->spec->queue.after.count <= AFTER_MAX) return;
    report_range(reading, KEY_queue_after, "at most 64 runs");
}

static void check_train(struct jobspec_reading *reading)
{
    if (reading->good[KEY_data_format] && reading->spec->data.format == FORMAT_LISTOPS) return;
    if (!reading->given[KEY_data_train])
        jobspec_report(reading, MISTAKE_MISSING, &reading->section[SECTION_data],
                       "`train` is missing here", "add `train = \"FILE\"` to [data]",
                       "[data] needs the key `train`");
    else if (reading->good[KEY_data_train] && reading->spec->data.train[0] == '\0')
        jobspec_report(reading, MISTAKE_TEXT, &reading->value[KEY_data_train], "names no file", "",
                       "`train` in [data] is empty");
}

/* Each becomes a line of a script: a second line in it would be anybody's. */
static bool is_one_line(const char *text)
{
    for (; *text != '\0'; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7f) return false;
    return true;
}

/* sbatch acts for the daemon's user, and the daemon finds jobs by what it has asked for. So these alone may be added: no
 * environment, file or cluster of the job's choice. */
static bool is_sbatch_wish(const char *option)
{
    static const char *const wishes[] = {
        "begin",        "comment",     "constraint",  "deadline",  "dependency",
        "distribution", "exclude",     "exclusive",   "gres",      "hint",
        "hold",         "licenses",    "mail-type",   "mail-user", "mem",
        "mem-per-cpu",  "mem-per-gpu", "nice",        "nodelist",  "ntasks-per-node",
        "prefer",       "qos",         "reservation", "switches",  "tmp",
        "wckey"};
    size_t length = strcspn(option, "=");
    for (size_t i = 0; i < sizeof wishes / sizeof wishes[0]; i++)
        if (strlen(wishes[i]) == length && strncmp(option, wishes[i], length) == 0) return true;
    return false;
}

/* NULL, or what is wrong with an option for sbatch. */
static const char *extra_flaw(const char *option)
{
    if (!is_one_line(option)) return "has a control character";
    if (strncmp(option, "--", 2) != 0) return "each is a long option of sbatch, --name=value";
    if (!is_sbatch_wish(option + 2)) return "none of the options of sbatch that a job may add";
    return NULL;
}

static void check_sbatch(struct jobspec_reading *reading)
{
    static const enum jobspec_key_id texts[] = {KEY_slurm_partition, KEY_slurm_account,
                                                KEY_slurm_time};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        if (!reading->good[texts[i]]) continue;
        if (is_one_line(*(char *const *)value_of(reading, texts[i]))) continue;
        reading->good[texts[i]] = false;
        jobspec_report(reading, MISTAKE_TEXT, place_of(reading, texts[i]),
                       "has a control character", "", "`%s` in [resources.slurm] cannot be used",
                       jobspec_keys[texts[i]].name);
    }
    if (!reading->good[KEY_slurm_extra]) return;
    const struct text_list *extra = &reading->spec->slurm.extra;
    for (size_t i = 0; i < extra->count; i++) {
        const char *flaw = extra_flaw(extra->items[i]);
        if (!flaw) continue;
        reading->good[KEY_slurm_extra] = false;
        jobspec_report(reading, MISTAKE_TEXT, place_of(reading, KEY_slurm_extra), flaw, "",
                       "\"%.60s\" of `extra` in [resources.slurm] cannot be used", extra->items[i]);
    }
}

/* ---- keys that must agree ---- */

static bool good(const struct jobspec_reading *reading, enum jobspec_key_id a,
                 enum jobspec_key_id b)
{
    return reading->good[a] && reading->good[b];
}

/* The largest divisor of `number` that is not above `most`. */
static int64_t divisor_below(int64_t number, int64_t most)
{
    if (most > number) most = number;
    while (number % most != 0) most--;
    return most;
}

static void check_divides(struct jobspec_reading *reading, enum jobspec_mistake mistake,
                          enum jobspec_key_id key, enum jobspec_key_id blamed, int64_t divisor,
                          int64_t number, const char *number_words)
{
    if (number % divisor == 0) return;
    char label[100], help[120];
    snprintf(label, sizeof label, "%lld does not divide %lld", (long long)divisor,
             (long long)number);
    snprintf(help, sizeof help, "`%s = %lld` would do", jobspec_keys[key].name,
             (long long)divisor_below(number, divisor));
    jobspec_report(reading, mistake, blame(reading, key, blamed), label, help,
                   "`%s` in [%s] must divide %s", jobspec_keys[key].name, title_of(key),
                   number_words);
}

static void check_shapes(struct jobspec_reading *reading)
{
    const struct jobspec *spec = reading->spec;
    if (good(reading, KEY_model_heads, KEY_model_width))
        check_divides(reading, MISTAKE_HEADS, KEY_model_heads, KEY_model_width, spec->model.heads,
                      spec->model.width, "`width`");
    if (!good(reading, KEY_train_batch, KEY_train_micro_batch)) return;
    int64_t batch = spec->train.batch, micro_batch = spec->train.micro_batch;
    check_divides(reading, MISTAKE_MICRO_BATCH, KEY_train_micro_batch, KEY_train_batch, micro_batch,
                  batch, "`batch`");
    if (batch % micro_batch != 0 || !reading->good[KEY_resources_ranks]) return;
    enum jobspec_key_id blamed =
        reading->given[KEY_train_micro_batch] ? KEY_train_micro_batch : KEY_train_batch;
    check_divides(reading, MISTAKE_RANKS, KEY_resources_ranks, blamed, spec->resources.ranks,
                  batch / micro_batch, "batch / micro_batch");
}

static void check_linformer(struct jobspec_reading *reading)
{
    const struct jobspec *spec = reading->spec;
    if (reading->good[KEY_model_causal] && spec->model.causal)
        jobspec_report(reading, MISTAKE_CAUSAL,
                       blame(reading, KEY_attention_kind, KEY_model_causal),
                       "mixes all positions into each of its keys",
                       "set `causal = false` in [model], or take another kind",
                       "kind = \"linformer\" does not go with causal = true");
    if (!good(reading, KEY_attention_rank, KEY_data_length)) return;
    if (spec->attention.rank <= spec->data.length) return;
    char label[100], help[100];
    snprintf(label, sizeof label, "a rank of %lld for %lld positions",
             (long long)spec->attention.rank, (long long)spec->data.length);
    snprintf(help, sizeof help, "`rank = %lld` in [attention] or less would do",
             (long long)spec->data.length);
    jobspec_report(reading, MISTAKE_RANK, blame(reading, KEY_attention_rank, KEY_data_length),
                   label, help, "`rank` in [attention] is more than `length` in [data]");
}

static void check_reformer(struct jobspec_reading *reading)
{
    if (!reading->good[KEY_attention_buckets] || reading->spec->attention.buckets % 2 == 0) return;
    jobspec_report(reading, MISTAKE_BUCKETS, place_of(reading, KEY_attention_buckets),
                   "a rotation makes two for each direction, one a sign", "take an even number",
                   "`buckets` in [attention] is odd");
}

/* A pair of columns is what a position turns. */
static void check_rotary(struct jobspec_reading *reading)
{
    const struct jobspec *spec = reading->spec;
    if (!reading->good[KEY_model_positions] || spec->model.positions != POSITIONS_ROTARY) return;
    if (!good(reading, KEY_model_heads, KEY_model_width) || spec->model.heads != spec->model.width)
        return;
    jobspec_report(reading, MISTAKE_ROTARY, place_of(reading, KEY_model_positions),
                   "heads of one column have no pair to turn",
                   "take fewer heads, or other positions",
                   "positions = \"rotary\" does not go with `heads` equal to `width`");
}

static void check_attention(struct jobspec_reading *reading)
{
    if (!reading->good[KEY_attention_kind]) return;
    if (reading->spec->attention.kind == ATTENTION_LINFORMER) check_linformer(reading);
    if (reading->spec->attention.kind == ATTENTION_REFORMER) check_reformer(reading);
}

static void check_forward_size(struct jobspec_reading *reading)
{
    enum { TOKENS_MAX = 1 << 28 };
    if (!good(reading, KEY_train_micro_batch, KEY_data_length)) return;
    int64_t tokens = reading->spec->train.micro_batch * reading->spec->data.length;
    if (tokens <= TOKENS_MAX) return;
    char label[100];
    snprintf(label, sizeof label, "micro_batch * length is %lld, the limit is %d",
             (long long)tokens, TOKENS_MAX);
    jobspec_report(reading, MISTAKE_FORWARD_SIZE,
                   blame(reading, KEY_train_micro_batch, KEY_data_length), label,
                   "a smaller `micro_batch` gives the same result in more forward passes",
                   "a forward pass has too many tokens");
}

static void check_validation(struct jobspec_reading *reading)
{
    if (!good(reading, KEY_data_valid, KEY_data_valid_fraction)) return;
    if (reading->spec->data.valid[0] == '\0' || reading->spec->data.valid_fraction == 0) return;
    jobspec_report(reading, MISTAKE_TWO_VALID, &reading->key[KEY_data_valid_fraction],
                   "`valid` is given too",
                   "keep one: a file of its own, or a share of the training file",
                   "`valid` and `valid_fraction` in [data] exclude each other");
}

static void check_vocab(struct jobspec_reading *reading)
{
    if (!good(reading, KEY_data_format, KEY_data_vocab)) return;
    bool tokens = reading->spec->data.format == FORMAT_TOKENS;
    int64_t vocab = reading->spec->data.vocab;
    if (tokens && vocab < 2)
        jobspec_report(reading, MISTAKE_VOCAB, blame(reading, KEY_data_vocab, KEY_data_format),
                       "a tokens file does not say how many ids there are",
                       "add `vocab = N` to [data], one more than the largest id",
                       "format = \"tokens\" needs `vocab`, 2 or more");
    if (!tokens && vocab != 0)
        jobspec_report(reading, MISTAKE_VOCAB, &reading->key[KEY_data_vocab],
                       "has no effect with this format", "leave it out",
                       "`vocab` in [data] is for format = \"tokens\" alone");
}

static void check_objective(struct jobspec_reading *reading)
{
    if (!good(reading, KEY_model_objective, KEY_model_causal)) return;
    bool causal = reading->spec->model.causal;
    enum objective objective = reading->spec->model.objective;
    if (causal && objective == OBJECTIVE_MASKED)
        jobspec_report(reading, MISTAKE_OBJECTIVE, place_of(reading, KEY_model_objective),
                       "needs a model that sees both sides of a gap",
                       "set `causal = false` in [model], or objective = \"next-token\"",
                       "objective = \"masked\" does not go with causal = true");
    if (!causal && objective == OBJECTIVE_NEXT_TOKEN)
        jobspec_report(reading, WARNING_OBJECTIVE, place_of(reading, KEY_model_objective),
                       "the answer is in plain sight",
                       "set `causal = true` in [model], or objective = \"masked\"",
                       "objective = \"next-token\" with causal = false learns to copy");
}

static void check_warmup(struct jobspec_reading *reading)
{
    if (!good(reading, KEY_optimizer_warmup, KEY_train_steps)) return;
    if (reading->spec->optimizer.warmup <= reading->spec->train.steps) return;
    jobspec_report(reading, WARNING_WARMUP, place_of(reading, KEY_optimizer_warmup),
                   "more steps than the run has", "",
                   "the warm-up ends after the training: `lr` is never reached");
}

/* INFINITY: the machine does not say. */
static double machine_bytes(void)
{
    const long pages = sysconf(_SC_PHYS_PAGES), bytes = sysconf(_SC_PAGESIZE);
    return pages > 0 && bytes > 0 ? (double)pages * (double)bytes : INFINITY;
}

static double job_bytes(const struct jobspec *spec)
{
    struct cost cost;
    cost_of(spec, &cost);
    return (double)spec->resources.ranks * (double)cost.bytes_total;
}

/* What kernels keep for themselves is not known here: what is warned of does not fit, what is not may yet not fit. */
static void check_memory(struct jobspec_reading *reading)
{
    if (reading->diagnostics->errors > 0) return;
    const struct jobspec *spec = reading->spec;
    const double bytes = job_bytes(spec), room = machine_bytes();
    if (bytes <= room) return;

    enum jobspec_key_id key = KEY_data_length;
    struct jobspec less = *spec;
    char label[100], help[120] = "a smaller `length` in [data] or a smaller [model] takes less";
    if (spec->train.recompute == RECOMPUTE_NONE) {
        key = KEY_train_recompute;
        less.train.recompute = RECOMPUTE_LAYER;
        snprintf(help, sizeof help, "with `recompute = \"layer\"` in [train] it takes %.3g GB",
                 job_bytes(&less) * 1e-9);
    } else if (spec->train.micro_batch > 1) {
        key = KEY_train_micro_batch;
        less.train.micro_batch = 1;
        snprintf(help, sizeof help, "with `micro_batch = 1` in [train] it takes %.3g GB",
                 job_bytes(&less) * 1e-9);
    }
    snprintf(label, sizeof label, "%.3g GB are needed at least", bytes * 1e-9);
    jobspec_report(reading, WARNING_MEMORY, place_of(reading, key), label, help,
                   "the job does not fit into the %.3g GB of this machine", room * 1e-9);
}

/* ---- redraws by the error, and values that do nothing ---- */

static void warn_no_effect(const struct jobspec_reading *reading, enum jobspec_key_id id,
                           const char *label, const char *help)
{
    const struct jobspec_key *key = &jobspec_keys[id];
    /* The resolved file gives every key: a default that is written down is nobody's mistake. */
    if (!reading->given[id] || !reading->good[id] || is_default(key, value_of(reading, id))) return;
    jobspec_report(reading, WARNING_NO_EFFECT, &reading->value[id], label, help,
                   "`%s` in [%s] has no effect", key->name, title_of(id));
}

static void check_features(struct jobspec_reading *reading)
{
    const struct jobspec *spec = reading->spec;
    if (!good(reading, KEY_attention_kind, KEY_attention_kernel)) return;
    if (spec->attention.kind != ATTENTION_FAVOR || spec->attention.kernel != KERNEL_ELU1) return;
    warn_no_effect(reading, KEY_attention_features, "kernel = \"elu1\" has no random features",
                   "leave it out, or take another kernel");
}

/* It would come the same way to the same divergence. */
static void check_divergence(struct jobspec_reading *reading)
{
    if (!good(reading, KEY_attention_kind, KEY_attention_kernel)) return;
    if (!reading->good[KEY_train_on_divergence] || jobspec_has_projection(reading->spec)) return;
    if (reading->spec->train.on_divergence != DIVERGENCE_BACK) return;
    jobspec_report(reading, MISTAKE_REWIND, place_of(reading, KEY_train_on_divergence),
                   "it goes back to draw other features, and this attention has none",
                   "take \"skip\", or \"stop\"",
                   "on_divergence = \"back\" would diverge again in the same way");
}

static void check_nodes(struct jobspec_reading *reading)
{
    const struct jobspec *spec = reading->spec;
    if (!good(reading, KEY_slurm_nodes, KEY_resources_ranks)) return;
    if (spec->slurm.nodes <= spec->resources.ranks) return;
    jobspec_report(reading, MISTAKE_NODES, blame(reading, KEY_slurm_nodes, KEY_resources_ranks),
                   "more nodes than ranks", "every node runs one rank or more",
                   "`nodes` in [resources.slurm] is more than `ranks` in [resources]");
}

static void check_launcher(struct jobspec_reading *reading)
{
    if (!reading->good[KEY_resources_launcher]) return;
    if (reading->spec->resources.launcher == LAUNCHER_SLURM) {
        check_nodes(reading);
        return;
    }
    for (int i = 0; i < KEY_COUNT; i++)
        if (jobspec_keys[i].section == SECTION_slurm)
            warn_no_effect(reading, i, "for launcher = \"slurm\" alone",
                           "leave it out, or set launcher = \"slurm\" in [resources]");
}

static void check_error_exists(struct jobspec_reading *reading)
{
    const struct jobspec *spec = reading->spec;
    const struct jobspec_place *place = place_of(reading, KEY_redraw_policy);
    if (!good(reading, KEY_attention_kind, KEY_attention_kernel)) return;
    if (attention_estimates_softmax(spec->attention.kind, spec->attention.kernel)) return;
    char label[100];
    if (spec->attention.kind == ATTENTION_FAVOR)
        snprintf(label, sizeof label, "kernel = \"%s\" does not estimate softmax",
                 attention_kernel_text(spec->attention.kernel));
    else
        snprintf(label, sizeof label, "kind = \"%s\" does not estimate softmax by features",
                 attention_kind_text(spec->attention.kind));
    jobspec_report(reading, MISTAKE_NO_ERROR, place, label,
                   "take a kernel of favor that begins with softmax-, or policy = \"fixed\"",
                   "policy = \"adaptive\" has no error of the attention to go by");
}

static void check_adaptive(struct jobspec_reading *reading)
{
    const struct jobspec *spec = reading->spec;
    const struct jobspec_place *place = place_of(reading, KEY_redraw_policy);
    check_error_exists(reading);
    warn_no_effect(reading, KEY_redraw_every, "for policy = \"fixed\" alone",
                   "leave it out: `every` in [evaluate] says how often the error is looked at");
    if (good(reading, KEY_data_valid, KEY_data_valid_fraction) && !jobspec_validates(spec))
        jobspec_report(reading, MISTAKE_NO_VALIDATION, place,
                       "the error is measured in evaluations",
                       "add `valid` or `valid_fraction` to [data], or take policy = \"fixed\"",
                       "policy = \"adaptive\" needs validation data");
    if (!good(reading, KEY_evaluate_every, KEY_train_steps)) return;
    if (spec->evaluate.every < spec->train.steps) return;
    jobspec_report(reading, WARNING_NEVER, blame(reading, KEY_evaluate_every, KEY_train_steps),
                   "no evaluation comes before the last step", "evaluate more often",
                   "policy = \"adaptive\" will never redraw");
}

static void check_redraw(struct jobspec_reading *reading)
{
    if (!reading->good[KEY_redraw_policy]) return;
    if (reading->spec->redraw.policy == POLICY_ADAPTIVE)
        check_adaptive(reading);
    else
        warn_no_effect(reading, KEY_redraw_threshold, "for policy = \"adaptive\" alone",
                       "leave it out, or set policy = \"adaptive\" in [redraw]");
}

/* ---- defaults that follow from other keys ---- */

static int64_t default_threads(int64_t ranks)
{
    cpu_set_t cores;
    if (sched_getaffinity(0, sizeof cores, &cores) != 0) return 1;
    int64_t threads = CPU_COUNT(&cores) / ranks;
    return threads > 0 ? threads : 1;
}

static double default_epsilon(enum attention_kernel kernel)
{
    switch (kernel) {
    case KERNEL_SOFTMAX_POSITIVE:
    case KERNEL_SOFTMAX_HYPERBOLIC:
        return 1e-6;
    case KERNEL_SOFTMAX_TRIG:
    case KERNEL_ELU1:
        return 0;
    default:
        return 1e-3;
    }
}

static void derive_defaults(struct jobspec_reading *reading)
{
    struct jobspec *spec = reading->spec;
    int64_t ranks = reading->good[KEY_resources_ranks] ? spec->resources.ranks : 1;
    if (!reading->given[KEY_resources_threads])
        spec->resources.threads = spec->resources.launcher == LAUNCHER_SLURM
                                      ? 1 /* nobody knows the nodes' cores yet */
                                      : default_threads(ranks > 0 ? ranks : 1);
    if (!reading->given[KEY_model_objective])
        spec->model.objective = spec->model.causal ? OBJECTIVE_NEXT_TOKEN : OBJECTIVE_MASKED;
    if (!reading->given[KEY_attention_epsilon])
        spec->attention.epsilon = default_epsilon(spec->attention.kernel);
    if (!reading->given[KEY_data_vocab]) spec->data.vocab = 0;
}

void jobspec_check(struct jobspec_reading *reading)
{
    derive_defaults(reading);
    check_ranges(reading);
    check_built(reading);
    check_name(reading);
    check_train(reading);
    check_after(reading);
    check_sbatch(reading);
    check_shapes(reading);
    check_launcher(reading);
    check_rotary(reading);
    check_attention(reading);
    check_forward_size(reading);
    check_validation(reading);
    check_vocab(reading);
    check_objective(reading);
    check_warmup(reading);
    check_features(reading);
    check_divergence(reading);
    check_redraw(reading);
    check_memory(reading);
}

/* ---- of a finished spec ---- */

void jobspec_check_init(const struct jobspec *spec, const char *path,
                        struct diagnostics *diagnostics)
{
    static const struct jobspec_place nowhere;
    const struct jobspec_reading reading = {.path = path, .diagnostics = diagnostics};
    const char *init = spec->model.init;
    struct stat about;

    if (init[0] == '\0') return;
    const bool there = access(init, R_OK) == 0 && stat(init, &about) == 0;
    if (there && !S_ISDIR(about.st_mode)) return;
    jobspec_report(&reading, MISTAKE_NO_FILE, &nowhere, "",
                   there ? "add /model.safetensors, where it is a checkpoint"
                         : "name the model.safetensors of a checkpoint, relative to the job file",
                   "`init` in [model] cannot be read: %.120s: %s", init,
                   there ? "it is a directory" : strerror(errno));
}

int64_t jobspec_vocab(const struct jobspec *spec)
{
    switch (spec->data.format) {
    case FORMAT_FASTA:
        return FASTA_VOCAB;
    case FORMAT_TEXT:
        return TEXT_VOCAB;
    default:
        return spec->data.vocab + (spec->model.objective == OBJECTIVE_MASKED ? 1 : 0);
    }
}

bool jobspec_has_projection(const struct jobspec *spec)
{
    switch (spec->attention.kind) {
    case ATTENTION_FAVOR:
        return spec->attention.kernel != KERNEL_ELU1;
    case ATTENTION_LINFORMER:
    case ATTENTION_REFORMER:
        return true;
    default:
        return false;
    }
}

bool jobspec_validates(const struct jobspec *spec)
{
    return spec->data.valid_fraction > 0 || (spec->data.valid && spec->data.valid[0] != '\0');
}

bool attention_estimates_softmax(enum attention_kind kind, enum attention_kernel kernel)
{
    return kind == ATTENTION_FAVOR &&
           (kernel == KERNEL_SOFTMAX_POSITIVE || kernel == KERNEL_SOFTMAX_HYPERBOLIC ||
            kernel == KERNEL_SOFTMAX_TRIG);
}

int64_t jobspec_head_dim(const struct jobspec *spec)
{
    return spec->model.width / spec->model.heads;
}
