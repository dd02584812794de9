#include "kernels/projection.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/*
 * Everything here is a sequence of IEEE double operations in a written
 * order: +, -, *, / and sqrt, which the standard rounds correctly on every
 * machine. This file is compiled with the same flags in every build.
 */

/* ln 2 in two parts: e * LN2_HIGH is exact for every
 * exponent e of a double (its last 21 bits are 0). */
static const double LN2_HIGH = 0x1.62e42fee00000p-1, LN2_LOW = 0x1.a39ef35793c76p-33;
static const double HALF_PI = 0x1.921fb54442d18p+0;

/* ln x for a normal x > 0. x = 2^e r with r in [√½, √2), s = (r - 1) / (r + 1), ln r = 2
 * (s + s³/3 + s⁵/5 + ...), |s| < 0.172: the first term left out is below 2^-60 of the sum. */
static double natural_log(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int exponent = (int)(bits >> 52) - 1022;
    bits = (bits & 0xfffffffffffffu) | (uint64_t)1022 << 52;
    double r; /* [0.5, 1) */
    memcpy(&r, &bits, sizeof r);
    if (r < 0x1.6a09e667f3bcdp-1) {
        r *= 2;
        exponent--;
    }
    const double s = (r - 1) / (r + 1), square = s * s;
    double tail = 0;
    for (int n = 23; n >= 3; n -= 2) tail = square * (1.0 / n + tail);
    return exponent * LN2_HIGH + (2 * s + (2 * s * tail + exponent * LN2_LOW));
}

/* sin and cos of x in [-π/4, π/4], by their series up to x^17 and x^18. */
static double sine(double x)
{
    const double square = x * x;
    double tail = 0;
    for (int n = 16; n >= 2; n -= 2) tail = -square / (n * (n + 1)) * (1 + tail);
    return x + x * tail;
}

static double cosine(double x)
{
    const double square = x * x;
    double tail = 0;
    for (int n = 17; n >= 3; n -= 2) tail = -square / (n * (n + 1)) * (1 + tail);
    return 1 - (0.5 * square + 0.5 * square * tail);
}

/* The quarter turn is split off in integers, exactly. */
void unit_circle(uint64_t turn, double point[2])
{
    const uint64_t quarter = (turn + ((uint64_t)1 << 50)) >> 51;
    const double x = (double)((int64_t)turn - (int64_t)(quarter << 51)) * 0x1p-51 * HALF_PI;
    const double c = cosine(x), s = sine(x);

    switch (quarter % 4) {
    case 0:
        point[0] = c, point[1] = s;
        return;
    case 1:
        point[0] = -s, point[1] = c;
        return;
    case 2:
        point[0] = -c, point[1] = -s;
        return;
    default:
        point[0] = s, point[1] = -c;
    }
}

/* Where numbers come from; `part` and `draw` are words 1 and 2 of Philox' index. */
struct source {
    uint64_t seed;
    enum purpose purpose;
    uint32_t layer, part, draw;
};

/* Elements 2p and 2p + 1: Box & Muller 1958, with u in (0, 1] and an angle of 53 bits each. */
static void gaussian_pair(const struct source *source, uint32_t pair, double pairs[2])
{
    const uint32_t index[3] = {pair, source->part, source->draw};
    const struct philox_words words =
        philox_draw(source->seed, source->purpose, source->layer, index);
    const uint64_t first = ((uint64_t)words.word[1] << 32 | words.word[0]) >> 11;
    const uint64_t second = ((uint64_t)words.word[3] << 32 | words.word[2]) >> 11;
    const double radius = sqrt(-2 * natural_log((double)(first + 1) * 0x1p-53));
    double point[2];

    unit_circle(second, point);
    pairs[0] = radius * point[0];
    pairs[1] = radius * point[1];
}

void gaussian_draw(uint64_t seed, enum purpose purpose, uint32_t layer, uint32_t draw,
                   int64_t count, double scale, float *out)
{
    for (int64_t i = 0; i < count; i += 2) {
        const struct source source = {seed, purpose, layer, (uint32_t)(i >> 33), draw};
        double pair[2];
        gaussian_pair(&source, (uint32_t)(i >> 1), pair);
        out[i] = (float)(scale * pair[0]);
        if (i + 1 < count) out[i + 1] = (float)(scale * pair[1]);
    }
}

void gaussian_fill(uint64_t seed, enum purpose purpose, uint32_t layer, int64_t count, double scale,
                   float *out)
{
    gaussian_draw(seed, purpose, layer, 0, count, scale, out);
}

enum { PART_ROWS = 0, PART_LENGTHS = 1 };

static struct source source_of(const struct projection_draw *draw, uint32_t part)
{
    return (struct source){draw->seed, PURPOSE_PROJECTION, draw->layer, part, draw->draw};
}

static void rows_fill(const struct projection_draw *draw, double *rows)
{
    const struct source source = source_of(draw, PART_ROWS);
    const int64_t count = draw->features * draw->dim;
    for (int64_t i = 0; i < count; i += 2) {
        double pair[2];
        gaussian_pair(&source, (uint32_t)(i / 2), pair);
        rows[i] = pair[0];
        if (i + 1 < count) rows[i + 1] = pair[1];
    }
}

/* Length of a Gaussian row that has nothing to do with the row it is for. */
static double chi_length(const struct projection_draw *draw, int64_t row)
{
    const struct source source = source_of(draw, PART_LENGTHS);
    double sum = 0;
    for (int64_t i = row * draw->dim; i < (row + 1) * draw->dim; i++) {
        double pair[2];
        gaussian_pair(&source, (uint32_t)(i / 2), pair);
        sum += pair[i % 2] * pair[i % 2];
    }
    return sqrt(sum);
}

static double dot(const double *a, const double *b, int64_t count)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += a[i] * b[i];
    return sum;
}

static void row_scale(double *row, int64_t dim, double factor)
{
    for (int64_t i = 0; i < dim; i++) row[i] *= factor;
}

static void row_normalize(double *row, int64_t dim)
{
    const double length = sqrt(dot(row, row, dim));
    assert(length > 0);
    row_scale(row, dim, 1 / length);
}

/* Gram-Schmidt over one block of at most d rows; a second
 * pass takes away what rounding left of the first. */
static void block_orthonormalize(double *block, int64_t rows, int64_t dim)
{
    for (int64_t r = 0; r < rows; r++) {
        double *row = block + r * dim;
        for (int pass = 0; pass < 2; pass++) {
            for (int64_t before = 0; before < r; before++) {
                const double *other = block + before * dim, along = dot(row, other, dim);
                for (int64_t i = 0; i < dim; i++) row[i] -= along * other[i];
            }
            row_normalize(row, dim);
        }
    }
}

static int64_t block_rows(int64_t features, int64_t dim, int64_t first)
{
    return features - first < dim ? features - first : dim;
}

void projection_fill(const struct projection_draw *draw, double *work, float *out)
{
    const int64_t features = draw->features, dim = draw->dim;
    assert(features * dim / 2 <= UINT32_MAX);

    rows_fill(draw, work);
    for (int64_t first = 0; first < features && draw->orthogonal; first += dim)
        block_orthonormalize(work + first * dim, block_rows(features, dim, first), dim);
    for (int64_t r = 0; r < features; r++) {
        double *row = work + r * dim;
        if (draw->regularized) {
            row_normalize(row, dim);
            row_scale(row, dim, sqrt((double)dim));
        } else if (draw->orthogonal) {
            row_scale(row, dim, chi_length(draw, r));
        }
        for (int64_t i = 0; i < dim; i++) out[r * dim + i] = (float)row[i];
    }
}

static double cosine_between(const float *a, const float *b, int64_t dim)
{
    double ab = 0, aa = 0, bb = 0;
    for (int64_t i = 0; i < dim; i++) {
        ab += (double)a[i] * b[i];
        aa += (double)a[i] * a[i];
        bb += (double)b[i] * b[i];
    }
    return fabs(ab) / sqrt(aa * bb);
}

double projection_defect(int64_t features, int64_t dim, const float *projection)
{
    double largest = 0;
    for (int64_t a = 0; a < features; a++) {
        for (int64_t b = a / dim * dim; b < a; b++) {
            const double between = cosine_between(projection + a * dim, projection + b * dim, dim);
            if (between > largest) largest = between;
        }
    }
    return largest;
}
