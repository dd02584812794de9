#ifndef DAEMON_SPOOL_H
#define DAEMON_SPOOL_H

/*
 * attempt-A/rank-R.spool: what a rank could not deliver. Packed Reports, each behind its length in 4 bytes,
 * little endian. Only read once the rank has ended.
 */

#include "proto/performer.pb-c.h"
#include "proto/status.h"

/* Anything but ST_OK ends the reading. */
typedef enum status spool_told(void *context, const Performer__Report *report);

/*
 * Tells all reports in order. An absent file holds none. What `told` answered, where that was not ST_OK; ST_CORRUPT:
 * the file ends in the middle of a report, or holds something else; those before have been told. ST_IO, ...
 */
enum status spool_read(const char *path, spool_told *told, void *context, struct fault *fault);

#endif
