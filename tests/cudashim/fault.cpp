#include "tests/cudashim/fault.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>

namespace cudashim
{
static const char *const kind_names[] = {"device", "kill", "mismatch"};

struct Order {
    long
        left; /* occasions, the one that it strikes at included; 0: none is asked for, or it has struck */
    char kind[16];
    int rank;
    char mark[512];
};

static bool is_rank(int rank)
{
    const char *text = getenv("OMPI_COMM_WORLD_RANK");
    if (!text) text = getenv("PMIX_RANK");
    return text && atoi(text) == rank;
}

static Order order_read()
{
    Order order = {};
    const char *text = getenv("CUDASHIM_FAULT");
    if (!text) return order;
    if (sscanf(text, "%15s %d %ld %511s", order.kind, &order.rank, &order.left, order.mark) != 4) {
        fprintf(stderr, "cudashim: CUDASHIM_FAULT is to be KIND RANK NTH MARK\n");
        abort();
    }
    return order;
}

bool fault_strikes(Fault kind)
{
    static Order order = order_read();
    if (order.left == 0 || strcmp(order.kind, kind_names[(int)kind]) != 0) return false;
    if (!is_rank(order.rank) || --order.left > 0) return false;
    const int mark = open(order.mark, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    if (mark >= 0) close(mark);
    return mark >= 0;
}
} // namespace cudashim
