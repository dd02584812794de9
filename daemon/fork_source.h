#ifndef DAEMON_FORK_SOURCE_H
#define DAEMON_FORK_SOURCE_H

/* What a fork begins from: which run, which of its checkpoints, and whether the job can go on from there. */

#include "daemon/coordinator.h"
#include "daemon/store.h"
#include "proto/jobspec.h"

/*
 * For a submit that names a run to fork; `spec` is of its resolved job. The newest good checkpoint where no step is asked for.
 * ST_NOT_FOUND: no such run; ST_NOT_PERMITTED: it is another user's; ST_REFUSED: no such checkpoint; ST_INVALID: a key differs that must not. The source is the caller's, to
 * be finished; a zeroed one may be.
 */
enum status fork_source_find(const struct coordinator *coordinator, struct store *store,
                             const struct caller *caller, const Performer__Submit *submit,
                             const struct jobspec *spec, struct fork_source *source,
                             struct fault *fault);
void fork_source_fini(struct fork_source *source);

#endif
