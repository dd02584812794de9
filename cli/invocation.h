#ifndef CLI_INVOCATION_H
#define CLI_INVOCATION_H

/* One command line, taken apart by the lists of cli/verbs.def. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cli/exit_code.h"
#include "cli/verbs.def"
#include "proto/jobspec.h"
#include "proto/status.h"

enum option_kind {
    OPTION_KIND_FLAG,
    OPTION_KIND_TEXT,
    OPTION_KIND_TEXTS,
    OPTION_KIND_COUNT,
    OPTION_KIND_SECONDS,
    OPTION_KIND_MAYBE_SECONDS,
};

enum option {
#define OPTION_ENUM(enumerator, name, letter, value, kind, help) enumerator,
    VERB_OPTIONS(OPTION_ENUM)
#undef OPTION_ENUM
        OPTION_COUNT
};

enum argument {
#define ARGUMENT_ENUM(enumerator, text, needed) enumerator,
    VERB_ARGUMENTS(ARGUMENT_ENUM)
#undef ARGUMENT_ENUM
};

struct option_rule {
    const char *name;
    char letter;       /* 0: none */
    const char *value; /* what stands for its value in the help; "": it takes none */
    enum option_kind kind;
    const char *help;
};

struct argument_rule {
    const char *text;
    bool needed;
};

struct invocation;

struct verb {
    const char *name;
    enum argument argument;
    uint32_t options; /* bit set of enum option */
    const char *help;
    enum exit_code (*run)(const struct invocation *invocation);
};

extern const struct option_rule option_rules[OPTION_COUNT];
extern const struct argument_rule argument_rules[];
extern const struct verb verbs[];
extern const size_t verb_count;

enum { OVERRIDES_MAX = 64 };

struct option_value {
    bool given;
    const char *text; /* as typed, NULL where it takes no value or none was given */
    double number;    /* of COUNT, SECONDS and MAYBE_SECONDS with a value */
};

/* Points into argv. */
struct invocation {
    const struct verb *verb;
    const char *argument; /* NULL: none given */
    struct option_value options[OPTION_COUNT];
    struct jobspec_override overrides[OVERRIDES_MAX];
    size_t override_count;
};

/*
 * Options may stand before or after the verb and its argument; `--` ends them. --help and --version
 * become the verbs help and version. ST_INVALID: a mistake, with a suggestion in `fault` where one is near;
 * ST_UNSUPPORTED: a verb that is not built yet.
 */
enum status invocation_parse(int argc, char *const argv[], struct invocation *invocation,
                             struct fault *fault);

/* NULL: no verb of that name. */
const struct verb *verb_find(const char *name);
bool verb_takes(const struct verb *verb, enum option option);

/* Whether --json stands there, for a command line that does not parse. */
bool invocation_wants_json(int argc, char *const argv[]);

bool invocation_json(const struct invocation *invocation);

/* The value of a COUNT option, or `otherwise`. */
uint64_t invocation_count(const struct invocation *invocation, enum option option,
                          uint64_t otherwise);

#endif
