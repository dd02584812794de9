#ifndef KERNELS_PEAK_H
#define KERNELS_PEAK_H

#include "kernels/team.h"
#include "proto/choice.h"

/* GFLOP/s of this team's products of that precision by the cpu backend, one on each thread, at a size at which they are
 * fastest and of operands that are laid out already: what every other speed is a share of. Takes about a tenth of a second;
 * allocates and frees its operands. 0 where there is no memory. */
double peak_measure(struct team *team, enum precision precision);

#endif
