#ifndef DAEMON_LAUNCHER_H
#define DAEMON_LAUNCHER_H

/*
 * How attempts are brought to life, looked after and ended. What a launcher knows of an attempt lies in
 * its directory (launcher.json, exit.json), so that every function works as well for a daemon that was started
 * later. For the loop's thread; no function blocks for longer than a few file accesses.
 */

#include <stdbool.h>
#include <stdint.h>

#include "proto/status.h"

enum { LAUNCHER_PATH_MAX = 4096 };

struct launch_order {
    char run_directory[LAUNCHER_PATH_MAX];
    char attempt_directory[LAUNCHER_PATH_MAX]; /* with its plan; RUN/fence is in force */
    char nonce[64];
    uint32_t ranks;
};

enum launcher_state {
    LAUNCHER_ENDED, /* exit.json is there, and nothing of the attempt runs any more */
    LAUNCHER_ALIVE, /* the launcher runs, or ranks that it left behind do; or it waits in a queue */
    LAUNCHER_GONE,  /* neither it nor its ranks live; it could not say how it ended */
    LAUNCHER_DOWN,  /* the same, and so is the machine it ran on, or was */
    LAUNCHER_UNSEEN,  /* there is no sign that it ever began; it may be about to */
    LAUNCHER_UNKNOWN, /* those who know do not answer: nothing follows from it */
};

/* Where an attempt is that lives. */
struct sighting {
    int64_t id;           /* of performer-launch the pid, under Slurm the job's number */
    uint64_t start_ticks; /* of that pid; 0 under Slurm, which gives a number to one job alone */
    bool waits;           /* in a queue, where no rank can be heard */
    char words[160];      /* where it waits, and why */
};

/* The programs of an attempt. */
struct launcher_programs {
    char launch[LAUNCHER_PATH_MAX]; /* performer-launch */
    char worker[LAUNCHER_PATH_MAX]; /* performer-worker */
};

/* `name` is in the attempt's directory. */
bool launcher_left(const char *attempt_directory, const char *name);

/* Those beside this executable. ST_NOT_FOUND: they are not there. */
enum status launcher_programs_find(struct launcher_programs *programs, struct fault *fault);

/* Told on the loop when there is news of any attempt: look at yours. */
typedef void launcher_news(void *context);

struct attempt_launcher {
    bool remote; /* its ranks may run on other hosts: they find the daemon over the network */

    /* Starts the attempt; that it runs is told by `probe`. */
    enum status (*start)(struct attempt_launcher *launcher, const struct launch_order *order,
                         struct fault *fault);

    /* `*sighting` is filled where the answer is LAUNCHER_ALIVE. Ranks whose launcher was killed are sent SIGKILL:
     * nobody else would look after them. */
    enum launcher_state (*probe)(struct attempt_launcher *launcher, const char *attempt_directory,
                                 struct sighting *sighting);

    /* SIGTERM asks the launcher to end its ranks; SIGKILL ends all of the attempt there is, the launcher last, so that
     * it can still say what happened. Does nothing where it lives no more. */
    void (*signal)(struct attempt_launcher *launcher, const char *attempt_directory, int signal);

    /* Has what the threads of that rank are doing written into its log, where it runs on this machine, and after that all
     * ranks sent SIGTERM, so that those which come back to life save and end. */
    void (*rescue)(struct attempt_launcher *launcher, const char *attempt_directory, uint32_t rank);
};

#endif
