#include "kernels/cpu/lanes.h"
#include "kernels/cpu/pieces.h"

CPU_WITHOUT_SCRATCH(adamw)

enum { ELEMENTS = 16384 };

/* Loshchilov & Hutter 2019, algorithm 2, in one pass over the four arrays. */
static void elements_update(void *context, int64_t piece, int thread)
{
    const struct adamw a = *(const struct adamw *)context;
    const struct range range = piece_range(piece, ELEMENTS, a.count);
    (void)thread;

    for (int64_t i = range.from; i < range.from + range.count; i += LANES) {
        const int64_t left = range.from + range.count - i;
        const bool whole = left >= LANES;
#define AT(array) (whole ? lanes_load(a.array + i) : lanes_load_part(a.array + i, left, 0))
        const floats gradient = AT(gradient) * a.scale, weight = AT(weight);
        const floats moment1 = a.beta1 * AT(moment1) + (1.0f - a.beta1) * gradient;
        const floats moment2 = a.beta2 * AT(moment2) + (1.0f - a.beta2) * (gradient * gradient);
#undef AT
        const floats root = lanes_sqrt(moment2 / a.correction2);
        const floats direction = moment1 / a.correction1 / (root + a.epsilon);
        const floats updated = weight - a.lr * (direction + a.weight_decay * weight);
        if (whole) {
            lanes_store(a.moment1 + i, moment1);
            lanes_store(a.moment2 + i, moment2);
            lanes_store(a.weight + i, updated);
        } else {
            lanes_store_part(a.moment1 + i, moment1, left);
            lanes_store_part(a.moment2 + i, moment2, left);
            lanes_store_part(a.weight + i, updated, left);
        }
    }
}

enum status CPU(adamw)(struct stream *stream, const struct adamw *arguments)
{
    team_run(stream->team, pieces_of(arguments->count, ELEMENTS), elements_update,
             (void *)arguments);
    return ST_OK;
}
