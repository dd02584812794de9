#ifndef CLI_EVENT_PAGES_H
#define CLI_EVENT_PAGES_H

/* The events of a run, page by page. */

#include "cli/remote.h"

/*
 * Hands every event after `*after` to `take`, oldest first, and moves `*after` on to the last one taken, so
 * that the next call gives what is new. An event is valid during the call alone.
 */
enum status events_read(struct remote *remote, const char *run, uint64_t *after,
                        void (*take)(void *context, const Performer__EventInfo *event),
                        void *context, struct fault *fault);

#endif
