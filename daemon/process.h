#ifndef DAEMON_PROCESS_H
#define DAEMON_PROCESS_H

/*
 * Processes of this machine that are not our children: who they are, whether they live, and signals
 * to the right ones alone. A pid by itself names nobody, since the kernel gives it out again: a
 * process is a pid, its start time and the boot it belongs to. A zombie counts as dead. None of
 * these blocks.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "proto/status.h"

/* In the environment of every process of an attempt: its nonce. */
#define PROCESS_NONCE_VARIABLE "PERFORMERD_ATTEMPT_NONCE"
/* In that of a rank besides, by mpirun: its number. */
#define PROCESS_RANK_VARIABLE "OMPI_COMM_WORLD_RANK"

struct process {
    pid_t pid;
    uint64_t start_ticks; /* field 22 of /proc/PID/stat */
    char boot_id[40];     /* /proc/sys/kernel/random/boot_id */
};

/* ST_NOT_FOUND: there is no such process, or it is a zombie. */
enum status process_identify(pid_t pid, struct process *process, struct fault *fault);

bool process_is_alive(const struct process *process);

/* The machine has been started anew since. */
bool process_of_another_boot(const struct process *process);

/* How many processes of this one's memory cgroup the kernel has killed for want of memory; 0 where it does not say. */
uint64_t process_oom_kills(void);

/* Sends `signal` to the children of `parent`. Returns how many there are. */
int process_signal_children(pid_t parent, int signal);

/*
 * Sends `signal` (0: none, to count alone) to every process that belongs to the session that
 * `leader` made or makes, and carries `nonce` in its environment; the leader itself is spared.
 * Returns how many there are: 0 says that nothing of it lives on. Of another boot: 0.
 */
int process_signal_session(const struct process *leader, const char *nonce, int signal);

/* Told of each rank of the attempt with that nonce, in the session that `leader` made. */
typedef void process_rank_visitor(void *context, uint32_t rank, pid_t pid);
void process_visit_ranks(const struct process *leader, const char *nonce,
                         process_rank_visitor *visitor, void *context);

#endif
