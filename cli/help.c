#include "cli/help.h"

#include <jansson.h>
#include <string.h>

#include "cli/report.h"
#include "cli/verbs.h"

static const char *const option_kind_forms[] = {
    [OPTION_KIND_FLAG] = "%s",     [OPTION_KIND_TEXT] = " %s",
    [OPTION_KIND_TEXTS] = " %s",   [OPTION_KIND_COUNT] = " %s",
    [OPTION_KIND_SECONDS] = " %s", [OPTION_KIND_MAYBE_SECONDS] = " [%s]",
};

static void print_option(FILE *out, const struct option_rule *rule)
{
    char value[32], left[64];

    snprintf(value, sizeof value, option_kind_forms[rule->kind], rule->value);
    if (rule->letter)
        snprintf(left, sizeof left, "-%c, --%s%s", rule->letter, rule->name, value);
    else
        snprintf(left, sizeof left, "    --%s%s", rule->name, value);
    fprintf(out, "  %-27s %s\n", left, rule->help);
}

static bool is_global(enum option option)
{
    for (size_t i = 0; i < verb_count; i++)
        if (!verb_takes(&verbs[i], option)) return false;
    return true;
}

static void print_options(FILE *out, const struct verb *verb, bool global)
{
    for (int i = 0; i < OPTION_COUNT; i++)
        if (verb_takes(verb, (enum option)i) && is_global((enum option)i) == global)
            print_option(out, &option_rules[i]);
}

void help_print_verb(FILE *out, const struct verb *verb)
{
    fprintf(out, "usage: performerctl %s %s%s[options]\n\n%s\n", verb->name,
            argument_rules[verb->argument].text, verb->argument == ARGUMENT_NONE ? "" : " ",
            verb->help);
    fputs("\noptions:\n", out);
    print_options(out, verb, false);
    print_options(out, verb, true);
    if (verb->argument == ARGUMENT_RUN || verb->argument == ARGUMENT_MAYBE_RUN)
        fputs("\nRUN is an id, a unique prefix of one, or a unique name.\n", out);
}

void help_print_all(FILE *out)
{
    static const struct {
        int code;
        const char *text;
    } codes[] = {
#define EXIT_CODE_ROW(name, number, text) {number, text},
        EXIT_CODES(EXIT_CODE_ROW)
#undef EXIT_CODE_ROW
    };

    fputs("usage: performerctl VERB [options]\n\nverbs:\n", out);
    for (size_t i = 0; i < verb_count; i++) {
        char left[64];
        snprintf(left, sizeof left, "%s %s", verbs[i].name, argument_rules[verbs[i].argument].text);
        fprintf(out, "  %-27s %s\n", left, verbs[i].help);
    }
    fputs("\noptions of every verb:\n", out);
    print_options(out, verb_find("help"), true);
    fputs("\nexit codes:\n", out);
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        fprintf(out, "  %3d  %s\n", codes[i].code, codes[i].text);
    fputs("\n`performerctl help VERB` tells more of one.\n", out);
}

static json_t *verb_json(const struct verb *verb)
{
    json_t *options = json_array();

    for (int i = 0; i < OPTION_COUNT; i++)
        if (verb_takes(verb, (enum option)i))
            json_array_append_new(options,
                                  json_pack("{s:s,s:s,s:s}", "name", option_rules[i].name, "value",
                                            option_rules[i].value, "help", option_rules[i].help));
    return json_pack("{s:s,s:s,s:s,s:o}", "name", verb->name, "argument",
                     argument_rules[verb->argument].text, "help", verb->help, "options", options);
}

enum exit_code verb_help(const struct invocation *invocation)
{
    const char *name = invocation->argument;
    const struct verb *verb = name ? verb_find(name) : NULL;

    if (name && !verb) {
        /* The same words as for that name in place of a verb. */
        char *argv[] = {"performerctl", (char *)name, NULL};
        struct invocation unused;
        struct fault fault;
        invocation_parse(2, argv, &unused, &fault);
        return report_usage(invocation_json(invocation), &fault);
    }
    if (invocation_json(invocation)) {
        json_t *list = json_array();
        for (size_t i = 0; i < verb_count; i++)
            if (!verb || verb == &verbs[i]) json_array_append_new(list, verb_json(&verbs[i]));
        report_json(list);
    } else if (verb) {
        help_print_verb(stdout, verb);
    } else {
        help_print_all(stdout);
    }
    return EXIT_CODE_OK;
}
