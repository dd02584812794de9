#ifndef PROTO_JOBSPEC_KEY_H
#define PROTO_JOBSPEC_KEY_H

/*
 * jobspec.def as tables, for whoever walks over all keys: the parser, the printer, the tests. A job file's
 * values are reached by offset; everybody else uses the fields of struct jobspec.
 */

#include "proto/jobspec.h"

#ifdef __cplusplus
extern "C" {
#endif

#define JOBSPEC_SECTION_ID(section, title, KEYS) SECTION_##section,
enum jobspec_section { JOBSPEC_SECTIONS(JOBSPEC_SECTION_ID) SECTION_COUNT };
#undef JOBSPEC_SECTION_ID

/* KEY_train_micro_batch and so on. */
#define JOBSPEC_KEY_ID(section, key, kind, default_, support, meaning) KEY_##section##_##key,
#define JOBSPEC_KEY_IDS(section, title, KEYS)                          KEYS(JOBSPEC_KEY_ID)
enum jobspec_key_id { JOBSPEC_SECTIONS(JOBSPEC_KEY_IDS) KEY_COUNT };
#undef JOBSPEC_KEY_IDS
#undef JOBSPEC_KEY_ID

#define JOBSPEC_KIND_OF_CHOICE(KIND, tag, LIST) KIND_##KIND,
enum jobspec_kind {
    KIND_TEXT,
    KIND_PATH,
    KIND_TEXTS,
    KIND_INT,
    KIND_REAL,
    KIND_FLAG,
    JOBSPEC_CHOICES(JOBSPEC_KIND_OF_CHOICE) KIND_COUNT
};
#undef JOBSPEC_KIND_OF_CHOICE

/* What stands for a default where there is none; told apart by address. */
extern const char jobspec_required[], jobspec_derived[];

struct jobspec_key {
    enum jobspec_section section;
    const char *name;
    enum jobspec_kind kind;
    const char *default_text; /* the value, texts without quotes; or one of the two above */
    bool only_default;
    const char *meaning;
    size_t offset; /* of the value in struct jobspec */
};

struct jobspec_choice {
    const char *text;
    int value;
    bool built;
};

struct jobspec_choices {
    size_t count;
    const struct jobspec_choice *items;
};

extern const struct jobspec_key jobspec_keys[KEY_COUNT];

/* "resources.slurm" */
extern const char *const jobspec_section_titles[SECTION_COUNT];

/* The values of a kind that is a choice; none for the other kinds. */
struct jobspec_choices jobspec_kind_choices(enum jobspec_kind kind);

#ifdef __cplusplus
}
#endif

#endif
