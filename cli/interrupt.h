#ifndef CLI_INTERRUPT_H
#define CLI_INTERRUPT_H

/* Waiting that ^C, a resized window or a key ends early. */

#include <stdbool.h>

#include "proto/status.h"

struct interrupts {
    int fd;        /* a signalfd */
    bool keyboard; /* keys on stdin count too */
};

enum wakeup {
    WAKEUP_TIME,   /* nothing happened */
    WAKEUP_RESIZE, /* SIGWINCH */
    WAKEUP_QUIT,   /* q */
    WAKEUP_STOP,   /* ^Z: the caller tidies up, then calls interrupts_suspend */
    WAKEUP_END,    /* SIGINT, SIGTERM, SIGHUP: `signal` says which */
};

/*
 * From now on these signals do nothing by themselves. Before any thread is started, so before remote_open:
 * a thread that does not hold them back would take them.
 */
enum status interrupts_open(struct interrupts *interrupts, struct fault *fault);
void interrupts_close(struct interrupts *interrupts);

/* Blocks for at most `timeout_ms`. `*signal` is set with WAKEUP_END alone. */
enum wakeup interrupts_wait(struct interrupts *interrupts, int timeout_ms, int *signal);

/* Stops the process as ^Z does; returns when it is continued. */
void interrupts_suspend(void);

#endif
