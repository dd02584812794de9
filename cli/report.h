#ifndef CLI_REPORT_H
#define CLI_REPORT_H

/* How a verb tells its story: data on stdout, words on stderr, either as text or as JSON. */

#include <jansson.h>

#include "cli/invocation.h"
#include "proto/diagnostic.h"

/* Says on stderr what went wrong, `{"error":…,"status":…}` with --json, and gives the exit code. */
enum exit_code report_fault(const struct invocation *invocation, const struct fault *fault);

/* The same for a command line that cannot be used. */
enum exit_code report_usage(bool json, const struct fault *fault);

/* The mistakes of a job file, with carets, or as `{"error":…,"status":"invalid","diagnostics":[…]}`. */
void report_diagnostics(const struct invocation *invocation, const char *file,
                        const struct diagnostics *diagnostics);

/* A remark on stderr; nothing with --json, where stderr is for errors alone. */
void report_words(const struct invocation *invocation, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Puts a document on a line of stdout, and frees it. Reals have as few digits as give the same double. */
void report_json(json_t *document);

#endif
