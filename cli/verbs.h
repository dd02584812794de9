#ifndef CLI_VERBS_H
#define CLI_VERBS_H

/* The functions behind the verbs. Each tells its own story on stdout and stderr, and returns how it ended. */

#include "cli/invocation.h"

#define VERB_FUNCTION(name, argument, options, help) \
    enum exit_code verb_##name(const struct invocation *invocation);
VERBS(VERB_FUNCTION)
#undef VERB_FUNCTION

#endif
