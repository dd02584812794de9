#ifndef TESTS_DAEMON_DIFFERENCE_H
#define TESTS_DAEMON_DIFFERENCE_H

#include "daemon/coordinator.h"

/* NULL where both know the same but for what is live, else what differs. */
const char *coordinators_differ(const struct coordinator *a, const struct coordinator *b);

#endif
