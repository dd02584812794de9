/*
 * The Gaussians against the same formula in libm's long double, and the projections for what
 * they must be: orthogonal, of the right lengths, Haar, and a function of their key alone.
 */

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The file itself, for the logarithm and the circle that it keeps to itself. */
#include "kernels/projection.c"

static const long double HALF_PI_L = 1.570796326794896619231321691639751442L;

/* cos and sin of 2π turn / 2^53. The quarter turn is taken off first: a long
 * double of the whole angle would have lost the digits of a cosine near 0. */
static void precise_circle(uint64_t turn, long double point[2])
{
    const int64_t quarter = ((int64_t)turn + (1ll << 50)) >> 51;
    const long double x = (long double)((int64_t)turn - (quarter << 51)) * 0x1p-51L * HALF_PI_L;
    const long double cosines[4] = {cosl(x), -sinl(x), -cosl(x), sinl(x)};
    point[0] = cosines[quarter % 4];
    point[1] = cosines[(quarter + 3) % 4];
}

/* Box-Muller as kernels/projection.c writes it, in 64 bits of mantissa. */
static void precise_pair(uint64_t seed, enum purpose purpose, uint32_t layer,
                         const uint32_t index[3], long double pair[2])
{
    const struct philox_words words = philox_draw(seed, purpose, layer, index);
    const uint64_t first = ((uint64_t)words.word[1] << 32 | words.word[0]) >> 11;
    const uint64_t second = ((uint64_t)words.word[3] << 32 | words.word[2]) >> 11;
    const long double radius = sqrtl(-2 * logl((long double)(first + 1) * 0x1p-53L));
    precise_circle(second, pair);
    pair[0] *= radius;
    pair[1] *= radius;
}

/* |ours - exact| / |exact| */
static double relative(double ours, long double exact)
{
    return (double)(fabsl(ours - exact) / fabsl(exact));
}

/* Over all magnitudes that a draw can meet: u is a
 * multiple of 2^-53 in (0, 1], angles of 2^-53 of a turn. */
Test(projection, logarithm_and_circle_agree_with_long_double)
{
    double worst_log = 0, worst_circle = 0, point[2];
    for (uint32_t n = 0; n < 300000; n++) {
        const uint32_t index[3] = {n, 0, 0};
        const struct philox_words words = philox_draw(1, PURPOSE_ORDER, 0, index);
        const uint64_t bits = (uint64_t)words.word[1] << 32 | words.word[0];
        const uint64_t u = (bits >> 11 >> (words.word[2] % 53)) + 1, turn = bits >> 11;
        if (u < (uint64_t)1 << 53)
            worst_log = fmax(worst_log, relative(natural_log((double)u * 0x1p-53),
                                                 logl((long double)u * 0x1p-53L)));
        unit_circle(turn, point);
        long double exact[2];
        precise_circle(turn, exact);
        for (int i = 0; i < 2; i++) worst_circle = fmax(worst_circle, relative(point[i], exact[i]));
    }
    cr_expect(worst_log < 3e-16, "log is off by %g", worst_log);
    cr_expect(worst_circle < 5e-16, "cos or sin is off by %g", worst_circle);
    cr_expect_eq(natural_log(1), 0);
    for (uint64_t quarter = 0; quarter < 4; quarter++) {
        unit_circle(quarter << 51, point);
        cr_expect_eq(fabs(point[0]), quarter % 2 ? 0 : 1);
        cr_expect_eq(point[0] + point[1], quarter == 0 || quarter == 1 ? 1 : -1);
    }
}

Test(projection, gaussians_agree_with_long_double)
{
    enum { COUNT = 200001 };
    float *values = malloc(COUNT * sizeof *values);
    int64_t rounded_apart = 0;
    double worst = 0;
    gaussian_fill(99, PURPOSE_WEIGHTS, 3, COUNT, 1, values);
    for (int64_t i = 0; i < COUNT; i++) {
        const uint32_t index[3] = {(uint32_t)(i / 2), 0, 0};
        const struct source source = {99, PURPOSE_WEIGHTS, 3, 0, 0};
        long double exact[2];
        double pair[2];
        precise_pair(99, PURPOSE_WEIGHTS, 3, index, exact);
        gaussian_pair(&source, (uint32_t)(i / 2), pair);
        worst = fmax(worst, relative(pair[i % 2], exact[i % 2]));
        rounded_apart += values[i] != (float)exact[i % 2];
    }
    cr_expect(worst < 1e-15, "off by %g", worst);
    /* A double 1e-15 off rounds to another float about once in 3e7. */
    cr_expect(rounded_apart <= 1, "%d floats differ", (int)rounded_apart);
    free(values);
}

/* Elements are functions of their place, not of how many are asked for or of what came before. */
Test(projection, an_element_is_a_function_of_its_place)
{
    float few[5], many[64], other[64];
    gaussian_fill(7, PURPOSE_WEIGHTS, 1, 5, 0.5, few);
    gaussian_fill(7, PURPOSE_WEIGHTS, 1, 64, 0.5, many);
    cr_expect_eq(memcmp(few, many, sizeof few), 0);
    gaussian_fill(7, PURPOSE_WEIGHTS, 2, 64, 0.5, other);
    cr_expect_neq(memcmp(other, many, sizeof other), 0);
    gaussian_fill(8, PURPOSE_WEIGHTS, 1, 64, 0.5, other);
    cr_expect_neq(memcmp(other, many, sizeof other), 0);
}

static void fill(const struct projection_draw *draw, float *out)
{
    double *work = malloc((size_t)(draw->features * draw->dim) * sizeof *work);
    projection_fill(draw, work, out);
    free(work);
}

static double row_length(const float *row, int64_t dim)
{
    double sum = 0;
    for (int64_t i = 0; i < dim; i++) sum += (double)row[i] * row[i];
    return sqrt(sum);
}

enum { FEATURES_MAX = 300, DIM_MAX = 128 };
static float projection[FEATURES_MAX * DIM_MAX];

/* Draw 0 is gaussian_fill; another draw, purpose or layer gives other
 * numbers, of the right size, that have nothing to do with them. */
Test(projection, draws_of_a_matrix_are_gaussian_and_independent)
{
    enum { COUNT = 20001 };
    static float first[COUNT], filled[COUNT], other[COUNT];
    gaussian_fill(7, PURPOSE_ROTATIONS, 3, COUNT, 0.5, filled);
    gaussian_draw(7, PURPOSE_ROTATIONS, 3, 0, COUNT, 0.5, first);
    cr_expect(memcmp(first, filled, sizeof first) == 0);

    static const struct {
        enum purpose purpose;
        uint32_t layer, draw;
    } others[] = {{PURPOSE_ROTATIONS, 3, 1},
                  {PURPOSE_ROTATIONS, 4, 0},
                  {PURPOSE_KEY_PROJECTION, 3, 0},
                  {PURPOSE_VALUE_PROJECTION, 3, 0}};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        gaussian_draw(7, others[i].purpose, others[i].layer, others[i].draw, COUNT, 0.5, other);
        double product = 0, square = 0;
        for (int at = 0; at < COUNT; at++) {
            product += (double)first[at] * other[at] / (0.25 * COUNT);
            square += (double)other[at] * other[at] / (0.25 * COUNT);
        }
        cr_expect(fabs(product) < 5 / sqrt(COUNT), "%zu: correlation %g", i, product);
        cr_expect(fabs(square - 1) < 5 * sqrt(2.0 / COUNT), "%zu: variance %g", i, square);
    }
}

Test(projection, blocks_are_orthogonal)
{
    static const struct {
        int64_t features, dim;
    } sizes[] = {{1, 1}, {3, 1}, {8, 8}, {37, 9}, {256, 64}, {300, 128}, {5, 64}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const struct projection_draw draw = {
            .seed = i, .features = sizes[i].features, .dim = sizes[i].dim, .orthogonal = true};
        fill(&draw, projection);
        const double defect = projection_defect(draw.features, draw.dim, projection);
        cr_expect(defect < 1e-6, "m %d d %d: %g", (int)draw.features, (int)draw.dim, defect);
    }
}

Test(projection, defect_sees_what_is_not_orthogonal)
{
    const struct projection_draw draw = {.features = 256, .dim = 64};
    fill(&draw, projection);
    cr_expect(projection_defect(256, 64, projection) > 0.1);
    const float parallel[] = {1, 2, -2, -4}; /* within a block */
    cr_expect_float_eq(projection_defect(2, 2, parallel), 1, 1e-12);
    const float blocks[] = {3, 3}; /* m 2, d 1: two blocks, nothing to compare */
    cr_expect_eq(projection_defect(2, 1, blocks), 0);
}

Test(projection, regularized_rows_have_length_sqrt_d)
{
    for (int orthogonal = 0; orthogonal < 2; orthogonal++) {
        const struct projection_draw draw = {
            .features = 100, .dim = 48, .orthogonal = orthogonal, .regularized = true};
        fill(&draw, projection);
        for (int64_t r = 0; r < 100; r++)
            cr_expect_float_eq(row_length(projection + r * 48, 48), sqrt(48), 1e-5);
    }
}

/* Every part of a draw's key gives another projection, and the same key the same bits. */
Test(projection, a_draw_is_a_function_of_its_key)
{
    const struct projection_draw draw = {
        .seed = 1, .layer = 2, .draw = 3, .features = 40, .dim = 16, .orthogonal = true};
    float again[40 * 16];
    fill(&draw, projection);
    for (int change = 0; change < 6; change++) {
        struct projection_draw other = draw;
        if (change == 1) other.seed = 2;
        if (change == 2) other.layer = 3;
        if (change == 3) other.draw = 4;
        if (change == 4) other.orthogonal = false;
        if (change == 5) other.regularized = true;
        fill(&other, again);
        cr_expect_eq(memcmp(again, projection, sizeof again) == 0, change == 0, "change %d",
                     change);
    }
}

/* Rows of the same block in two draws of one run, or two
 * layers: not the same directions with other lengths. */
Test(projection, draws_and_layers_are_independent)
{
    const struct projection_draw draw = {.seed = 4, .features = 64, .dim = 64, .orthogonal = true};
    float *other = malloc(64 * 64 * sizeof *other);
    for (int change = 0; change < 2; change++) {
        struct projection_draw next = draw;
        next.draw += change == 0;
        next.layer += change == 1;
        fill(&draw, projection);
        fill(&next, other);
        double squares = 0; /* of the cosine of row r and row r: mean 1 / d */
        for (int64_t r = 0; r < 64; r++) {
            double dot = 0;
            for (int64_t i = 0; i < 64; i++)
                dot += (double)projection[r * 64 + i] * other[r * 64 + i];
            dot /= row_length(projection + r * 64, 64) * row_length(other + r * 64, 64);
            squares += dot * dot;
        }
        cr_expect(squares / 64 < 4.0 / 64, "%g", squares / 64);
    }
    free(other);
}

/* Sums over many draws of one entry, of its square,
 * and of a row's squared length and its square. */
struct moments {
    double entry, entry_square, length_square, length_fourth;
};

static struct moments moments_of(bool orthogonal, int64_t row, int64_t column, int64_t dim,
                                 int draws)
{
    struct moments sums = {0};
    for (int i = 0; i < draws; i++) {
        const struct projection_draw draw = {
            .seed = 11, .draw = (uint32_t)i, .features = dim, .dim = dim, .orthogonal = orthogonal};
        fill(&draw, projection);
        const double entry = projection[row * dim + column];
        const double square = pow(row_length(projection + row * dim, dim), 2);
        sums.entry += entry / draws;
        sums.entry_square += entry * entry / draws;
        sums.length_square += square / draws;
        sums.length_fourth += square * square / draws;
    }
    return sums;
}

/*
 * Marginals are N(0, 1) also where rows are orthogonal: the mean of an entry is 0 (a QR
 * whose signs are not fixed gives -0.8 at [0][0]), its variance 1, and a squared length is
 * chi-squared with d degrees: mean d, variance 2 d. Five standard errors of 4000 draws each.
 */
Test(projection, rows_are_gaussian_one_by_one)
{
    enum { DRAWS = 4000, DIM = 8 };
    for (int i = 0; i < 8; i++) {
        const int64_t row = i / 2 % 2 ? DIM - 1 : 0, column = i % 2 ? DIM - 1 : 0;
        const struct moments m = moments_of(i / 4, row, column, DIM, DRAWS);
        const double error = 5 / sqrt(DRAWS);
        cr_expect(fabs(m.entry) < error, "[%d][%d]: mean %g", (int)row, (int)column, m.entry);
        cr_expect(fabs(m.entry_square - 1) < sqrt(2) * error, "variance %g", m.entry_square);
        cr_expect(fabs(m.length_square - DIM) < sqrt(2 * DIM) * error, "length² %g",
                  m.length_square);
        const double variance = m.length_fourth - m.length_square * m.length_square;
        cr_expect(fabs(variance - 2 * DIM) < 2 * DIM * sqrt(2 + 12.0 / DIM) * error,
                  "variance of length² %g", variance);
    }
}

/* Lengths have nothing to do with directions: Gram-Schmidt's own would shrink from row to row. */
Test(projection, lengths_are_independent_of_the_row)
{
    enum { DRAWS = 3000, DIM = 8 };
    const double first = moments_of(true, 0, 0, DIM, DRAWS).length_square;
    const double last = moments_of(true, DIM - 1, 0, DIM, DRAWS).length_square;
    cr_expect(fabs(first - last) < 5 * sqrt(2 * 2 * DIM) / sqrt(DRAWS), "%g %g", first, last);
}
