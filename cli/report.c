#include "cli/report.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli/terminal.h"

/* Whether every real of the document survives being printed with that many digits. */
static bool digits_suffice(const json_t *value, int digits)
{
    const char *key;
    json_t *part;
    size_t index;
    char text[40];

    switch (json_typeof(value)) {
    case JSON_REAL:
        snprintf(text, sizeof text, "%.*g", digits, json_real_value(value));
        return strtod(text, NULL) == json_real_value(value);
    case JSON_ARRAY:
        json_array_foreach(value, index, part) if (!digits_suffice(part, digits)) return false;
        return true;
    case JSON_OBJECT:
        json_object_foreach((json_t *)value, key,
                            part) if (!digits_suffice(part, digits)) return false;
        return true;
    default:
        return true;
    }
}

static void put_json(const json_t *document, FILE *out)
{
    int digits = 15;

    while (digits < 17 && !digits_suffice(document, digits)) digits++;
    json_dumpf(document, out, JSON_COMPACT | JSON_REAL_PRECISION(digits));
    fputc('\n', out);
}

void report_json(json_t *document)
{
    put_json(document, stdout);
    json_decref(document);
}

static void put_error(bool json, enum status status, const char *text)
{
    if (!json) {
        fprintf(stderr, "performerctl: %s\n", text);
        return;
    }
    json_t *error = json_pack("{s:s+,s:s}", "error", text, "", "status", status_name(status));
    put_json(error, stderr);
    json_decref(error);
}

enum exit_code report_fault(const struct invocation *invocation, const struct fault *fault)
{
    put_error(invocation_json(invocation), fault->status, fault->text);
    return exit_code_of_status(fault->status);
}

enum exit_code report_usage(bool json, const struct fault *fault)
{
    put_error(json, fault->status, fault->text);
    return EXIT_CODE_USAGE;
}

void report_diagnostics(const struct invocation *invocation, const char *file,
                        const struct diagnostics *diagnostics)
{
    if (!invocation_json(invocation)) {
        struct terminal terminal;
        terminal_probe(STDERR_FILENO, &terminal);
        diagnostics_print(diagnostics, stderr, terminal.colour);
        if (diagnostics->errors > 0)
            fprintf(stderr, "performerctl: %s: %zu mistake%s\n", file, diagnostics->errors,
                    diagnostics->errors == 1 ? "" : "s");
        return;
    }
    if (diagnostics->errors == 0) return;
    char *list = diagnostics_json(diagnostics);
    json_t *items = list ? json_loads(list, 0, NULL) : NULL;
    json_t *error = json_pack("{s:o,s:s,s:o*}", "error",
                              json_sprintf("%s: %zu mistake%s", file, diagnostics->errors,
                                           diagnostics->errors == 1 ? "" : "s"),
                              "status", status_name(ST_INVALID), "diagnostics", items);
    put_json(error, stderr);
    json_decref(error);
    free(list);
}

void report_words(const struct invocation *invocation, const char *format, ...)
{
    va_list args;

    if (invocation_json(invocation)) return;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}
