#ifndef DAEMON_LAUNCH_LOCAL_H
#define DAEMON_LAUNCH_LOCAL_H

/* Attempts on this machine: performer-launch runs mpirun, which runs performer-worker. */

#include "daemon/launcher.h"

struct uv_loop_s;

/*
 * `programs` are borrowed; `news` come when a launcher that this daemon started has ended. The launcher is the caller's, to
 * be closed before the loop; what it has started lives on. ST_NO_MEMORY is the only failure.
 */
enum status launch_local_open(struct uv_loop_s *loop, const struct launcher_programs *programs,
                              launcher_news *news, void *context,
                              struct attempt_launcher **launcher, struct fault *fault);
void launch_local_close(struct attempt_launcher *launcher);

#endif
