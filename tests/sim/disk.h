#ifndef TESTS_SIM_DISK_H
#define TESTS_SIM_DISK_H

/*
 * The disk under SQLite, in memory: files as the kernel shows them and, beside that, what of them a power cut
 * would leave. It is SQLite's default file system here, so the store, its write-ahead log and its syncs are the
 * real ones.
 */

#include <stdbool.h>

#include "tests/sim/chance.h"

/* Makes it SQLite's default. Once. */
void disk_install(void);

/* All files as they are now become what disk_reset gives back. */
void disk_keep(void);
void disk_reset(void);

/* Of what was written and not synced, each sector is there or not. No file is open. */
void disk_lose_power(struct chance *chance);

#endif
