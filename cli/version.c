#include <stdio.h>

#include "cli/report.h"
#include "cli/verbs.h"
#include "proto/wire.h"

enum exit_code verb_version(const struct invocation *invocation)
{
    if (invocation_json(invocation))
        report_json(
            json_pack("{s:s,s:i}", "version", PERFORMERD_VERSION, "protocol", PROTOCOL_VERSION));
    else
        puts("performerctl " PERFORMERD_VERSION);
    return EXIT_CODE_OK;
}
