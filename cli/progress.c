#include "cli/progress.h"

#include <math.h>
#include <string.h>

double latest_metric(const Performer__RunSummary *summary, const char *name)
{
    for (size_t i = 0; i < summary->n_latest; i++)
        if (strcmp(summary->latest[i]->name, name) == 0) return summary->latest[i]->value;
    return NAN;
}

double progress_share(const Performer__RunSummary *summary)
{
    if (summary->steps == 0) return 0;
    return fmin((double)summary->step / (double)summary->steps, 1);
}

static bool moves(const Performer__RunSummary *summary)
{
    return strcmp(summary->state, "RUNNING") == 0 && summary->step < summary->steps;
}

static int64_t left_at(const Performer__RunSummary *summary, double step_ms)
{
    double left_ms = step_ms * (double)(summary->steps - summary->step);

    if (!(left_ms >= 0) || left_ms > 1e15) return -1;
    return (int64_t)left_ms;
}

int64_t progress_left_ms(const Performer__RunSummary *summary)
{
    if (!moves(summary)) return -1;
    return left_at(summary, latest_metric(summary, "step_ms"));
}

int64_t progress_left_by_rows_ms(const Performer__RunSummary *summary,
                                 Performer__MetricRow *const *rows, size_t count)
{
    size_t first = count / 2;

    if (!moves(summary)) return -1;
    while (first < count && rows[first]->attempt != summary->attempt) first++;
    if (first + 1 >= count) return -1;
    const Performer__MetricRow *from = rows[first], *to = rows[count - 1];
    if (to->step <= from->step || to->time_ms <= from->time_ms) return -1;
    return left_at(summary,
                   (double)(to->time_ms - from->time_ms) / (double)(to->step - from->step));
}

int64_t progress_elapsed_ms(const Performer__RunSummary *summary, uint64_t now_ms)
{
    if (summary->started_ms == 0) return -1;
    uint64_t end_ms = summary->ended_ms ? summary->ended_ms : now_ms;
    return end_ms > summary->started_ms ? (int64_t)(end_ms - summary->started_ms) : 0;
}

size_t progress_bar(double share, size_t columns, bool utf8, char *filled)
{
    if (columns > BAR_COLUMNS_MAX) columns = BAR_COLUMNS_MAX;
    double exact = share * (double)columns;
    size_t whole = (size_t)exact;
    bool half = utf8 && whole < columns && exact - (double)whole >= 0.5;

    filled[0] = '\0';
    for (size_t i = 0; i < whole; i++) filled = stpcpy(filled, utf8 ? "━" : "#");
    if (half) strcpy(filled, "╸");
    return whole + half;
}
