#ifndef CLI_SNAPSHOT_H
#define CLI_SNAPSHOT_H

/* What the daemon last said of one run: the detail, the curves, the newest events. */

#include "cli/frame.h"
#include "cli/remote.h"

enum { SNAPSHOT_EVENTS_MAX = 40, SNAPSHOT_POINTS = 240 };

struct snapshot {
    Performer__Response *detail, *loss, *valid_loss; /* NULL: not heard yet */
    struct frame_event events[SNAPSHOT_EVENTS_MAX];  /* oldest first */
    size_t event_count;
    uint64_t last_event; /* id */
};

/*
 * Asks for all of it. On failure what was heard before stays; what was new until then is kept. A zeroed
 * snapshot is an empty one; freed by snapshot_fini.
 */
enum status snapshot_take(struct remote *remote, const char *run, struct snapshot *snapshot,
                          struct fault *fault);
void snapshot_fini(struct snapshot *snapshot);

/* Only after a first success. The view points into the snapshot. */
struct frame_view snapshot_view(const struct snapshot *snapshot, uint64_t now_ms);

#endif
