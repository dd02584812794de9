#ifndef DAEMON_LAUNCH_LOCAL_H
#define DAEMON_LAUNCH_LOCAL_H

/* Attempts on this machine: performer-launch runs mpirun, which runs performer-worker. */

#include "daemon/launcher.h"

struct uv_loop_s;

/* Told on the loop when any launcher that this daemon started has ended: look at your attempts. */
typedef void launch_local_ended(void *context);

/*
 * performer-launch and performer-worker are those beside this executable. ST_NOT_FOUND: they are not there.
 * The launcher is the caller's, to be closed before the loop; what it has started lives on.
 */
enum status launch_local_open(struct uv_loop_s *loop, launch_local_ended *ended, void *context,
                              struct attempt_launcher **launcher, struct fault *fault);
void launch_local_close(struct attempt_launcher *launcher);

#endif
