/* Job files: a refused one has words, and what is taken can be printed and is taken again. */

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/jobspec.h"
#include "tests/fuzz/input.h"

static void print_and_parse(const struct jobspec *spec)
{
    char *text;
    struct diagnostics diagnostics = {0};
    struct jobspec again = {0};
    if (jobspec_print(spec, &text) != ST_OK) return;
    enum status status =
        jobspec_parse(text, strlen(text), "/a/job.toml", NULL, 0, &diagnostics, &again);
    if (status != ST_OK) diagnostics_print(&diagnostics, stderr, false);
    assert(status == ST_OK || status == ST_TOO_LARGE);
    jobspec_free(&again);
    diagnostics_free(&diagnostics);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct diagnostics diagnostics = {0};
    struct jobspec spec = {0};
    enum status status =
        jobspec_parse((const char *)bytes, length, "/a/job.toml", NULL, 0, &diagnostics, &spec);
    if (status == ST_OK) {
        print_and_parse(&spec);
    } else {
        char *words = diagnostics_json(&diagnostics);
        assert(words);
        free(words);
    }
    jobspec_free(&spec);
    diagnostics_free(&diagnostics);
    return 0;
}
