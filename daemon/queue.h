#ifndef DAEMON_QUEUE_H
#define DAEMON_QUEUE_H

/*
 * Which of the QUEUED runs begins next, and what the others wait for. Higher `[queue] priority` comes first, then the
 * earlier submit. The first of them may not fit yet: it keeps all behind it waiting, so that smaller ones cannot starve
 * it. Who stands aside keeps nobody waiting: a run that comes after others which have not succeeded yet, one that was
 * resumed before its back-off is over, and one that can never fit, since ranks_max was lowered. Nothing that runs is
 * stopped for a run of higher priority.
 */

#include "daemon/coordinator.h"

/* NULL: none may begin now. */
const struct run *queue_next(const struct coordinator *coordinator, uint64_t now_ms);

/* The first of the runs that it comes after which has not succeeded; NULL: all have. */
const struct run *queue_awaits(const struct coordinator *coordinator, const struct run *run);

/* What a run that is QUEUED or RESTARTING, and due, waits for, in words. */
void queue_reason(const struct coordinator *coordinator, const struct run *run, uint64_t now_ms,
                  char *text, size_t size);

#endif
