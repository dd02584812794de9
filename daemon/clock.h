#ifndef DAEMON_CLOCK_H
#define DAEMON_CLOCK_H

#include <stdint.h>

/* Of the monotonic clock: what leases, deadlines and back-offs are told by. */
uint64_t clock_now_ms(void);

#endif
