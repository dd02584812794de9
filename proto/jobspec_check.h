#ifndef PROTO_JOBSPEC_CHECK_H
#define PROTO_JOBSPEC_CHECK_H

/*
 * What makes a job file wrong although each value has its kind: ranges, keys that do not agree, what is
 * not built yet. Also the one list of all mistakes and their codes. Between jobspec.cpp, which reads, and
 * jobspec_check.c, which judges.
 */

#include "proto/diagnostic.h"
#include "proto/jobspec_key.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Codes are stable: scripts and search engines know them. Never renumber one.
 * M(enumerator, code, severity, meaning) */
#define JOBSPEC_MISTAKES(M)                                                                       \
    M(MISTAKE_SYNTAX, "E0101", SEVERITY_ERROR, "not TOML")                                        \
    M(MISTAKE_TOO_LARGE, "E0102", SEVERITY_ERROR, "the file is too large")                        \
    M(MISTAKE_TOO_DEEP, "E0103", SEVERITY_ERROR, "names nested too deeply")                       \
    M(MISTAKE_OVERRIDE, "E0104", SEVERITY_ERROR, "an override that is no section.key=value")      \
    M(MISTAKE_SECTION, "E0201", SEVERITY_ERROR, "unknown section")                                \
    M(MISTAKE_NO_SECTION, "E0202", SEVERITY_ERROR, "a key outside of every section")              \
    M(MISTAKE_KEY, "E0203", SEVERITY_ERROR, "unknown key")                                        \
    M(MISTAKE_NOT_A_SECTION, "E0204", SEVERITY_ERROR, "a value where a section belongs")          \
    M(MISTAKE_MISSING, "E0205", SEVERITY_ERROR, "a required key is missing")                      \
    M(MISTAKE_TYPE, "E0301", SEVERITY_ERROR, "a value of another type")                           \
    M(MISTAKE_CHOICE, "E0302", SEVERITY_ERROR, "not one of the values of this key")               \
    M(MISTAKE_RANGE, "E0303", SEVERITY_ERROR, "out of range")                                     \
    M(MISTAKE_TEXT, "E0304", SEVERITY_ERROR, "a text with characters that cannot be used")        \
    M(MISTAKE_CHOICE_LATER, "E0401", SEVERITY_ERROR, "a value that is not built yet")             \
    M(MISTAKE_KEY_LATER, "E0402", SEVERITY_ERROR, "a key that is not built yet")                  \
    M(MISTAKE_HEADS, "E0501", SEVERITY_ERROR, "heads does not divide width")                      \
    M(MISTAKE_MICRO_BATCH, "E0502", SEVERITY_ERROR, "micro_batch does not divide batch")          \
    M(MISTAKE_RANKS, "E0503", SEVERITY_ERROR, "ranks does not divide batch / micro_batch")        \
    M(MISTAKE_TWO_VALID, "E0504", SEVERITY_ERROR, "valid and valid_fraction")                     \
    M(MISTAKE_VOCAB, "E0505", SEVERITY_ERROR, "vocab and format")                                 \
    M(MISTAKE_OBJECTIVE, "E0506", SEVERITY_ERROR, "objective and causal")                         \
    M(MISTAKE_FORWARD_SIZE, "E0507", SEVERITY_ERROR, "too many tokens in a forward")              \
    M(MISTAKE_CAUSAL, "E0508", SEVERITY_ERROR, "an attention that cannot be causal")              \
    M(MISTAKE_RANK, "E0509", SEVERITY_ERROR, "rank is more than length")                          \
    M(MISTAKE_BUCKETS, "E0510", SEVERITY_ERROR, "buckets is odd")                                 \
    M(MISTAKE_ROTARY, "E0511", SEVERITY_ERROR, "rotary positions and heads of one column")        \
    M(MISTAKE_NO_ERROR, "E0512", SEVERITY_ERROR, "adaptive, and no error to go by")               \
    M(MISTAKE_NO_VALIDATION, "E0513", SEVERITY_ERROR, "adaptive, and no validation data")         \
    M(MISTAKE_NO_FILE, "E0514", SEVERITY_ERROR, "a file that cannot be read")                     \
    M(MISTAKE_NODES, "E0515", SEVERITY_ERROR, "more nodes than ranks")                            \
    M(MISTAKE_REWIND, "E0516", SEVERITY_ERROR, "back, and no features to draw anew")              \
    M(WARNING_OBJECTIVE, "W0601", SEVERITY_WARNING, "next-token in a model that sees all tokens") \
    M(WARNING_WARMUP, "W0602", SEVERITY_WARNING, "the warm-up is longer than the training")       \
    M(WARNING_MEMORY, "W0603", SEVERITY_WARNING, "more memory than this machine has")             \
    M(WARNING_NO_EFFECT, "W0604", SEVERITY_WARNING, "a value that has no effect")                 \
    M(WARNING_NEVER, "W0605", SEVERITY_WARNING, "adaptive, and evaluated at the end alone")

#define JOBSPEC_MISTAKE_ID(enumerator, code, severity, meaning) enumerator,
enum jobspec_mistake { JOBSPEC_MISTAKES(JOBSPEC_MISTAKE_ID) MISTAKE_COUNT };
#undef JOBSPEC_MISTAKE_ID

/* Some bytes of a line of a source that is kept while the parse lasts. */
struct jobspec_place {
    const char *source;    /* its name; NULL: no place, `line` is 0 */
    const char *line_text; /* not ended */
    size_t line_length;
    int line, column, length;
};

/* A job file as read: which keys were given and where, and which values can be relied on. */
struct jobspec_reading {
    const char *path;
    struct diagnostics *diagnostics;
    struct jobspec *spec;
    bool given[KEY_COUNT];
    bool good[KEY_COUNT]; /* the value in `spec` is of its kind; a default is */
    struct jobspec_place key[KEY_COUNT], value[KEY_COUNT]; /* where given */
    struct jobspec_place section[SECTION_COUNT];           /* its header, where it has one */
};

/* Adds a diagnostic; `label` and `help` may be empty. */
void jobspec_report(const struct jobspec_reading *reading, enum jobspec_mistake mistake,
                    const struct jobspec_place *place, const char *label, const char *help,
                    const char *message, ...) __attribute__((format(printf, 6, 7)));

/* Fills derived defaults, then judges every value that is good. */
void jobspec_check(struct jobspec_reading *reading);

#ifdef __cplusplus
}
#endif

#endif
