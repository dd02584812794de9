#ifndef CLI_HELP_H
#define CLI_HELP_H

/* Usage in words, made from cli/verbs.def. */

#include <stdio.h>

#include "cli/invocation.h"

void help_print_all(FILE *out);
void help_print_verb(FILE *out, const struct verb *verb);

#endif
