#include "cli/runs_table.h"
#include "cli/verbs.h"

enum exit_code verb_list(const struct invocation *invocation)
{
    return runs_show(invocation, invocation->options[OPTION_ALL].given, runs_print_table);
}
