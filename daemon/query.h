#ifndef DAEMON_QUERY_H
#define DAEMON_QUERY_H

/*
 * Questions: requests that change nothing. Answered from the coordinator (how things are now), the store (what has
 * happened) and the log files. Blocks for a few reads of the disk.
 */

#include <stdint.h>

#include "daemon/coordinator.h"
#include "daemon/state_directory.h"
#include "daemon/store.h"

enum { LOG_CHUNK_BYTES_MAX = 512 * 1024 };

struct query_view {
    const struct coordinator *coordinator;
    struct store *store;
    const struct state_directory *directory;
    const struct caller *caller; /* who asks */
    uint64_t now_ms;             /* monotonic */
    uint64_t uptime_ms;
    uint64_t frames_rejected; /* asked for by a ping alone */
};

/* Everybody who may ask sees which runs there are, whose, in which state and of what size, for they share a queue; what is in
 * a run is its user's and the admins' to see, else ST_NOT_PERMITTED. The response is the caller's, to be freed with performer__response__free_unpacked. A request that is no
 * question is ST_UNSUPPORTED. */
Performer__Response *query_answer(const struct query_view *view, const Performer__Request *request);

#endif
