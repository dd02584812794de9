#ifndef KERNELS_PEAK_H
#define KERNELS_PEAK_H

#include "kernels/team.h"

/* GFLOP/s of this team's products, one on each thread, at a size at which they are fastest: what every other speed
 * is a share of. Takes about a tenth of a second; allocates and frees its operands. 0 where there is no memory. */
double peak_measure(struct team *team);

#endif
