#include "cli/invocation.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/verbs.h"

#define TAKES(option) (UINT32_C(1) << (option))

static_assert(OPTION_COUNT <= 32, "options of a verb are a set of 32 bits");

const struct option_rule option_rules[OPTION_COUNT] = {
#define OPTION_ROW(enumerator, name, letter, value, kind, help) \
    [enumerator] = {name, letter, value, OPTION_KIND_##kind, help},
    VERB_OPTIONS(OPTION_ROW)
#undef OPTION_ROW
};

const struct argument_rule argument_rules[] = {
#define ARGUMENT_ROW(enumerator, text, needed) [enumerator] = {text, needed},
    VERB_ARGUMENTS(ARGUMENT_ROW)
#undef ARGUMENT_ROW
};

const struct verb verbs[] = {
#define VERB_ROW(name, argument, options, help) \
    {#name, argument, (options) | VERB_OPTIONS_GLOBAL, help, verb_##name},
    VERBS(VERB_ROW)
#undef VERB_ROW
};
const size_t verb_count = sizeof verbs / sizeof verbs[0];

const struct verb *verb_find(const char *name)
{
    for (size_t i = 0; i < verb_count; i++)
        if (strcmp(verbs[i].name, name) == 0) return &verbs[i];
    return NULL;
}

bool verb_takes(const struct verb *verb, enum option option)
{
    return (verb->options & TAKES(option)) != 0;
}

bool invocation_wants_json(int argc, char *const argv[])
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--json") == 0) return true;
    return false;
}

bool invocation_json(const struct invocation *invocation)
{
    return invocation->options[OPTION_JSON].given;
}

uint64_t invocation_count(const struct invocation *invocation, enum option option,
                          uint64_t otherwise)
{
    const struct option_value *value = &invocation->options[option];
    return value->given ? (uint64_t)value->number : otherwise;
}

/* ---- verbs ---- */

static enum status refuse_verb(const char *name, struct fault *fault)
{
    const char *names[sizeof verbs / sizeof verbs[0]];

    for (size_t i = 0; i < verb_count; i++) names[i] = verbs[i].name;
    const char *near = nearest_word(name, names, verb_count);
    if (near) return fault_set(fault, ST_INVALID, "no verb `%s`; did you mean `%s`?", name, near);
    return fault_set(fault, ST_INVALID, "no verb `%s`; see `performerctl help`", name);
}

/* ---- options ---- */

static enum status refuse_option(const struct verb *verb, const char *name, struct fault *fault)
{
    const char *names[OPTION_COUNT];
    size_t count = 0;

    for (int i = 0; i < OPTION_COUNT; i++)
        if (!verb || verb_takes(verb, (enum option)i)) names[count++] = option_rules[i].name;
    const char *near = nearest_word(name, names, count);
    if (near) return fault_set(fault, ST_INVALID, "no option --%s; did you mean --%s?", name, near);
    return fault_set(fault, ST_INVALID, "no option --%s; see `performerctl help%s%s`", name,
                     verb ? " " : "", verb ? verb->name : "");
}

static bool option_by_name(const char *name, size_t length, enum option *option)
{
    for (int i = 0; i < OPTION_COUNT; i++) {
        if (strlen(option_rules[i].name) != length) continue;
        if (memcmp(option_rules[i].name, name, length) != 0) continue;
        *option = (enum option)i;
        return true;
    }
    return false;
}

static bool option_by_letter(char letter, enum option *option)
{
    for (int i = 0; i < OPTION_COUNT; i++) {
        if (option_rules[i].letter == 0 || option_rules[i].letter != letter) continue;
        *option = (enum option)i;
        return true;
    }
    return false;
}

/* Steps and lines stay below 2^53, so that a double holds them. */
static bool parse_count(const char *text, double *number)
{
    char *end;

    if (!isdigit((unsigned char)text[0])) return false;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (*end != '\0' || errno != 0 || value > (UINT64_C(1) << 53)) return false;
    *number = (double)value;
    return true;
}

/* 1e9 s, some thirty years, keeps milliseconds of it in an int64_t. */
static bool parse_seconds(const char *text, double *number)
{
    char *end;

    if (!isdigit((unsigned char)text[0]) && text[0] != '.') return false;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(value) || value > 1e9) return false;
    *number = value;
    return true;
}

static enum status option_store(struct invocation *invocation, enum option option, const char *text,
                                struct fault *fault)
{
    const struct option_rule *rule = &option_rules[option];
    struct option_value *value = &invocation->options[option];
    double number = 0;

    if (rule->kind == OPTION_KIND_COUNT && !parse_count(text, &number))
        return fault_set(fault, ST_INVALID, "--%s takes a whole number, not `%s`", rule->name,
                         text);
    if ((rule->kind == OPTION_KIND_SECONDS || (rule->kind == OPTION_KIND_MAYBE_SECONDS && text)) &&
        !parse_seconds(text, &number))
        return fault_set(fault, ST_INVALID, "--%s takes seconds, not `%s`", rule->name, text);
    if (rule->kind == OPTION_KIND_TEXTS) {
        if (invocation->override_count == OVERRIDES_MAX)
            return fault_set(fault, ST_INVALID, "more than %d --%s", OVERRIDES_MAX, rule->name);
        invocation->overrides[invocation->override_count++].text = text;
    }
    *value = (struct option_value){.given = true, .text = text, .number = number};
    return ST_OK;
}

struct cursor {
    int argc;
    char *const *argv;
    int at; /* the word being read */
};

/*
 * The value of an option: what is joined to it, else the next word. An optional one is taken from the next
 * word only if that is a number, so that `status --watch RUN` watches RUN.
 */
static enum status option_take(struct invocation *invocation, struct cursor *cursor,
                               enum option option, const char *joined, struct fault *fault)
{
    const struct option_rule *rule = &option_rules[option];
    const char *next = cursor->at + 1 < cursor->argc ? cursor->argv[cursor->at + 1] : NULL;
    double number;

    if (rule->kind == OPTION_KIND_FLAG) {
        if (joined) return fault_set(fault, ST_INVALID, "--%s takes no value", rule->name);
        return option_store(invocation, option, NULL, fault);
    }
    if (joined) return option_store(invocation, option, joined, fault);
    if (rule->kind == OPTION_KIND_MAYBE_SECONDS) {
        if (!next || !parse_seconds(next, &number))
            return option_store(invocation, option, NULL, fault);
    } else if (!next) {
        return fault_set(fault, ST_INVALID, "--%s needs a value: --%s %s", rule->name, rule->name,
                         rule->value);
    }
    cursor->at++;
    return option_store(invocation, option, next, fault);
}

static enum status parse_long(struct invocation *invocation, struct cursor *cursor,
                              struct fault *fault)
{
    const char *word = cursor->argv[cursor->at] + 2;
    size_t length = strcspn(word, "=");
    const char *joined = word[length] == '=' ? word + length + 1 : NULL;
    enum option option;

    if (!option_by_name(word, length, &option)) {
        char name[80];
        if (length >= sizeof name) length = sizeof name - 1;
        memcpy(name, word, length);
        name[length] = '\0';
        return refuse_option(invocation->verb, name, fault);
    }
    return option_take(invocation, cursor, option, joined, fault);
}

/* -f, -n5, -fn 5 */
static enum status parse_letters(struct invocation *invocation, struct cursor *cursor,
                                 struct fault *fault)
{
    for (const char *letter = cursor->argv[cursor->at] + 1; *letter; letter++) {
        enum option option;
        if (!option_by_letter(*letter, &option))
            return fault_set(fault, ST_INVALID, "no option -%c; see `performerctl help%s%s`",
                             *letter, invocation->verb ? " " : "",
                             invocation->verb ? invocation->verb->name : "");
        bool flag = option_rules[option].kind == OPTION_KIND_FLAG;
        const char *joined = !flag && letter[1] ? letter + 1 : NULL;
        enum status status = option_take(invocation, cursor, option, joined, fault);
        if (status != ST_OK || !flag) return status;
    }
    return ST_OK;
}

static enum status parse_word(struct invocation *invocation, const char *word, struct fault *fault)
{
    if (!invocation->verb) {
        invocation->verb = verb_find(word);
        return invocation->verb ? ST_OK : refuse_verb(word, fault);
    }
    if (invocation->argument || invocation->verb->argument == ARGUMENT_NONE)
        return fault_set(fault, ST_INVALID, "`%s` is one word too many; see `performerctl help %s`",
                         word, invocation->verb->name);
    invocation->argument = word;
    return ST_OK;
}

/* ---- the whole ---- */

static enum status check_complete(const struct invocation *invocation, struct fault *fault)
{
    const struct verb *verb = invocation->verb;

    if (!verb) return fault_set(fault, ST_INVALID, "no verb given; see `performerctl help`");
    for (int i = 0; i < OPTION_COUNT; i++)
        if (invocation->options[i].given && !verb_takes(verb, (enum option)i))
            return fault_set(fault, ST_INVALID, "`%s` takes no --%s; see `performerctl help %s`",
                             verb->name, option_rules[i].name, verb->name);
    if (argument_rules[verb->argument].needed && !invocation->argument)
        return fault_set(fault, ST_INVALID, "`%s` needs an argument: performerctl %s %s",
                         verb->name, verb->name, argument_rules[verb->argument].text);
    return ST_OK;
}

/* `VERB --help` is `help VERB`, `--version` is `version`. */
static void turn_into_verb(struct invocation *invocation)
{
    if (invocation->options[OPTION_HELP].given) {
        if (invocation->verb && invocation->verb->argument != ARGUMENT_MAYBE_VERB)
            invocation->argument = invocation->verb->name;
        invocation->verb = verb_find("help");
    } else if (invocation->options[OPTION_VERSION].given) {
        invocation->verb = verb_find("version");
        invocation->argument = NULL;
    } else {
        return;
    }
    for (int i = 0; i < OPTION_COUNT; i++)
        if (!verb_takes(invocation->verb, (enum option)i)) invocation->options[i].given = false;
}

enum status invocation_parse(int argc, char *const argv[], struct invocation *invocation,
                             struct fault *fault)
{
    struct invocation parsed = {0};
    struct cursor cursor = {.argc = argc, .argv = argv, .at = 1};
    bool options_end = false;

    for (; cursor.at < argc; cursor.at++) {
        const char *word = argv[cursor.at];
        enum status status;
        if (options_end || word[0] != '-' || word[1] == '\0')
            status = parse_word(&parsed, word, fault);
        else if (strcmp(word, "--") == 0)
            options_end = true, status = ST_OK;
        else if (word[1] == '-')
            status = parse_long(&parsed, &cursor, fault);
        else
            status = parse_letters(&parsed, &cursor, fault);
        if (status != ST_OK) return status;
    }
    turn_into_verb(&parsed);
    enum status status = check_complete(&parsed, fault);
    if (status == ST_OK) *invocation = parsed;
    return status;
}
