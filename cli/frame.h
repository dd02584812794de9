#ifndef CLI_FRAME_H
#define CLI_FRAME_H

/*
 * The picture of one run that `status RUN` shows, composed from what the daemon said. A pure function of the
 * view: it asks nobody and knows no clock.
 */

#include <stdint.h>

#include "cli/screen.h"
#include "proto/performer.pb-c.h"

struct frame_curve {
    Performer__MetricRow *const *rows; /* of one metric, by step */
    size_t count;
};

struct frame_event {
    uint64_t time_ms;
    char kind[40];
    char text[240];
};

struct frame_view {
    const Performer__RunDetail *detail;
    struct frame_curve loss, valid_loss;
    const struct frame_event *events; /* oldest first */
    size_t event_count;
    uint64_t now_ms;
    uint64_t away_since_ms; /* the daemon has not answered since; 0: it does */
    bool live;              /* in a terminal that is drawn anew: says which key ends it */
};

/* Rows of the screen are given to what matters most first; a tall screen shows more ranks and events. */
void frame_compose(const struct frame_view *view, struct screen *screen);

#endif
