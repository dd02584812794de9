#include "kernels/reference/reference.h"

REFERENCE_WITHOUT_SCRATCH(add)

enum status reference_add(struct stream *stream, const struct add *arguments)
{
    (void)stream;
    for (int64_t i = 0; i < arguments->count; i++) arguments->y[i] += arguments->x[i];
    return ST_OK;
}
