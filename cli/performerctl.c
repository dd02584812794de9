/* performerctl: takes the command line apart, hands it to its verb, and exits with what that says. */

#include <errno.h>
#include <locale.h>
#include <stdio.h>
#include <string.h>

#include "cli/help.h"
#include "cli/invocation.h"
#include "cli/report.h"

/* A full disk or a closed pipe behind stdout must not look like success. */
static enum exit_code finish(enum exit_code code)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) return code;
    fprintf(stderr, "performerctl: could not write the output: %s\n", strerror(errno));
    return code == EXIT_CODE_OK ? EXIT_CODE_FAILED : code;
}

int main(int argc, char *argv[])
{
    struct invocation invocation;
    struct fault fault;

    setlocale(LC_ALL, "");
    setlocale(LC_NUMERIC, "C"); /* numbers are read by scripts */
    if (argc < 2) {
        help_print_all(stderr);
        return EXIT_CODE_USAGE;
    }
    if (invocation_parse(argc, argv, &invocation, &fault) != ST_OK)
        return report_usage(invocation_wants_json(argc, argv), &fault);
    return finish(invocation.verb->run(&invocation));
}
