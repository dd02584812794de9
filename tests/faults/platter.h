#ifndef TESTS_FAULTS_PLATTER_H
#define TESTS_FAULTS_PLATTER_H

/*
 * A log of what a program does to the files below one directory, and what a power cut may leave of it: all that a later sync has
 * made certain and, of the rest, any part. A name is certain once its directory has been synced, content once its file has;
 * a write may be there by sectors. The linker puts this in place of the real calls (CMakeLists.txt). One thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* From now on everything below `root`, which is empty, is written down, until the end of the process. */
void platter_record(const char *root);

/* How many things have been done so far. */
size_t platter_length(void);

/*
 * Makes the empty directory `to` what is found after a power cut behind the first `length` of them. `chance` draws, from a seed
 * of its own, what of the uncertain is there: `keeps` in 256 of it.
 */
void platter_cut(size_t length, unsigned keeps, uint64_t seed, const char *to);

#endif
