#ifndef WORKER_COLLECTIVE_KIND_H
#define WORKER_COLLECTIVE_KIND_H

/* What a kind of collective brings; for collective*.c alone. What each is to do says collective.h. */

#include "worker/collective.h"

struct collective_kind {
    bool on_host;
    enum status (*reserve)(struct collective *collective, int sums);
    enum status (*sum_start)(struct collective *collective, float *values, int64_t count,
                             struct fault *fault);
    enum status (*progress)(struct collective *collective, struct fault *fault);
    enum status (*finish)(struct collective *collective, struct fault *fault);
    enum status (*gather)(struct collective *collective, const void *record, size_t bytes,
                          void *all, struct fault *fault);
    void (*close)(struct collective *collective);                  /* frees it too */
    void (*abandon)(struct collective *collective, int exit_code); /* may return */
};

/* The first member of each kind's own. */
struct collective {
    const struct collective_kind *kind;
    int rank, ranks;
    char version[64]; /* of its library, with the name */
};

#endif
