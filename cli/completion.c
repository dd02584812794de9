#include "cli/completion.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/report.h"
#include "cli/verbs.h"

/* Prints the ids of the runs, a line each. */
#define RUN_IDS "timeout 1 performerctl list --all 2>/dev/null | awk 'NR > 1 { print $1 }'"

static bool takes_run(const struct verb *verb)
{
    return verb->argument == ARGUMENT_RUN || verb->argument == ARGUMENT_MAYBE_RUN;
}

/* Whether the next word may be its value, and so is no verb and no run. */
static bool eats_word(const struct option_rule *rule)
{
    return rule->kind != OPTION_KIND_FLAG && rule->kind != OPTION_KIND_MAYBE_SECONDS;
}

static void put_verb_names(FILE *out)
{
    for (size_t i = 0; i < verb_count; i++) fprintf(out, "%s%s", i ? " " : "", verbs[i].name);
}

static void put_option_names(FILE *out, const struct verb *verb)
{
    for (int i = 0; i < OPTION_COUNT; i++)
        if (verb_takes(verb, (enum option)i)) fprintf(out, " --%s", option_rules[i].name);
}

/* Within single quotes of any of the three shells. */
static void put_quoted(FILE *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '\'')
            fputs("'\\''", out);
        else
            fputc(*text, out);
    }
}

/* --url|--set|...: the pattern of a shell's case */
static void put_eaters(FILE *out, const char *separator)
{
    const char *between = "";

    for (int i = 0; i < OPTION_COUNT; i++) {
        if (!eats_word(&option_rules[i])) continue;
        fprintf(out, "%s--%s", between, option_rules[i].name);
        between = separator;
        if (option_rules[i].letter) fprintf(out, "%s-%c", separator, option_rules[i].letter);
    }
}

/* ---- bash ---- */

static void put_bash_verb(FILE *out, const struct verb *verb)
{
    fprintf(out, "    %s)\n        options='", verb->name);
    put_option_names(out, verb);
    fputs("'\n", out);
    if (takes_run(verb)) fputs("        words=$(" RUN_IDS ")\n", out);
    if (verb->argument == ARGUMENT_FILE) fputs("        files=1\n", out);
    if (verb->argument == ARGUMENT_SHELL) fputs("        words='bash zsh fish'\n", out);
    if (verb->argument == ARGUMENT_MAYBE_VERB) fputs("        words=$verbs\n", out);
    fputs("        ;;\n", out);
}

static void put_bash(FILE *out)
{
    fputs("# bash completion of performerctl; source it, or put it into\n"
          "# ${XDG_DATA_HOME:-~/.local/share}/bash-completion/completions/performerctl\n"
          "_performerctl() {\n"
          "    local cur=${COMP_WORDS[COMP_CWORD]} verb= options= words= files= i\n"
          "    local verbs='",
          out);
    put_verb_names(out);
    fputs("'\n"
          "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
          "        case ${COMP_WORDS[i]} in\n"
          "        ",
          out);
    put_eaters(out, "|");
    fputs(") ((i++)) ;;\n"
          "        -*) ;;\n"
          "        *) verb=${COMP_WORDS[i]}; break ;;\n"
          "        esac\n"
          "    done\n"
          "    case $verb in\n"
          "    '')\n"
          "        options='",
          out);
    put_option_names(out, verb_find("help"));
    fputs("'\n        words=$verbs\n        ;;\n", out);
    for (size_t i = 0; i < verb_count; i++) put_bash_verb(out, &verbs[i]);
    fputs("    esac\n"
          "    if [[ $cur == -* ]]; then\n"
          "        COMPREPLY=($(compgen -W \"$options\" -- \"$cur\"))\n"
          "    elif [[ $files ]]; then\n"
          "        compopt -o filenames 2>/dev/null\n"
          "        COMPREPLY=($(compgen -f -- \"$cur\"))\n"
          "    else\n"
          "        COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
          "    fi\n"
          "}\n"
          "complete -F _performerctl performerctl\n",
          out);
}

/* ---- zsh ---- */

/* Brackets and colons mean something to _arguments. */
static void put_zsh_text(FILE *out, const char *text)
{
    for (; *text; text++) {
        if (strchr("[]:\\", *text)) fputc('\\', out);
        if (*text == '\'')
            fputs("'\\''", out);
        else
            fputc(*text, out);
    }
}

static void put_zsh_option(FILE *out, const struct option_rule *rule)
{
    const char *repeat = rule->kind == OPTION_KIND_TEXTS ? "*" : "";

    fprintf(out, "            '%s--%s[", repeat, rule->name);
    put_zsh_text(out, rule->help);
    fputs("]", out);
    if (eats_word(rule)) {
        fputs(":", out);
        put_zsh_text(out, rule->value);
        fputs(":", out);
    }
    fputs("' \\\n", out);
}

static void put_zsh_verb(FILE *out, const struct verb *verb)
{
    static const char *const actions[] = {
        [ARGUMENT_NONE] = "",
        [ARGUMENT_FILE] = "'1:job file:_files'",
        [ARGUMENT_RUN] = "'1:run:_performerctl_runs'",
        [ARGUMENT_MAYBE_RUN] = "'1::run:_performerctl_runs'",
        [ARGUMENT_SHELL] = "'1:shell:(bash zsh fish)'",
        [ARGUMENT_MAYBE_VERB] = "'1::verb:_performerctl_verbs'",
    };

    fprintf(out, "        %s)\n            _arguments \\\n", verb->name);
    for (int i = 0; i < OPTION_COUNT; i++)
        if (verb_takes(verb, (enum option)i)) put_zsh_option(out, &option_rules[i]);
    fprintf(out, "            %s\n            ;;\n", actions[verb->argument]);
}

static void put_zsh(FILE *out)
{
    fputs("#compdef performerctl\n"
          "# zsh completion of performerctl; put it as _performerctl into a directory of $fpath\n"
          "_performerctl_runs() {\n"
          "    local -a runs\n"
          "    runs=(${(f)\"$(" RUN_IDS ")\"})\n"
          "    compadd -a runs\n"
          "}\n"
          "_performerctl_verbs() {\n"
          "    local -a verbs\n"
          "    verbs=(\n",
          out);
    for (size_t i = 0; i < verb_count; i++) {
        fprintf(out, "        '%s:", verbs[i].name);
        put_quoted(out, verbs[i].help);
        fputs("'\n", out);
    }
    fputs("    )\n"
          "    _describe verb verbs\n"
          "}\n"
          "_performerctl() {\n"
          "    local line state\n"
          "    _arguments -C '--url[the daemon to talk to]:URL:' '--json[JSON]' "
          "'1:verb:_performerctl_verbs' '*::argument:->rest'\n"
          "    [[ $state == rest ]] || return\n"
          "    case $line[1] in\n",
          out);
    for (size_t i = 0; i < verb_count; i++) put_zsh_verb(out, &verbs[i]);
    fputs("    esac\n"
          "}\n"
          "if [ \"$funcstack[1]\" = _performerctl ]; then\n"
          "    _performerctl \"$@\"\n"
          "else\n"
          "    compdef _performerctl performerctl\n"
          "fi\n",
          out);
}

/* ---- fish ---- */

static void put_fish_option(FILE *out, const struct verb *verb, const struct option_rule *rule)
{
    fprintf(out, "complete -c performerctl -n '__fish_seen_subcommand_from %s' -l %s", verb->name,
            rule->name);
    if (rule->letter) fprintf(out, " -s %c", rule->letter);
    if (eats_word(rule)) fputs(" -x", out);
    fputs(" -d '", out);
    put_quoted(out, rule->help);
    fputs("'\n", out);
}

static void put_fish_verb(FILE *out, const struct verb *verb)
{
    static const char *const words[] = {
        [ARGUMENT_NONE] = NULL,
        [ARGUMENT_FILE] = NULL,
        [ARGUMENT_RUN] = "(__performerctl_runs)",
        [ARGUMENT_MAYBE_RUN] = "(__performerctl_runs)",
        [ARGUMENT_SHELL] = "bash zsh fish",
        [ARGUMENT_MAYBE_VERB] = "$__performerctl_verbs",
    };

    fprintf(out, "complete -c performerctl -n __fish_use_subcommand -a %s -d '", verb->name);
    put_quoted(out, verb->help);
    fputs("'\n", out);
    for (int i = 0; i < OPTION_COUNT; i++)
        if (verb_takes(verb, (enum option)i)) put_fish_option(out, verb, &option_rules[i]);
    const char *more = words[verb->argument];
    if (more)
        fprintf(out, "complete -c performerctl -n '__fish_seen_subcommand_from %s' -a \"%s\"\n",
                verb->name, more);
    if (verb->argument == ARGUMENT_FILE)
        fprintf(out, "complete -c performerctl -n '__fish_seen_subcommand_from %s' -F\n",
                verb->name);
}

static void put_fish(FILE *out)
{
    fputs("# fish completion of performerctl; put it into "
          "~/.config/fish/completions/performerctl.fish\n"
          "function __performerctl_runs\n"
          "    " RUN_IDS "\n"
          "end\n"
          "set -g __performerctl_verbs ",
          out);
    put_verb_names(out);
    fputs("\ncomplete -c performerctl -f\n", out);
    for (size_t i = 0; i < verb_count; i++) put_fish_verb(out, &verbs[i]);
}

/* ---- the verb ---- */

static const struct {
    const char *name;
    void (*put)(FILE *out);
} shells[] = {{"bash", put_bash}, {"zsh", put_zsh}, {"fish", put_fish}};

char *completion_script(const char *shell)
{
    for (size_t i = 0; i < sizeof shells / sizeof shells[0]; i++) {
        char *script = NULL;
        size_t length;
        if (strcmp(shells[i].name, shell) != 0) continue;
        FILE *out = open_memstream(&script, &length);
        if (!out) return NULL;
        shells[i].put(out);
        fclose(out);
        return script;
    }
    return NULL;
}

enum exit_code verb_completion(const struct invocation *invocation)
{
    char *script = completion_script(invocation->argument);

    if (!script) {
        struct fault fault;
        fault_set(&fault, ST_INVALID, "no completion for `%s`; there is bash, zsh and fish",
                  invocation->argument);
        return report_usage(invocation_json(invocation), &fault);
    }
    if (invocation_json(invocation))
        report_json(json_pack("{s:s,s:s}", "shell", invocation->argument, "script", script));
    else
        fputs(script, stdout);
    free(script);
    return EXIT_CODE_OK;
}
