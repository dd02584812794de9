#include "cli/sparkline.h"

#include <math.h>
#include <string.h>

enum { HEIGHTS = 8 };

static const char *const blocks[HEIGHTS] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
static const char *const letters[HEIGHTS] = {"_", ".", "-", "~", "=", "+", "*", "#"};

/* Mean of the finite values of a range, NaN where it has none. */
static double mean(const double *values, size_t from, size_t to)
{
    double sum = 0;
    size_t count = 0;

    for (size_t i = from; i < to; i++) {
        if (!isfinite(values[i])) continue;
        sum += values[i];
        count++;
    }
    return count > 0 ? sum / (double)count : NAN;
}

/* Of `levels` heights, the one that holds the value. */
static size_t level_of(double value, double least, double greatest, size_t levels)
{
    if (greatest <= least) return (levels - 1) / 2;
    size_t level = (size_t)((value - least) / (greatest - least) * (double)levels);
    return level < levels ? level : levels - 1;
}

/* What a line shows of a bar that reaches up to `level`; `below`: heights of the lines under it. */
static const char *mark_of(size_t level, size_t below, bool utf8)
{
    const char *const *marks = utf8 ? blocks : letters;

    if (level < below) return " ";
    return marks[level - below < HEIGHTS ? level - below : HEIGHTS - 1];
}

void sparkline_row(const double *values, size_t count, size_t columns, size_t height, size_t row,
                   bool utf8, char *out)
{
    double means[SPARKLINE_COLUMNS_MAX];
    double least = INFINITY, greatest = -INFINITY;

    if (columns > SPARKLINE_COLUMNS_MAX) columns = SPARKLINE_COLUMNS_MAX;
    if (columns > count) columns = count;
    for (size_t i = 0; i < columns; i++) {
        means[i] = mean(values, i * count / columns, (i + 1) * count / columns);
        if (isnan(means[i])) continue;
        least = fmin(least, means[i]);
        greatest = fmax(greatest, means[i]);
    }
    out[0] = '\0';
    for (size_t i = 0; i < columns; i++) {
        size_t level = isnan(means[i]) ? 0 : level_of(means[i], least, greatest, height * HEIGHTS);
        out =
            stpcpy(out, isnan(means[i]) ? " " : mark_of(level, (height - 1 - row) * HEIGHTS, utf8));
    }
}

void sparkline(const double *values, size_t count, size_t columns, bool utf8, char *out)
{
    sparkline_row(values, count, columns, 1, 0, utf8, out);
}
