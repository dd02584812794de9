#include "daemon/options.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/options.def"
#include "proto/client.h"
#include "proto/whole_number.h"

#define OPTION_ENUM(enumerator, name, argument, support, meaning) enumerator,
enum option_id { OPTIONS(OPTION_ENUM) OPTION_COUNT };
#undef OPTION_ENUM

enum support { BUILT, LATER };

static const struct {
    const char *name, *argument, *meaning;
    enum support support;
} rows[] = {
#define OPTION_ROW(enumerator, name, argument, support, meaning) \
    [enumerator] = {name, argument, meaning, support},
    OPTIONS(OPTION_ROW)
#undef OPTION_ROW
};

/* getopt's list; its values begin behind what getopt itself answers. */
enum { OPTION_VALUE_FIRST = 1000 };

static void make_long_options(struct option *list)
{
    for (int id = 0; id < OPTION_COUNT; id++)
        list[id] = (struct option){.name = rows[id].name,
                                   .has_arg = rows[id].argument ? required_argument : no_argument,
                                   .val = OPTION_VALUE_FIRST + id};
    list[OPTION_COUNT] = (struct option){0};
}

static enum status take_number(const char *text, uint32_t *number, struct fault *fault)
{
    long value;
    enum status status = whole_number_parse("--max-ranks", text, 1, RANKS_MAX, &value, fault);
    if (status == ST_OK) *number = (uint32_t)value;
    return status;
}

static enum status take_listen(struct options *options, const char *url, struct fault *fault)
{
    if (options->listen_count == LISTEN_MAX)
        return fault_set(fault, ST_INVALID, "--listen can be given %d times at most", LISTEN_MAX);
    options->listen[options->listen_count++] = url;
    return ST_OK;
}

static enum status take_state(struct options *options, const char *path, struct fault *fault)
{
    if (snprintf(options->state, sizeof options->state, "%s", path) >= (int)sizeof options->state)
        return fault_set(fault, ST_INVALID, "--state: the path is too long");
    return ST_OK;
}

static enum status take_option(struct options *options, enum option_id id, const char *argument,
                               struct fault *fault)
{
    if (rows[id].argument && argument[0] == '\0')
        return fault_set(fault, ST_INVALID, "--%s needs a value: %s", rows[id].name,
                         rows[id].argument);
    switch (id) {
    case OPTION_STATE:
        return take_state(options, argument, fault);
    case OPTION_RUNS:
        options->runs = argument;
        return ST_OK;
    case OPTION_LISTEN:
        return take_listen(options, argument, fault);
    case OPTION_TLS_CERT:
        options->tls_cert = argument;
        return ST_OK;
    case OPTION_TLS_KEY:
        options->tls_key = argument;
        return ST_OK;
    case OPTION_TOKEN_FILE:
        options->token_file = argument;
        return ST_OK;
    case OPTION_ADMIN_GROUP:
        options->admin_group = argument;
        return ST_OK;
    case OPTION_ADVERTISE:
        options->advertise = argument;
        return ST_OK;
    case OPTION_MAX_RANKS:
        return take_number(argument, &options->ranks_max, fault);
    case OPTION_FOREGROUND:
        options->foreground = true;
        return ST_OK;
    case OPTION_HELP:
        options->help = true;
        return ST_OK;
    case OPTION_VERSION:
        options->version = true;
        return ST_OK;
    default:
        return fault_set(fault, ST_UNSUPPORTED, "--%s is not built yet: %s", rows[id].name,
                         rows[id].meaning);
    }
}

enum status options_parse(int argc, char **argv, struct options *options, struct fault *fault)
{
    struct option list[OPTION_COUNT + 1];
    make_long_options(list);
    struct options parsed = {.ranks_max = 4 * (uint32_t)sysconf(_SC_NPROCESSORS_ONLN)};
    default_state_directory(parsed.state, sizeof parsed.state);

    opterr = 0;
    optind = 0; /* anew, whoever parsed before */
    for (int value; (value = getopt_long(argc, argv, ":", list, NULL)) != -1;) {
        const char *word = argv[optind - 1];
        if (value == ':')
            return fault_set(fault, ST_INVALID, "%s needs a value: %s", word,
                             rows[optopt - OPTION_VALUE_FIRST].argument);
        if (value < OPTION_VALUE_FIRST)
            return fault_set(fault, ST_INVALID, "unknown option %s; see performerd --help", word);
        enum status status =
            take_option(&parsed, (enum option_id)(value - OPTION_VALUE_FIRST), optarg, fault);
        if (status != ST_OK) return status;
    }
    if (optind < argc)
        return fault_set(fault, ST_INVALID, "`%s` is no option; see performerd --help",
                         argv[optind]);
    *options = parsed;
    return ST_OK;
}

void options_help(FILE *out)
{
    fprintf(out,
            "usage: performerd [OPTION]...\n\n"
            "Keeps training runs: takes jobs from performerctl, starts their ranks, and starts "
            "them anew where they fail.\nRuns go on while it is away.\n\n");
    for (int id = 0; id < OPTION_COUNT; id++) {
        char word[40];
        if (rows[id].support == LATER) continue;
        snprintf(word, sizeof word, "--%s %s", rows[id].name,
                 rows[id].argument ? rows[id].argument : "");
        fprintf(out, "  %-20s %s\n", word, rows[id].meaning);
    }
    char state[OPTION_TEXT_MAX], url[OPTION_TEXT_MAX + 64];
    default_state_directory(state, sizeof state);
    options_default_url(state, url, sizeof url);
    fprintf(out, "\nWithout options: --state %s --listen %s, in the background.\n", state, url);
}

void options_default_url(const char *state_directory, char *url, size_t size)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    snprintf(url, size, "ipc://%s/performerd.sock",
             runtime && runtime[0] != '\0' ? runtime : state_directory);
}
