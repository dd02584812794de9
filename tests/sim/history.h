#ifndef TESTS_SIM_HISTORY_H
#define TESTS_SIM_HISTORY_H

/* One history from its seed: a storm of faults, then calm until every run has ended. */

#include <stdint.h>

/* Once, before the first history: the disk with an empty database, the jobs. The files of runs lie below the current
 * directory, which must be nobody else's. */
void histories_begin(void);
void histories_end(void);

/* Ends by world_violation where something does not hold. */
void history_tell(uint64_t seed);

#endif
