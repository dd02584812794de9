/* The command line: what is taken, what is refused and in which words, and that all lists agree. */

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/completion.h"
#include "cli/help.h"
#include "cli/invocation.h"

enum { WORDS_MAX = 16 };

/* Parses words separated by single spaces. */
static enum status parse(const char *line, struct invocation *invocation, struct fault *fault)
{
    static char text[256];
    char *argv[WORDS_MAX + 1] = {"performerctl"};
    int argc = 1;

    snprintf(text, sizeof text, "%s", line);
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " ")) argv[argc++] = word;
    return invocation_parse(argc, argv, invocation, fault);
}

static void must_parse(const char *line, struct invocation *invocation)
{
    struct fault fault;
    enum status status = parse(line, invocation, &fault);

    cr_assert_eq(status, ST_OK, "%s: %s", line, status == ST_OK ? "" : fault.text);
}

static void must_fail(const char *line, enum status expected, const char *words)
{
    struct invocation invocation;
    struct fault fault;

    cr_assert_eq(parse(line, &invocation, &fault), expected, "%s was taken", line);
    cr_assert(strstr(fault.text, words), "%s: \"%s\" does not say \"%s\"", line, fault.text, words);
}

Test(command_line, options_stand_before_and_after)
{
    const char *lines[] = {"--json status -w r1", "status --json r1 -w", "status r1 -w --json",
                           "--watch status r1 --json"};

    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        struct invocation invocation;
        must_parse(lines[i], &invocation);
        cr_assert_str_eq(invocation.verb->name, "status");
        cr_assert_str_eq(invocation.argument, "r1");
        cr_assert(invocation_json(&invocation));
        cr_assert(invocation.options[OPTION_WATCH].given);
        cr_assert_null(invocation.options[OPTION_WATCH].text);
    }
}

Test(command_line, values_are_joined_or_follow)
{
    const char *lines[] = {"logs r1 -n 5", "logs r1 -n5", "logs -fn5 r1", "logs r1 --lines=5",
                           "logs --lines 5 r1"};

    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        struct invocation invocation;
        must_parse(lines[i], &invocation);
        cr_assert_eq(invocation_count(&invocation, OPTION_LINES, 0), 5, "%s", lines[i]);
        cr_assert_str_eq(invocation.argument, "r1");
    }
}

Test(command_line, watch_takes_a_number_only)
{
    struct invocation invocation;

    must_parse("status r1 --watch 2.5", &invocation);
    cr_assert_eq(invocation.options[OPTION_WATCH].number, 2.5);
    must_parse("status --watch r1", &invocation);
    cr_assert_str_eq(invocation.argument, "r1");
    must_parse("status --watch=3 r1", &invocation);
    cr_assert_eq(invocation.options[OPTION_WATCH].number, 3);
}

Test(command_line, set_is_repeated)
{
    struct invocation invocation;

    must_parse("submit --set a.b=1 job.toml --set=c.d=2", &invocation);
    cr_assert_eq(invocation.override_count, 2);
    cr_assert_str_eq(invocation.overrides[0].text, "a.b=1");
    cr_assert_str_eq(invocation.overrides[1].text, "c.d=2");
    cr_assert_str_eq(invocation.argument, "job.toml");
}

Test(command_line, two_dashes_end_the_options)
{
    struct invocation invocation;

    must_parse("describe -- --json", &invocation);
    cr_assert_str_eq(invocation.argument, "--json");
    cr_assert_not(invocation_json(&invocation));
}

Test(command_line, mistakes_are_named)
{
    must_fail("statsu r1", ST_INVALID, "did you mean `status`?");
    must_fail("frobnicate", ST_INVALID, "no verb `frobnicate`");
    must_fail("list --jsno", ST_INVALID, "did you mean --json?");
    must_fail("logs r1 --folow", ST_INVALID, "did you mean --follow?");
    must_fail("list --follow", ST_INVALID, "`list` takes no --follow");
    must_fail("logs r1 -x", ST_INVALID, "no option -x");
    must_fail("wait", ST_INVALID, "`wait` needs an argument");
    must_fail("wait r1 r2", ST_INVALID, "`r2` is one word too many");
    must_fail("list r1", ST_INVALID, "`r1` is one word too many");
    must_fail("wait r1 --timeout", ST_INVALID, "--timeout needs a value");
    must_fail("wait r1 --timeout -3", ST_INVALID, "takes seconds");
    must_fail("wait r1 --timeout soon", ST_INVALID, "takes seconds");
    must_fail("logs r1 -n 1.5", ST_INVALID, "takes a whole number");
    must_fail("logs r1 -n 99999999999999999999", ST_INVALID, "takes a whole number");
    must_fail("list --json=yes", ST_INVALID, "--json takes no value");
    must_fail("--json", ST_INVALID, "no verb given");
    must_fail("status r1 --watch=fast", ST_INVALID, "takes seconds");
}

Test(command_line, a_failed_parse_leaves_the_output_alone)
{
    struct invocation invocation = {.argument = "untouched"};
    struct fault fault;

    cr_assert_eq(parse("wait r1 r2", &invocation, &fault), ST_INVALID);
    cr_assert_str_eq(invocation.argument, "untouched");
    cr_assert_null(invocation.verb);
}

Test(command_line, help_and_version_are_verbs_too)
{
    struct invocation invocation;

    must_parse("submit --help", &invocation);
    cr_assert_str_eq(invocation.verb->name, "help");
    cr_assert_str_eq(invocation.argument, "submit");
    must_parse("-h", &invocation);
    cr_assert_null(invocation.argument);
    must_parse("logs -f --help", &invocation);
    cr_assert_str_eq(invocation.argument, "logs");
    must_parse("--version", &invocation);
    cr_assert_str_eq(invocation.verb->name, "version");
}

/* What a function writes, as a string that the caller frees. */
static char *written(const struct verb *verb)
{
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);

    if (verb)
        help_print_verb(out, verb);
    else
        help_print_all(out);
    fclose(out);
    return text;
}

Test(command_line, every_verb_has_its_help)
{
    char *all = written(NULL);

    for (size_t i = 0; i < verb_count; i++) {
        char *text = written(&verbs[i]);
        cr_assert(strstr(all, verbs[i].help), "%s", verbs[i].name);
        cr_assert(strstr(text, verbs[i].name));
        cr_assert(strstr(text, verbs[i].help));
        for (int o = 0; o < OPTION_COUNT; o++) {
            char option[40];
            snprintf(option, sizeof option, " --%s", option_rules[o].name);
            cr_assert_eq(strstr(text, option) != NULL, verb_takes(&verbs[i], (enum option)o),
                         "help of %s and %s", verbs[i].name, option);
        }
        free(text);
    }
    free(all);
}

Test(command_line, help_lines_fit_into_80_columns)
{
    for (size_t i = 0; i <= verb_count; i++) {
        char *text = written(i < verb_count ? &verbs[i] : NULL);
        for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
            cr_assert_leq(strlen(line), 80, "%s", line);
        free(text);
    }
}

Test(command_line, completions_know_every_verb_and_option)
{
    const char *shells[] = {"bash", "zsh", "fish"};

    for (size_t s = 0; s < 3; s++) {
        char *script = completion_script(shells[s]);
        cr_assert_not_null(script);
        for (size_t i = 0; i < verb_count; i++) cr_assert(strstr(script, verbs[i].name));
        for (int o = 0; o < OPTION_COUNT; o++)
            cr_assert(strstr(script, option_rules[o].name), "%s: %s", shells[s],
                      option_rules[o].name);
        free(script);
    }
    cr_assert_null(completion_script("tcsh"));
}

/* Runs `line` in bash after the script has been sourced; its output is the caller's. */
static char *in_bash(const char *script, const char *line)
{
    char path[] = "/tmp/test-completion-XXXXXX", command[512];
    char *output = calloc(1, 4096);
    int fd = mkstemp(path);
    FILE *file = fdopen(fd, "w");

    fputs(script, file);
    fclose(file);
    snprintf(command, sizeof command, "bash -c '. %s; %s' 2>&1", path, line);
    FILE *pipe = popen(command, "r");
    size_t length = fread(output, 1, 4095, pipe);
    output[length] = '\0';
    cr_assert_eq(pclose(pipe), 0, "%s", output);
    remove(path);
    return output;
}

Test(command_line, bash_completes)
{
    static const struct {
        const char *words, *expected;
    } cases[] = {
        {"performerctl stat", "status"},         {"performerctl --url ipc:///x stat", "status"},
        {"performerctl completion z", "zsh"},    {"performerctl help val", "validate"},
        {"performerctl logs --fol", "--follow"}, {"performerctl wait --f", ""},
    };
    char *script = completion_script("bash");

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char line[256];
        snprintf(line, sizeof line,
                 "COMP_WORDS=(%s); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _performerctl; "
                 "echo -n \"${COMPREPLY[*]}\"",
                 cases[i].words);
        char *output = in_bash(script, line);
        cr_assert_str_eq(output, cases[i].expected, "%s", cases[i].words);
        free(output);
    }
    free(script);
}

Test(command_line, every_status_has_an_exit_code)
{
    static const struct {
        enum status status;
        int code;
    } contract[] = {{ST_OK, 0},           {ST_INVALID, 3},     {ST_NOT_FOUND, 4},
                    {ST_UNREACHABLE, 5},  {ST_TIMED_OUT, 5},   {ST_NOT_PERMITTED, 6},
                    {ST_REFUSED, 7},      {ST_UNSUPPORTED, 7}, {ST_IO, 1},
                    {(enum status)999, 1}};

    for (size_t i = 0; i < sizeof contract / sizeof contract[0]; i++)
        cr_assert_eq((int)exit_code_of_status(contract[i].status), contract[i].code, "%s",
                     status_text(contract[i].status));
    cr_assert_eq(exit_code_of_state(RUN_SUCCEEDED), 0);
    cr_assert_eq(exit_code_of_state(RUN_FAILED), 1);
    cr_assert_eq(exit_code_of_state(RUN_CANCELLED), 9);
}
