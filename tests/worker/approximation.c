#include "worker/approximation.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/philox.h"
#include "kernels/projection.h"
#include "proto/jobspec.h"
#include "tests/kernels/naive.h"
#include "tests/kernels/trial.h"

enum { SEED = 11, LAYER = 3, B = 2, H = 2, D = 6, E = 4 };

/* Attention on random rows, with all that it points to. */
struct layer {
    struct attention attention;
    float *q, *k, *v, *out, *projection;
    uint8_t *mask;
};

static struct heads_view view_of(float *data, int64_t length, int64_t width)
{
    return (struct heads_view){data, H * length * width, length * width, width};
}

static struct layer layer_new(enum attention_kernel kernel, double epsilon, bool causal,
                              bool masked, int64_t length, int64_t features, double scale)
{
    const int64_t rows = B * H * length;
    struct layer layer = {
        .q = trial_floats(1, rows * D, scale),
        .k = trial_floats(2, rows * D, scale),
        .v = trial_floats(3, rows * E, 1),
        .out = trial_unwritten(rows * E),
        .projection = malloc((size_t)(features * D) * sizeof(float)),
        .mask = malloc((size_t)(B * length)),
    };
    cr_assert(layer.projection && layer.mask);
    gaussian_fill(SEED, PURPOSE_PROJECTION, LAYER, features * D, 1, layer.projection);
    /* the second sequence is a third shorter, and its first row is no key */
    for (int64_t i = 0; i < B * length; i++)
        layer.mask[i] = i < length || (i > length && i - length < length - length / 3);
    layer.attention = (struct attention){
        .kind = ATTENTION_FAVOR,
        .kernel = kernel,
        .causal = causal,
        .epsilon = (float)epsilon,
        .batch = B,
        .heads = H,
        .length = length,
        .head_dim = D,
        .value_dim = E,
        .features = features,
        .projection = kernel == KERNEL_ELU1 ? NULL : layer.projection,
        .key_mask = masked ? layer.mask : NULL,
        .q = view_of(layer.q, length, D),
        .k = view_of(layer.k, length, D),
        .v = view_of(layer.v, length, E),
        .out = view_of(layer.out, length, E),
    };
    return layer;
}

static void layer_free(struct layer *layer)
{
    free(layer->q), free(layer->k), free(layer->v), free(layer->out);
    free(layer->projection), free(layer->mask);
}

static void attend(const struct layer *layer)
{
    const struct backend *reference = backend_find("reference");
    cr_assert_eq(TRIAL_RUN(reference, 1, attention, &layer->attention), ST_OK);
}

static struct approximation measure(const struct layer *layer, int threads)
{
    struct approximation measured;
    struct team *team;
    void *work = malloc(approximation_work_bytes(&layer->attention, threads));
    cr_assert(work && team_new(threads, &team) == ST_OK);
    memset(work, 0xff, approximation_work_bytes(&layer->attention, threads));
    approximation_measure(&layer->attention, SEED, LAYER, team, work, &measured);
    team_free(team);
    free(work);
    return measured;
}

/* ---- the same, naively ---- */

static double tilde_dot(const struct layer *layer, const float *x, int64_t i)
{
    double sum = 0;
    if (layer->attention.kernel == KERNEL_ELU1) return x[i];
    for (int64_t j = 0; j < D; j++)
        sum += (double)layer->projection[i * D + j] * x[j] / pow(D, 0.25);
    return sum;
}

static double half_square(const float *x)
{
    double sum = 0;
    for (int64_t j = 0; j < D; j++) sum += (double)x[j] * x[j] / sqrt(D) / 2;
    return sum;
}

static int64_t projections(const struct layer *layer)
{
    return layer->attention.kernel == KERNEL_ELU1 ? D : layer->attention.features;
}

static int64_t columns(const struct layer *layer)
{
    const enum attention_kernel kernel = layer->attention.kernel;
    return projections(layer) *
           (kernel == KERNEL_SOFTMAX_HYPERBOLIC || kernel == KERNEL_SOFTMAX_TRIG ? 2 : 1);
}

/* c of a row, from the words of the design. */
static double shift_of(const struct layer *layer, const float *x)
{
    double largest = -INFINITY, size = 0;
    for (int64_t i = 0; i < projections(layer); i++) {
        largest = fmax(largest, tilde_dot(layer, x, i));
        size = fmax(size, fabs(tilde_dot(layer, x, i)));
    }
    switch (layer->attention.kernel) {
    case KERNEL_SOFTMAX_POSITIVE:
        return largest - half_square(x);
    case KERNEL_SOFTMAX_HYPERBOLIC:
        return size - half_square(x);
    case KERNEL_SOFTMAX_TRIG:
        return half_square(x);
    case KERNEL_EXP:
        return fmax(largest, log((double)layer->attention.epsilon));
    default:
        return 0;
    }
}

/* Column j, without ε, shifted by c. */
static double phi_of(const struct layer *layer, const float *x, int64_t j, double c)
{
    const int64_t r = projections(layer);
    const double p = tilde_dot(layer, x, j % r);
    switch (layer->attention.kernel) {
    case KERNEL_SOFTMAX_POSITIVE:
        return exp(p - half_square(x) - c);
    case KERNEL_SOFTMAX_HYPERBOLIC:
        return exp((j < r ? p : -p) - half_square(x) - c);
    case KERNEL_SOFTMAX_TRIG:
        return exp(half_square(x) - c) * (j < r ? sin(p) : cos(p));
    case KERNEL_RELU:
        return fmax(p, 0);
    case KERNEL_EXP:
        return exp(p - c);
    case KERNEL_SIGMOID:
        return 1 / (1 + exp(-p));
    case KERNEL_ABS:
        return fabs(p);
    case KERNEL_GELU:
        return naive_gelu(p);
    case KERNEL_COS:
        return cos(p);
    case KERNEL_TANH:
        return tanh(p);
    case KERNEL_IDENTITY:
        return p;
    default: /* elu1 */
        return p > 0 ? p + 1 : exp(p);
    }
}

static double epsilon_of(const struct layer *layer, double c)
{
    const enum attention_kernel kernel = layer->attention.kernel;
    const double epsilon = layer->attention.epsilon;
    return kernel == KERNEL_EXP || kernel == KERNEL_SOFTMAX_TRIG ? epsilon * exp(-c) : epsilon;
}

struct naive_sums {
    double difference, exact, denominator_min;
    int64_t saturated, features;
};

struct naive_head {
    const struct layer *layer;
    const float *q, *k, *v, *out;
    const uint8_t *mask; /* (L) or NULL */
    double *exact;       /* (L, E) */
};

static bool is_seen(const struct naive_head *head, int64_t query, int64_t key)
{
    return (!head->mask || head->mask[key]) && !(head->layer->attention.causal && key > query);
}

/* The shift that a key has when the row `query` sees the keys up to `key`. */
static double key_shift(const struct naive_head *head, int64_t query, int64_t key)
{
    const int64_t last = head->layer->attention.causal ? key : head->layer->attention.length - 1;
    double largest = -INFINITY;
    for (int64_t s = 0; s <= last; s++)
        if (is_seen(head, query, s))
            largest = fmax(largest, shift_of(head->layer, head->k + s * D));
    return largest;
}

static void naive_row(const struct naive_head *head, int64_t t, struct naive_sums *sums)
{
    const struct layer *layer = head->layer;
    const int64_t n = columns(layer);
    const float *q = head->q + t * D;
    const double query_shift = shift_of(layer, q), last = key_shift(head, t, t);
    double product = 0, query = 0, keys = 0;
    double *z = trial_zeros(n);

    for (int64_t s = 0; s < layer->attention.length; s++) {
        if (!is_seen(head, t, s)) continue;
        const double c = key_shift(head, t, s);
        for (int64_t j = 0; j < n; j++)
            z[j] += (phi_of(layer, head->k + s * D, j, c) + epsilon_of(layer, c)) * exp(c - last);
    }
    for (int64_t j = 0; j < n; j++) {
        const double of_query = phi_of(layer, q, j, query_shift);
        const double of_key = phi_of(layer, head->k + t * D, j, last);
        const double query_epsilon = epsilon_of(layer, query_shift);
        const double key_epsilon = epsilon_of(layer, last);
        product += (of_query + query_epsilon) * z[j];
        query += pow(of_query + query_epsilon, 2);
        keys += z[j] * z[j];
        sums->saturated += of_query == 0 || fabs(of_query) < query_epsilon;
        sums->saturated += of_key == 0 || fabs(of_key) < key_epsilon;
    }
    free(z);
    sums->features += 2 * n;
    sums->denominator_min = fmin(sums->denominator_min, product / sqrt(query * keys));
    for (int64_t j = 0; j < E; j++) {
        sums->difference += pow(head->out[t * E + j] - head->exact[t * E + j], 2);
        sums->exact += pow(head->exact[t * E + j], 2);
    }
}

/* The rows of the header's rule, in order of drawing. */
static int naive_sample(const struct naive_head *head, uint32_t sequence, uint32_t number,
                        int64_t rows[APPROXIMATION_ROWS])
{
    int64_t keys[256], n = 0;
    int count = 0;
    for (int64_t s = 0; s < head->layer->attention.length; s++)
        if (!head->mask || head->mask[s]) keys[n++] = s;
    if (n <= APPROXIMATION_ROWS) {
        memcpy(rows, keys, (size_t)n * sizeof *rows);
        return (int)n;
    }
    for (uint32_t word = 0; count < APPROXIMATION_ROWS; word++) {
        const uint32_t index[3] = {sequence, number, word / 4};
        const uint64_t value = philox_draw(SEED, PURPOSE_ROW_SAMPLE, LAYER, index).word[word % 4];
        if (value < 4294967296 - 4294967296 % (uint64_t)n)
            rows[count++] = keys[value % (uint64_t)n];
    }
    return count;
}

static void naive_head_add(const struct layer *layer, int64_t b, int64_t h, struct naive_sums *sums)
{
    const int64_t length = layer->attention.length, place = (b * H + h) * length;
    struct naive_head head = {
        .layer = layer,
        .q = layer->q + place * D,
        .k = layer->k + place * D,
        .v = layer->v + place * E,
        .out = layer->out + place * E,
        .mask = layer->attention.key_mask ? layer->attention.key_mask + b * length : NULL,
        .exact = trial_zeros(length * E),
    };
    double *q = trial_doubles(head.q, length * D), *k = trial_doubles(head.k, length * D);
    double *v = trial_doubles(head.v, length * E);
    const struct naive_attention exact = {.kind = ATTENTION_SOFTMAX,
                                          .causal = layer->attention.causal,
                                          .length = length,
                                          .dim = D,
                                          .width = E,
                                          .q = q,
                                          .k = k,
                                          .v = v,
                                          .key_mask = head.mask};
    int64_t rows[APPROXIMATION_ROWS];

    naive_attention(&exact, head.exact);
    const int count = naive_sample(&head, (uint32_t)b, (uint32_t)h, rows);
    for (int i = 0; i < count; i++) naive_row(&head, rows[i], sums);
    free(q), free(k), free(v), free(head.exact);
}

static void close_to(double ours, double expected, const char *what, const struct layer *layer)
{
    cr_assert(fabs(ours - expected) <= 1e-9 * fmax(1e-3, fabs(expected)),
              "%s of %s, %s, length %lld: %.17g, not %.17g", what,
              attention_kernel_text(layer->attention.kernel),
              layer->attention.causal ? "causal" : "bidirectional",
              (long long)layer->attention.length, ours, expected);
}

static void check(enum attention_kernel kernel, double epsilon, bool causal, bool masked,
                  int64_t length)
{
    struct layer layer = layer_new(kernel, epsilon, causal, masked, length, 10, 1.5);
    struct naive_sums sums = {.denominator_min = INFINITY};
    attend(&layer);
    for (int64_t b = 0; b < B; b++)
        for (int64_t h = 0; h < H; h++) naive_head_add(&layer, b, h, &sums);

    const struct approximation measured = measure(&layer, 2);
    if (attention_estimates_softmax(ATTENTION_FAVOR, kernel))
        close_to(measured.error, sqrt(sums.difference / sums.exact), "error", &layer);
    else
        cr_assert(isnan(measured.error));
    close_to(measured.denominator_min, sums.denominator_min, "denominator", &layer);
    close_to(measured.saturated, (double)sums.saturated / (double)sums.features, "saturated",
             &layer);
    layer_free(&layer);
}

Test(approximation, is_that_of_a_naive_computation)
{
    static const int64_t lengths[] = {1, 5, 32, 33, 70};
    for (int kernel = 0; kernel < TRIAL_KERNELS; kernel++) {
        for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
            for (int way = 0; way < 4; way++) {
                if (lengths[i] == 1 && way >= 2) continue; /* the mask would leave no key */
                check(trial_kernels[kernel], 0.05, way % 2, way / 2, lengths[i]);
            }
        }
    }
}

Test(approximation, kernels_without_epsilon_saturate_where_they_are_0)
{
    check(KERNEL_SOFTMAX_POSITIVE, 0, true, true, 33);
    check(KERNEL_RELU, 0, false, true, 33);
}

static double error_of(int64_t features, uint64_t seed)
{
    struct layer layer = layer_new(KERNEL_SOFTMAX_POSITIVE, 1e-6, true, false, 40, features, 0.4);
    gaussian_fill(seed, PURPOSE_PROJECTION, LAYER, features * D, 1, layer.projection);
    attend(&layer);
    const double error = measure(&layer, 1).error;
    layer_free(&layer);
    return error;
}

Test(approximation, error_falls_with_the_number_of_features)
{
    double few = 0, many = 0;
    for (uint64_t seed = 0; seed < 10; seed++) {
        few += error_of(8, seed) / 10;
        many += error_of(512, seed) / 10;
    }
    /* The error of a mean of m numbers: with norms as small as these by sqrt(512 / 8) = 8. */
    cr_assert(many < few / 4 && many > few / 16, "%g with 8, %g with 512", few, many);
}

/* Equal keys have equal weights under any features: then nothing is approximated. */
Test(approximation, of_equal_keys_there_is_no_error)
{
    for (int causal = 0; causal < 2; causal++) {
        struct layer layer = layer_new(KERNEL_SOFTMAX_POSITIVE, 1e-6, causal, false, 50, 7, 1);
        for (int64_t row = 1; row < B * H * 50; row++)
            memcpy(layer.k + row * D, layer.k, D * sizeof(float));
        attend(&layer);
        const double error = measure(&layer, 1).error;
        cr_assert(error < 1e-6, "%g", error);
        layer_free(&layer);
    }
}

Test(approximation, has_the_same_bits_for_any_number_of_threads)
{
    struct layer layer = layer_new(KERNEL_SOFTMAX_HYPERBOLIC, 1e-6, true, true, 70, 9, 1);
    attend(&layer);
    const struct approximation one = measure(&layer, 1);
    for (int threads = 2; threads <= 5; threads++) {
        const struct approximation several = measure(&layer, threads);
        cr_assert_arr_eq(&several, &one, sizeof one);
    }
    layer_free(&layer);
}

Test(approximation, of_orthogonal_rows_there_is_no_defect)
{
    struct layer layer = layer_new(KERNEL_SOFTMAX_POSITIVE, 1e-6, true, false, 5, 12, 1);
    attend(&layer);
    cr_assert_gt(measure(&layer, 1).orthogonality, 0.1, "independent rows are not orthogonal");
    const struct projection_draw draw = {
        .seed = SEED, .features = 12, .dim = D, .orthogonal = true};
    double *work = trial_zeros(12 * D);
    projection_fill(&draw, work, layer.projection);
    cr_assert_lt(measure(&layer, 1).orthogonality, 1e-6);
    free(work);
    layer_free(&layer);
}
