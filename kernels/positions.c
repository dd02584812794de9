#include "kernels/positions.h"

#include "kernels/projection.h"

/* As in projection.c: IEEE doubles in a written order, no libm, the same flags in every build. */

static const double LOG2_10000 = 0x1.a934f0979a371p+3, LN_2 = 0x1.62e42fefa39efp-1;
static const double UNITS_OF_RADIAN = 0x1.45f306dc9c883p+50; /* 2^53 / 2π */
static const uint64_t TURN = (uint64_t)1 << 53;

/* 10000^(-2 pair / width) = 2^-n e^x with n the nearest integer, |x| <= ln 2 / 2, and the series of e^x up to
 * x^16: the first term left out is below 2^-70. */
static double frequency(int64_t pair, int64_t width)
{
    const double octaves = (double)(2 * pair) / (double)width * LOG2_10000;
    const int whole = (int)(octaves + 0.5);
    const double x = (whole - octaves) * LN_2;
    double series = 1;
    for (int n = 16; n >= 1; n--) series = 1 + x / n * series;
    return series / (double)(1 << whole);
}

/* What a pair turns by from a position to the next, in units of 2^-53 of a turn. */
static uint64_t turn_of(int64_t pair, int64_t width)
{
    return (uint64_t)(frequency(pair, width) * UNITS_OF_RADIAN + 0.5);
}

void positions_sinusoidal(int64_t length, int64_t width, double scale, float *table)
{
    for (int64_t pair = 0; 2 * pair < width; pair++) {
        const uint64_t turn = turn_of(pair, width);
        for (int64_t l = 0; l < length; l++) {
            float *at = table + l * width + 2 * pair;
            double point[2];
            unit_circle((uint64_t)l * turn % TURN, point);
            at[0] = (float)(scale * point[1]);
            if (2 * pair + 1 < width) at[1] = (float)(scale * point[0]);
        }
    }
}

void positions_rotary(int64_t length, int64_t dim, float *table)
{
    for (int64_t pair = 0; pair < dim / 2; pair++) {
        const uint64_t turn = turn_of(pair, dim);
        for (int64_t l = 0; l < length; l++) {
            float *at = table + l * dim + 2 * pair;
            double point[2];
            unit_circle((uint64_t)l * turn % TURN, point);
            at[0] = (float)point[0];
            at[1] = (float)point[1];
        }
    }
    for (int64_t l = 0; dim % 2 == 1 && l < length; l++) table[l * dim + dim - 1] = 1;
}
