/*
 * FAVOR+ (Choromanski et al. 2021, Algorithm 1) with prefix sums, for one head. With C = [v 1] the
 * state S and z of the paper's G are kept apart. What is added to the paper is the stabiliser:
 *
 *   query:  φ = f(a - c), c of the row
 *   key:    φ_s = f(a_s - c_s) exp(c_s - C), c_s the largest c of the head's keys (<= s when causal)
 *
 * C cancels between numerator and denominator. Here it is always the c of the row at hand, so
 * that the state is carried on from row s to s' by exp(c_s - c_s') <= 1 and nothing overflows;
 * and no state is ever recovered by subtraction. Kernels without a stabiliser have c = 0.
 */

#include "kernels/reference/attention.h"

#include <math.h>
#include <string.h>

#include "kernels/reference/product.h"

/* Features of all rows on one side, and what their derivative needs. Column j belongs to the projection
 * p_i = ω_i . x̃ with i = j mod r; a row of 2 r columns has the second half's sign or function. */
struct features {
    double *projected;   /* (L, r): p */
    double *half_square; /* (L): ‖x̃‖² / 2 */
    double *shift;       /* (L): c */
    double *value;       /* (L, n): φ */
    double *slope;       /* (L, n): ∂φ_j / ∂p_i */
    double *growth;      /* (L, n): ∂φ_j / ∂(‖x̃‖² / 2) */
};

struct favor {
    const struct head *head;
    enum attention_kernel kernel;
    int64_t length, dim, width; /* L, d, e */
    int64_t projections, count; /* r, n: columns */
    double scale;               /* x̃ = x d^(-1/4) */
    struct features query, key;
    double *sums;    /* (n, e): S, or U in the reverse scan */
    double *weights; /* (n): z, or w */
    double *dy;      /* (L, e): ȳ = dout / denominator */
    double *drho;    /* (L): ρ̄ = -(dout . out) / denominator */
    double *row;     /* (max(n, e)) */
};

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* r: elu1, the kernel of the Linear Transformer (Katharopoulos et al. 2020), takes x itself: p = x. */
static int64_t projections_of(const struct attention *call)
{
    return call->kernel == KERNEL_ELU1 ? call->head_dim : call->features;
}

static int64_t columns_of(const struct attention *call)
{
    const bool pairs =
        call->kernel == KERNEL_SOFTMAX_HYPERBOLIC || call->kernel == KERNEL_SOFTMAX_TRIG;
    return (pairs ? 2 : 1) * projections_of(call);
}

int64_t reference_favor_doubles(const struct attention *call)
{
    const int64_t l = call->length, n = columns_of(call), e = call->value_dim;
    return 2 * l * (projections_of(call) + 2 + 3 * n) + n * e + n + l * e + l + larger(n, e);
}

static double *take(double **scratch, int64_t count)
{
    double *taken = *scratch;
    *scratch += count;
    return taken;
}

static struct features features_take(const struct favor *favor, double **scratch)
{
    const int64_t l = favor->length, n = favor->count;
    return (struct features){.projected = take(scratch, l * favor->projections),
                             .half_square = take(scratch, l),
                             .shift = take(scratch, l),
                             .value = take(scratch, l * n),
                             .slope = take(scratch, l * n),
                             .growth = take(scratch, l * n)};
}

static double input(const struct favor *favor, double x)
{
    return product_input(favor->head->call->precision, x);
}

static double project(const struct favor *favor, const float *x, int64_t i)
{
    const float *projection = favor->head->call->projection;
    if (favor->kernel == KERNEL_ELU1) return x[i] * favor->scale;
    double dot = 0;
    for (int64_t j = 0; j < favor->dim; j++)
        dot += (double)projection[i * favor->dim + j] * (x[j] * favor->scale);
    return dot;
}

static void features_project(const struct favor *favor, struct rows x, struct features *features)
{
    for (int64_t l = 0; l < favor->length; l++) {
        const float *row = row_at(x, l);
        features->half_square[l] = 0;
        for (int64_t j = 0; j < favor->dim; j++)
            features->half_square[l] += pow(row[j] * favor->scale, 2) / 2;
        for (int64_t i = 0; i < favor->projections; i++)
            features->projected[l * favor->projections + i] = project(favor, row, i);
    }
}

/*
 * The c at which no exponential of a row is above 1: the largest a of softmax-positive and -hyperbolic, ‖x̃‖² / 2 of
 * softmax-trig, the largest p of exp, or log ε, which is scaled with it.
 */
static double row_shift(const struct favor *favor, const struct features *features, int64_t row)
{
    const double *p = features->projected + row * favor->projections;
    double largest = -INFINITY, size = 0;
    for (int64_t i = 0; i < favor->projections; i++) {
        largest = fmax(largest, p[i]);
        size = fmax(size, fabs(p[i]));
    }
    switch (favor->kernel) {
    case KERNEL_SOFTMAX_POSITIVE:
        return largest - features->half_square[row];
    case KERNEL_SOFTMAX_HYPERBOLIC:
        return size - features->half_square[row];
    case KERNEL_SOFTMAX_TRIG:
        return features->half_square[row];
    case KERNEL_EXP:
        return fmax(largest, log(favor->head->call->epsilon));
    default:
        return 0;
    }
}

static void query_shift(const struct favor *favor, struct features *query)
{
    for (int64_t l = 0; l < favor->length; l++) query->shift[l] = row_shift(favor, query, l);
}

/* Running maximum over keys; its last value for all rows where every query sees every key. */
static void key_shift(const struct favor *favor, struct features *key)
{
    double maximum = -INFINITY;
    for (int64_t l = 0; l < favor->length; l++) {
        if (is_key(favor->head, l)) maximum = fmax(maximum, row_shift(favor, key, l));
        key->shift[l] = maximum;
    }
    if (favor->head->call->causal) return;
    for (int64_t l = 0; l < favor->length; l++) key->shift[l] = maximum;
}

/* A column without its ε. */
struct column {
    double value, slope, growth;
};

/* f(p) of the kernels that are not shifted (Choromanski et al. 2021, appendix D.2), and its derivative. */
static struct column column_of_function(enum attention_kernel kernel, double p)
{
    switch (kernel) {
    case KERNEL_RELU:
        return (struct column){fmax(p, 0), p > 0, 0};
    case KERNEL_SIGMOID: {
        const double f = 1 / (1 + exp(-p));
        return (struct column){f, f * (1 - f), 0};
    }
    case KERNEL_ABS:
        return (struct column){fabs(p), (p > 0) - (p < 0), 0};
    case KERNEL_GELU: {
        const double below = erfc(-p * M_SQRT1_2) / 2;
        return (struct column){p * below, below + p * exp(-p * p / 2) / sqrt(2 * M_PI), 0};
    }
    case KERNEL_COS:
        return (struct column){cos(p), -sin(p), 0};
    case KERNEL_TANH:
        return (struct column){tanh(p), 1 - pow(tanh(p), 2), 0};
    case KERNEL_ELU1:
        return p > 0 ? (struct column){p + 1, 1, 0} : (struct column){exp(p), exp(p), 0};
    default: /* identity */
        return (struct column){p, 1, 0};
    }
}

static struct column column_of(const struct favor *favor, const struct features *features,
                               int64_t row, int64_t j)
{
    const double p = features->projected[row * favor->projections + j % favor->projections];
    const double half = features->half_square[row], c = features->shift[row];
    const bool second = j >= favor->projections;
    double e;
    switch (favor->kernel) {
    case KERNEL_SOFTMAX_POSITIVE:
        e = exp(p - half - c);
        return (struct column){e, e, -e};
    case KERNEL_SOFTMAX_HYPERBOLIC:
        e = exp((second ? -p : p) - half - c);
        return (struct column){e, second ? -e : e, -e};
    case KERNEL_SOFTMAX_TRIG:
        e = exp(half - c);
        return second ? (struct column){e * cos(p), -e * sin(p), e * cos(p)}
                      : (struct column){e * sin(p), e * cos(p), e * sin(p)};
    case KERNEL_EXP:
        e = exp(p - c);
        return (struct column){e, e, 0};
    default:
        return column_of_function(favor->kernel, p);
    }
}

/* ε of a row: added to what is shifted already, or scaled with the shift where that is to cancel as a whole. */
static double row_epsilon(const struct favor *favor, double shift)
{
    const double epsilon = favor->head->call->epsilon;
    const bool scaled = favor->kernel == KERNEL_SOFTMAX_TRIG || favor->kernel == KERNEL_EXP;
    return scaled && epsilon > 0 ? epsilon * exp(-shift) : epsilon;
}

/* From p and c to φ and its derivatives. Rows that are no keys
 * and come before any key have no c: they are never used. */
static void features_map(const struct favor *favor, struct features *features)
{
    const bool trig = favor->kernel == KERNEL_SOFTMAX_TRIG;
    const double norm = 1 / sqrt((double)(trig ? favor->projections : favor->count));

    for (int64_t l = 0; l < favor->length; l++) {
        const double epsilon = row_epsilon(favor, features->shift[l]);
        for (int64_t j = 0; j < favor->count; j++) {
            const struct column column = column_of(favor, features, l, j);
            features->value[l * favor->count + j] = input(favor, (column.value + epsilon) * norm);
            features->slope[l * favor->count + j] = column.slope * norm;
            features->growth[l * favor->count + j] = column.growth * norm;
        }
    }
}

static struct favor favor_prepare(const struct head *head, double *scratch)
{
    const struct attention *call = head->call;
    struct favor favor = {
        .head = head,
        .kernel = call->kernel,
        .length = call->length,
        .dim = call->head_dim,
        .width = call->value_dim,
        .projections = projections_of(call),
        .count = columns_of(call),
        .scale = call->kernel == KERNEL_ELU1 ? 1 : pow((double)call->head_dim, -0.25),
    };
    favor.query = features_take(&favor, &scratch);
    favor.key = features_take(&favor, &scratch);
    favor.sums = take(&scratch, favor.count * favor.width);
    favor.weights = take(&scratch, favor.count);
    favor.dy = take(&scratch, favor.length * favor.width);
    favor.drho = take(&scratch, favor.length);
    favor.row = take(&scratch, larger(favor.count, favor.width));

    features_project(&favor, head->q, &favor.query);
    features_project(&favor, head->k, &favor.key);
    query_shift(&favor, &favor.query);
    key_shift(&favor, &favor.key);
    features_map(&favor, &favor.query);
    features_map(&favor, &favor.key);
    return favor;
}

static void state_clear(const struct favor *favor)
{
    memset(favor->sums, 0, (size_t)(favor->count * favor->width) * sizeof(double));
    memset(favor->weights, 0, (size_t)favor->count * sizeof(double));
}

/* exp(from - to), where both may be the maximum of no keys. */
static double decay(double from, double to)
{
    return from == to ? 1 : exp(from - to);
}

static void state_scale(const struct favor *favor, double factor)
{
    if (factor == 1) return;
    for (int64_t i = 0; i < favor->count * favor->width; i++) favor->sums[i] *= factor;
    for (int64_t i = 0; i < favor->count; i++) favor->weights[i] *= factor;
}

/* S += φ_s v_sᵀ, z += φ_s, after both have been carried on from the row before. */
static void state_add_key(const struct favor *favor, int64_t s)
{
    if (s > 0) state_scale(favor, decay(favor->key.shift[s - 1], favor->key.shift[s]));
    if (!is_key(favor->head, s)) return;
    const float *v = row_at(favor->head->v, s);
    const double *phi = favor->key.value + s * favor->count;
    for (int64_t i = 0; i < favor->count; i++) {
        for (int64_t j = 0; j < favor->width; j++)
            favor->sums[i * favor->width + j] += phi[i] * input(favor, v[j]);
        favor->weights[i] += phi[i];
    }
}

/* φ(q)ᵀ S into `row`; returns φ(q)ᵀ z, 0 where there was no key. */
static double state_query(const struct favor *favor, int64_t t)
{
    const double *phi = favor->query.value + t * favor->count;
    double denominator = 0;
    for (int64_t j = 0; j < favor->width; j++) favor->row[j] = 0;
    for (int64_t i = 0; i < favor->count; i++) {
        for (int64_t j = 0; j < favor->width; j++)
            favor->row[j] += phi[i] * input(favor, favor->sums[i * favor->width + j]);
        denominator += phi[i] * input(favor, favor->weights[i]);
    }
    return denominator;
}

typedef void favor_row(const struct favor *favor, int64_t row);

/* Calls `visit` for each query with the state of the keys it sees. */
static void scan_keys(const struct favor *favor, favor_row *visit)
{
    const bool causal = favor->head->call->causal;
    state_clear(favor);
    for (int64_t s = 0; s < favor->length; s++) {
        state_add_key(favor, s);
        if (causal) visit(favor, s);
    }
    if (causal) return;
    for (int64_t t = 0; t < favor->length; t++) visit(favor, t);
}

static void visit_out(const struct favor *favor, int64_t t)
{
    float *out = row_at(favor->head->out, t);
    const double denominator = state_query(favor, t);
    for (int64_t j = 0; j < favor->width; j++)
        out[j] = denominator == 0 ? 0 : (float)(favor->row[j] / denominator);
}

void reference_favor(const struct head *head, double *scratch)
{
    const struct favor favor = favor_prepare(head, scratch);
    scan_keys(&favor, visit_out);
}

/* dx from dφ in `row`: dx̃ = Σ_j dφ_j (∂φ_j/∂p_i ω_i + ∂φ_j/∂(‖x̃‖²/2) x̃) */
static void features_backward(const struct favor *favor, const struct features *features,
                              struct rows x, struct rows dx, int64_t l)
{
    const float *projection = favor->head->call->projection, *row = row_at(x, l);
    const double *slope = features->slope + l * favor->count;
    const double *growth = features->growth + l * favor->count;
    const int64_t r = favor->projections;
    double total = 0;

    for (int64_t j = 0; j < favor->count; j++) {
        total += favor->row[j] * growth[j];
        favor->row[j] *= slope[j];
        if (j >= r) favor->row[j - r] += favor->row[j];
    }
    for (int64_t j = 0; j < favor->dim; j++) {
        double sum = total * (row[j] * favor->scale);
        for (int64_t i = 0; i < r && favor->kernel != KERNEL_ELU1; i++)
            sum += input(favor, favor->row[i]) * input(favor, projection[i * favor->dim + j]);
        if (favor->kernel == KERNEL_ELU1) sum += favor->row[j];
        row_at(dx, l)[j] = (float)(sum * favor->scale);
    }
}

/* ȳ and ρ̄ of a query, kept for the reverse scan, then dφ_i = S_i ȳ + ρ̄ z_i and dq. */
static void visit_query_backward(const struct favor *favor, int64_t t)
{
    const float *dout = row_at(favor->head->dout, t);
    double *dy = favor->dy + t * favor->width, *drho = favor->drho + t;
    const double denominator = state_query(favor, t);

    *drho = 0;
    for (int64_t j = 0; j < favor->width; j++) {
        dy[j] = denominator == 0 ? 0 : dout[j] / denominator;
        *drho -= denominator == 0 ? 0 : dy[j] * (favor->row[j] / denominator);
    }
    for (int64_t i = 0; i < favor->count; i++) {
        favor->row[i] = input(favor, *drho) * input(favor, favor->weights[i]);
        for (int64_t j = 0; j < favor->width; j++)
            favor->row[i] += input(favor, favor->sums[i * favor->width + j]) * input(favor, dy[j]);
    }
    features_backward(favor, &favor->query, favor->head->q, favor->head->dq, t);
}

/* U += φ(q_t) ȳ_tᵀ, w += ρ̄_t φ(q_t), after both have been carried back from the row behind. */
static void state_add_query(const struct favor *favor, int64_t t)
{
    if (t + 1 < favor->length)
        state_scale(favor, decay(favor->key.shift[t], favor->key.shift[t + 1]));
    const double *phi = favor->query.value + t * favor->count;
    for (int64_t i = 0; i < favor->count; i++) {
        for (int64_t j = 0; j < favor->width; j++)
            favor->sums[i * favor->width + j] +=
                phi[i] * input(favor, favor->dy[t * favor->width + j]);
        favor->weights[i] += phi[i] * input(favor, favor->drho[t]);
    }
}

/* dv = Uᵀ φ_s; dφ_i = U_i v + w_i, and dk. */
static void visit_key_backward(const struct favor *favor, int64_t s)
{
    const float *v = row_at(favor->head->v, s);
    float *dv = row_at(favor->head->dv, s);
    const double *phi = favor->key.value + s * favor->count;

    if (!is_key(favor->head, s)) {
        memset(dv, 0, (size_t)favor->width * sizeof *dv);
        memset(row_at(favor->head->dk, s), 0, (size_t)favor->dim * sizeof(float));
        return;
    }
    for (int64_t j = 0; j < favor->width; j++) {
        double sum = 0;
        for (int64_t i = 0; i < favor->count; i++)
            sum += input(favor, favor->sums[i * favor->width + j]) * phi[i];
        dv[j] = (float)sum;
    }
    for (int64_t i = 0; i < favor->count; i++) {
        favor->row[i] = favor->weights[i];
        for (int64_t j = 0; j < favor->width; j++)
            favor->row[i] += input(favor, favor->sums[i * favor->width + j]) * input(favor, v[j]);
    }
    features_backward(favor, &favor->key, favor->head->k, favor->head->dk, s);
}

void reference_favor_backward(const struct head *head, double *scratch)
{
    const struct favor favor = favor_prepare(head, scratch);
    scan_keys(&favor, visit_query_backward);

    state_clear(&favor);
    for (int64_t t = favor.length - 1; t >= 0; t--) {
        state_add_query(&favor, t);
        if (head->call->causal) visit_key_backward(&favor, t);
    }
    if (head->call->causal) return;
    for (int64_t s = 0; s < favor.length; s++) visit_key_backward(&favor, s);
}
