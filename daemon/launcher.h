#ifndef DAEMON_LAUNCHER_H
#define DAEMON_LAUNCHER_H

/*
 * How attempts are brought to life, looked after and ended. What a launcher knows of an attempt lies in
 * its directory (launcher.json, exit.json), so that every function works as well for a daemon that was started
 * later. For the loop's thread; no function blocks for longer than a few file accesses.
 */

#include <stdbool.h>
#include <stdint.h>

#include "daemon/process.h"
#include "proto/status.h"

enum { LAUNCHER_PATH_MAX = 4096 };

struct launch_order {
    char run_directory[LAUNCHER_PATH_MAX];
    char attempt_directory[LAUNCHER_PATH_MAX]; /* with its plan; RUN/fence is in force */
    char nonce[64];
    uint32_t ranks;
};

enum launcher_state {
    LAUNCHER_ENDED, /* exit.json is there, and nothing of the attempt runs on this machine */
    LAUNCHER_ALIVE, /* the launcher runs, or ranks that it left behind do */
    LAUNCHER_GONE,  /* it ran, and neither it nor its ranks live; it could not say how it ended */
    LAUNCHER_DOWN,  /* the same, and so is the machine it ran on, or was */
    LAUNCHER_UNSEEN /* there is no sign that it ever began; it may be about to */
};

struct attempt_launcher {
    const char *name;
    bool remote; /* its ranks may run on other hosts: they find the daemon over the network */

    /* Starts the attempt; that it runs is told by `probe`. */
    enum status (*start)(struct attempt_launcher *launcher, const struct launch_order *order,
                         struct fault *fault);

    /* `*process` is filled where the answer is LAUNCHER_ALIVE. Ranks whose launcher was killed are sent SIGKILL:
     * nobody else would look after them. */
    enum launcher_state (*probe)(struct attempt_launcher *launcher, const char *attempt_directory,
                                 struct process *process);

    /* SIGTERM asks the launcher to end its ranks; SIGKILL ends all of the attempt there is, the launcher last, so that
     * it can still say what happened. Does nothing where it lives no more. */
    void (*signal)(struct attempt_launcher *launcher, const char *attempt_directory, int signal);

    /* Has what the threads of that rank are doing written into its log, and after that all ranks sent SIGTERM, so that
     * those which come back to life save and end. NULL: this launcher cannot. */
    void (*rescue)(struct attempt_launcher *launcher, const char *attempt_directory, uint32_t rank);
};

#endif
