#ifndef PROTO_JOBSPEC_H
#define PROTO_JOBSPEC_H

/*
 * What a user asks for: the job file, parsed, defaulted and checked. Everything here is made from
 * proto/jobspec.def; the parser (jobspec.cpp) is the one file that knows toml++.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/choice.h"
#include "proto/diagnostic.h"
#include "proto/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Of a job file: twice that, as written and resolved, goes into one message (proto/wire.h). */
enum { JOBSPEC_BYTES_MAX = 256 * 1024 };

struct text_list {
    size_t count;
    char **items;
};

#define JOBSPEC_TYPE_TEXT       char *
#define JOBSPEC_TYPE_PATH       char *
#define JOBSPEC_TYPE_TEXTS      struct text_list
#define JOBSPEC_TYPE_INT        int64_t
#define JOBSPEC_TYPE_REAL       double
#define JOBSPEC_TYPE_FLAG       bool
#define JOBSPEC_TYPE_LAUNCHER   enum launcher
#define JOBSPEC_TYPE_DEVICE     enum device
#define JOBSPEC_TYPE_FORMAT     enum data_format
#define JOBSPEC_TYPE_PACKING    enum packing
#define JOBSPEC_TYPE_OBJECTIVE  enum objective
#define JOBSPEC_TYPE_POSITIONS  enum positions
#define JOBSPEC_TYPE_ATTENTION  enum attention_kind
#define JOBSPEC_TYPE_KERNEL     enum attention_kernel
#define JOBSPEC_TYPE_POLICY     enum redraw_policy
#define JOBSPEC_TYPE_SCHEDULE   enum lr_schedule
#define JOBSPEC_TYPE_DIVERGENCE enum on_divergence
#define JOBSPEC_TYPE_PRECISION  enum precision
#define JOBSPEC_TYPE_RECOMPUTE  enum recompute

/* spec->train.micro_batch, spec->attention.kind, spec->slurm.partition, ... as in the file. */
struct jobspec {
#define JOBSPEC_FIELD(section, key, kind, default_, support, meaning) JOBSPEC_TYPE_##kind key;
#define JOBSPEC_STRUCT(section, title, KEYS) \
    struct {                                 \
        KEYS(JOBSPEC_FIELD)                  \
    } section;
    JOBSPEC_SECTIONS(JOBSPEC_STRUCT)
#undef JOBSPEC_STRUCT
#undef JOBSPEC_FIELD
};

/* One --set: "train.steps=100". It is parsed as TOML after the file and its errors point into itself; a
 * value that is no TOML is taken as a text, so that quotes may be left out. A path in it is taken against the
 * directory of the job file too. */
struct jobspec_override {
    const char *text;
};

/*
 * Parses `text` (`length` bytes, need not end in NUL) as the job file `path`. Relative paths in it are
 * taken against the directory of `path` and come out absolute. All mistakes are put into `diagnostics`,
 * not only the first; warnings too, and those alone do not fail the parse. On ST_OK `*spec` is the
 * caller's, to be freed by jobspec_free. ST_INVALID: mistakes in the file; ST_TOO_LARGE: over JOBSPEC_BYTES_MAX.
 */
enum status jobspec_parse(const char *text, size_t length, const char *path,
                          const struct jobspec_override *overrides, size_t override_count,
                          struct diagnostics *diagnostics, struct jobspec *spec);

/* Reads the file and parses it. Additionally ST_NOT_FOUND, ST_IO and the like, with words in `fault`. */
enum status jobspec_load(const char *path, const struct jobspec_override *overrides,
                         size_t override_count, struct diagnostics *diagnostics,
                         struct jobspec *spec, struct fault *fault);

/*
 * Adds a mistake to `diagnostics` where model.init of the job file `path` names nothing that can be read here. Apart from
 * the parse: it is a mistake in a job that is yet to begin, and a run that goes on from its own checkpoint needs it no more.
 */
void jobspec_check_init(const struct jobspec *spec, const char *path,
                        struct diagnostics *diagnostics);

/*
 * The resolved job file: every key of every section with the value in force and its meaning as a
 * comment, such that parsing it gives the same spec. The string is the caller's, to be freed.
 * ST_NO_MEMORY is the only failure.
 */
enum status jobspec_print(const struct jobspec *spec, char **text);

/* Frees what the spec owns and zeroes it; a zeroed spec may be freed. */
void jobspec_free(struct jobspec *spec);

/* Token ids are 0 ... vocab-1: see proto/vocabulary.h for fasta and text; data.vocab for tokens, and one
 * more, a MASK, where the objective is masked. */
int64_t jobspec_vocab(const struct jobspec *spec);

/* Whether its attention has random matrices, which are drawn and redrawn: favor, but for elu1, which takes queries
 * and keys themselves; linformer and reformer. */
bool jobspec_has_projection(const struct jobspec *spec);

/* Whether it has validation data. */
bool jobspec_validates(const struct jobspec *spec);

/* Whether such attention estimates exact softmax attention, so that its error can be told. */
bool attention_estimates_softmax(enum attention_kind kind, enum attention_kernel kernel);

/* Head size, width / heads. */
int64_t jobspec_head_dim(const struct jobspec *spec);

#ifdef __cplusplus
}
#endif

#endif
