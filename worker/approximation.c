#include "worker/approximation.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels/philox.h"
#include "kernels/projection.h"
#include "proto/jobspec.h"

/* What the sampled rows of one (sequence, head) come to. */
struct head_sums {
    double difference, exact; /* squares */
    double denominator_min;   /* NaN: no row yet */
    int64_t saturated, features;
};

/* One measurement. Column j of a row of n features belongs to projection j mod r. */
struct measurement {
    const struct attention *attention;
    uint64_t seed;
    uint32_t layer;
    int64_t projections, columns; /* r, n */
    double scale;                 /* x̃ = x * scale */
    struct head_sums *heads;      /* (B, H) */
    double *transposed;           /* (d, r): the projection, so that the innermost loop is over r */
    double *threads;              /* (threads, thread_doubles) */
    int64_t thread_doubles;
};

/* Features of one row. */
struct row_features {
    double half_square; /* ‖x̃‖² / 2 */
    double shift;       /* its own c */
    double *projected;  /* (r) */
};

/* One (sequence, head) under way. The state is carried on from key to key as kernels/reference/favor.c says. */
struct head_state {
    const struct measurement *measurement;
    const float *q, *k, *v, *out;
    const uint8_t *key_mask; /* (L) or NULL */
    double shift;            /* C, the largest c of the keys so far */
    int64_t keys;
    double *sum; /* (n): Σ φ(k), where causal with ε */
    double *row; /* (n): φ of the row at hand */
    struct row_features features;
    double *exact; /* (e) */
    struct head_sums sums;
};

bool approximation_measurable(enum attention_kind kind)
{
    return kind == ATTENTION_FAVOR;
}

static int64_t projections_of(const struct attention *attention)
{
    return attention->kernel == KERNEL_ELU1 ? attention->head_dim : attention->features;
}

static int64_t columns_of(const struct attention *attention)
{
    const bool pairs =
        attention->kernel == KERNEL_SOFTMAX_HYPERBOLIC || attention->kernel == KERNEL_SOFTMAX_TRIG;
    return (pairs ? 2 : 1) * projections_of(attention);
}

/* A whole number of cache lines, so that threads do not share one. */
static int64_t thread_doubles(const struct attention *attention)
{
    const int64_t doubles =
        2 * columns_of(attention) + projections_of(attention) + attention->value_dim;
    return (doubles + 7) / 8 * 8;
}

static int64_t transposed_doubles(const struct attention *attention)
{
    return (attention->head_dim * projections_of(attention) + 7) / 8 * 8;
}

size_t approximation_work_bytes(const struct attention *attention, int threads)
{
    const int64_t doubles = transposed_doubles(attention) + threads * thread_doubles(attention);
    return (size_t)doubles * sizeof(double) +
           (size_t)(attention->batch * attention->heads) * sizeof(struct head_sums);
}

/* ---- which rows ---- */

static bool is_key(const struct head_state *head, int64_t row)
{
    return !head->key_mask || head->key_mask[row];
}

static int64_t count_keys(const struct head_state *head)
{
    const int64_t length = head->measurement->attention->length;
    int64_t keys = 0;
    for (int64_t row = 0; row < length; row++) keys += is_key(head, row);
    return keys;
}

/* Keeps rows[0 ... count] ascending. */
static void insert_row(int64_t row, int count, int64_t *rows)
{
    int place = count;
    for (; place > 0 && rows[place - 1] > row; place--) rows[place] = rows[place - 1];
    rows[place] = row;
}

/* The sample, ascending, counted among the rows that are keys. */
static int sample_rows(const struct measurement *m, uint32_t sequence, uint32_t head, int64_t keys,
                       int64_t rows[APPROXIMATION_ROWS])
{
    const uint64_t words = UINT64_C(1) << 32;
    int count = 0;

    if (keys <= APPROXIMATION_ROWS) {
        for (; count < keys; count++) rows[count] = count;
        return count;
    }
    const uint64_t n = (uint64_t)keys, limit = words - words % n;
    for (uint32_t index = 0; count < APPROXIMATION_ROWS; index++) {
        const uint32_t place[3] = {sequence, head, index};
        const struct philox_words draw = philox_draw(m->seed, PURPOSE_ROW_SAMPLE, m->layer, place);
        for (int i = 0; i < 4 && count < APPROXIMATION_ROWS; i++)
            if (draw.word[i] < limit) insert_row((int64_t)(draw.word[i] % n), count++, rows);
    }
    return count;
}

/* ---- features ---- */

/* The c at which no exponential of a row is above 1, as kernels/reference/favor.c has it. */
static double row_shift(const struct measurement *m, const struct row_features *features)
{
    double largest = -INFINITY, size = 0;
    for (int64_t i = 0; i < m->projections; i++) {
        const double p = features->projected[i];
        largest = p > largest ? p : largest;
        size = fabs(p) > size ? fabs(p) : size;
    }
    switch (m->attention->kernel) {
    case KERNEL_SOFTMAX_POSITIVE:
        return largest - features->half_square;
    case KERNEL_SOFTMAX_HYPERBOLIC:
        return size - features->half_square;
    case KERNEL_SOFTMAX_TRIG:
        return features->half_square;
    case KERNEL_EXP:
        return fmax(largest, log((double)m->attention->epsilon));
    default:
        return 0;
    }
}

static void project(const struct measurement *m, const float *x, struct row_features *features)
{
    const int64_t d = m->attention->head_dim, r = m->projections;
    double *projected = features->projected;

    features->half_square = 0;
    memset(projected, 0, (size_t)r * sizeof *projected);
    for (int64_t j = 0; j < d; j++) {
        const double scaled = x[j] * m->scale, *column = m->transposed + j * r;
        features->half_square += scaled * scaled / 2;
        if (m->attention->kernel == KERNEL_ELU1)
            projected[j] = scaled;
        else
            for (int64_t i = 0; i < r; i++) projected[i] += column[i] * scaled;
    }
    features->shift = row_shift(m, features);
}

/* Column of the first r, or of the second r, without its ε. */
static double column_of(enum attention_kernel kernel, const struct row_features *features, double p,
                        double shift, bool second)
{
    const double half = features->half_square;
    switch (kernel) {
    case KERNEL_SOFTMAX_POSITIVE:
        return exp(p - half - shift);
    case KERNEL_SOFTMAX_HYPERBOLIC:
        return exp((second ? -p : p) - half - shift);
    case KERNEL_SOFTMAX_TRIG:
        return exp(half - shift) * (second ? cos(p) : sin(p));
    case KERNEL_RELU:
        return p > 0 ? p : 0;
    case KERNEL_EXP:
        return exp(p - shift);
    case KERNEL_SIGMOID:
        return 1 / (1 + exp(-p));
    case KERNEL_ABS:
        return fabs(p);
    case KERNEL_GELU:
        return p * erfc(-p * M_SQRT1_2) / 2;
    case KERNEL_COS:
        return cos(p);
    case KERNEL_TANH:
        return tanh(p);
    case KERNEL_IDENTITY:
        return p;
    case KERNEL_ELU1:
        return p > 0 ? p + 1 : exp(p);
    }
    assert(false);
    return 0;
}

/* The ε added to features that are shifted by so much. */
static double shifted_epsilon(const struct attention *attention, double shift)
{
    const double epsilon = attention->epsilon;
    const bool scaled = attention->kernel == KERNEL_SOFTMAX_TRIG || attention->kernel == KERNEL_EXP;
    return scaled && epsilon > 0 ? epsilon * exp(-shift) : epsilon;
}

/* Columns of the row that was projected last, without ε, into `row`. */
static void fill_row(struct head_state *head, double shift)
{
    const struct measurement *m = head->measurement;
    for (int64_t j = 0; j < m->columns; j++) {
        const bool second = j >= m->projections;
        const double p = head->features.projected[second ? j - m->projections : j];
        head->row[j] = column_of(m->attention->kernel, &head->features, p, shift, second);
    }
}

/* Counts what ε covers, and adds it. */
static void settle_row(struct head_state *head, double epsilon)
{
    const int64_t columns = head->measurement->columns;
    for (int64_t j = 0; j < columns; j++) {
        head->sums.saturated += head->row[j] == 0 || fabs(head->row[j]) < epsilon;
        head->row[j] += epsilon;
    }
    head->sums.features += columns;
}

/* ---- the sum of features ---- */

/* exp(from - to), where both may be the maximum of no keys. */
static double decay(double from, double to)
{
    return from == to ? 1 : exp(from - to);
}

static void add_key(struct head_state *head, int64_t row)
{
    const struct measurement *m = head->measurement;
    const struct attention *attention = m->attention;

    project(m, head->k + row * attention->k.row_stride, &head->features);
    const double shift = head->features.shift > head->shift ? head->features.shift : head->shift;
    const double factor = decay(head->shift, shift);
    /* Where every query sees every key, ε is that of the largest c, and comes at the end. */
    const double epsilon = attention->causal ? shifted_epsilon(attention, shift) : 0;
    fill_row(head, shift);
    for (int64_t j = 0; j < m->columns; j++)
        head->sum[j] = head->sum[j] * factor + (head->row[j] + epsilon);
    head->shift = shift;
    head->keys++;
}

static void add_late_epsilon(struct head_state *head)
{
    const struct measurement *m = head->measurement;
    const double epsilon = shifted_epsilon(m->attention, head->shift) * (double)head->keys;
    for (int64_t j = 0; j < m->columns; j++) head->sum[j] += epsilon;
}

/* ---- a sampled row ---- */

static void measure_denominator(struct head_state *head, int64_t row)
{
    const struct measurement *m = head->measurement;
    const struct attention *attention = m->attention;
    double product = 0, query = 0, keys = 0;

    project(m, head->k + row * attention->k.row_stride, &head->features);
    fill_row(head, head->shift);
    settle_row(head, shifted_epsilon(attention, head->shift));

    project(m, head->q + row * attention->q.row_stride, &head->features);
    fill_row(head, head->features.shift);
    settle_row(head, shifted_epsilon(attention, head->features.shift));
    for (int64_t j = 0; j < m->columns; j++) {
        product += head->row[j] * head->sum[j];
        query += head->row[j] * head->row[j];
        keys += head->sum[j] * head->sum[j];
    }
    const double norms = sqrt(query) * sqrt(keys);
    head->sums.denominator_min = fmin(head->sums.denominator_min, norms > 0 ? product / norms : 0);
}

static double score_of(const struct attention *attention, const float *q, const float *k)
{
    double part[4] = {0, 0, 0, 0};
    int64_t j = 0;
    for (; j + 4 <= attention->head_dim; j += 4)
        for (int lane = 0; lane < 4; lane++)
            part[lane] += (double)q[j + lane] * (double)k[j + lane];
    for (; j < attention->head_dim; j++) part[0] += (double)q[j] * (double)k[j];
    return (part[0] + part[1] + (part[2] + part[3])) / sqrt((double)attention->head_dim);
}

/* softmax(q kᵀ / √d) v of one row (paper, equations 1 and 2) in one pass over the keys: the sums are rescaled whenever a
 * larger score comes. */
static void exact_row(struct head_state *head, int64_t row)
{
    const struct attention *attention = head->measurement->attention;
    const float *q = head->q + row * attention->q.row_stride;
    const int64_t end = attention->causal ? row + 1 : attention->length;
    double largest = -INFINITY, total = 0;

    memset(head->exact, 0, (size_t)attention->value_dim * sizeof *head->exact);
    for (int64_t s = 0; s < end; s++) {
        if (!is_key(head, s)) continue;
        const double score = score_of(attention, q, head->k + s * attention->k.row_stride);
        const double factor = score > largest ? exp(largest - score) : 1;
        largest = score > largest ? score : largest;
        const double weight = exp(score - largest);
        const float *v = head->v + s * attention->v.row_stride;
        total = total * factor + weight;
        for (int64_t j = 0; j < attention->value_dim; j++)
            head->exact[j] = head->exact[j] * factor + weight * v[j];
    }
    for (int64_t j = 0; j < attention->value_dim; j++) head->exact[j] /= total;
}

static void measure_error(struct head_state *head, int64_t row)
{
    const struct attention *attention = head->measurement->attention;
    const float *out = head->out + row * attention->out.row_stride;

    exact_row(head, row);
    for (int64_t j = 0; j < attention->value_dim; j++) {
        const double difference = out[j] - head->exact[j];
        head->sums.difference += difference * difference;
        head->sums.exact += head->exact[j] * head->exact[j];
    }
}

static void measure_row(struct head_state *head, int64_t row)
{
    const struct attention *attention = head->measurement->attention;
    measure_denominator(head, row);
    if (attention_estimates_softmax(attention->kind, attention->kernel)) measure_error(head, row);
}

/* ---- a head, and all of them ---- */

static const float *head_data(struct heads_view view, int64_t sequence, int64_t head)
{
    return view.data + sequence * view.batch_stride + head * view.head_stride;
}

static struct head_state head_begin(const struct measurement *m, int64_t piece, int thread)
{
    const struct attention *attention = m->attention;
    const int64_t sequence = piece / attention->heads, head = piece % attention->heads;
    double *memory = m->threads + thread * m->thread_doubles;

    memset(memory, 0, (size_t)m->thread_doubles * sizeof *memory);
    return (struct head_state){
        .measurement = m,
        .q = head_data(attention->q, sequence, head),
        .k = head_data(attention->k, sequence, head),
        .v = head_data(attention->v, sequence, head),
        .out = head_data(attention->out, sequence, head),
        .key_mask = attention->key_mask ? attention->key_mask + sequence * attention->length : NULL,
        .shift = -INFINITY,
        .sum = memory,
        .row = memory + m->columns,
        .features = {.projected = memory + 2 * m->columns},
        .exact = memory + 2 * m->columns + m->projections,
        .sums = {.denominator_min = NAN},
    };
}

/* Calls measure_row for the sampled rows, when the keys that they see are summed. */
static void measure_head(void *context, int64_t piece, int thread)
{
    const struct measurement *m = context;
    const struct attention *attention = m->attention;
    struct head_state head = head_begin(m, piece, thread);
    int64_t rows[APPROXIMATION_ROWS];
    const int count = sample_rows(m, (uint32_t)(piece / attention->heads),
                                  (uint32_t)(piece % attention->heads), count_keys(&head), rows);

    if (!attention->causal) {
        for (int64_t row = 0; row < attention->length; row++)
            if (is_key(&head, row)) add_key(&head, row);
        add_late_epsilon(&head);
    }
    int next = 0;
    for (int64_t row = 0, key = 0; row < attention->length && next < count; row++) {
        if (!is_key(&head, row)) continue;
        if (attention->causal) add_key(&head, row);
        for (; next < count && rows[next] == key; next++) measure_row(&head, row);
        key++;
    }
    m->heads[piece] = head.sums;
}

static void transpose(const struct attention *attention, double *transposed)
{
    const int64_t d = attention->head_dim, r = attention->features;
    if (!attention->projection) return;
    for (int64_t i = 0; i < r; i++)
        for (int64_t j = 0; j < d; j++) transposed[j * r + i] = attention->projection[i * d + j];
}

static void combine(const struct measurement *m, struct approximation *approximation)
{
    const struct attention *attention = m->attention;
    struct head_sums all = {.denominator_min = NAN};

    for (int64_t i = 0; i < attention->batch * attention->heads; i++) {
        const struct head_sums *head = &m->heads[i];
        all.difference += head->difference;
        all.exact += head->exact;
        all.denominator_min = fmin(all.denominator_min, head->denominator_min);
        all.saturated += head->saturated;
        all.features += head->features;
    }
    const bool has_exact = attention_estimates_softmax(attention->kind, attention->kernel);
    *approximation = (struct approximation){
        .error = !has_exact            ? NAN
                 : all.difference == 0 ? 0
                                       : sqrt(all.difference / all.exact),
        .denominator_min = all.denominator_min,
        .saturated = (double)all.saturated / (double)all.features,
        .orthogonality =
            attention->projection
                ? projection_defect(attention->features, attention->head_dim, attention->projection)
                : NAN,
    };
}

void approximation_measure(const struct attention *attention, uint64_t seed, uint32_t layer,
                           struct team *team, void *work, struct approximation *approximation)
{
    assert(approximation_measurable(attention->kind));
    const int64_t heads = attention->batch * attention->heads;
    double *doubles = work;
    const struct measurement m = {
        .attention = attention,
        .seed = seed,
        .layer = layer,
        .projections = projections_of(attention),
        .columns = columns_of(attention),
        .scale = attention->kernel == KERNEL_ELU1 ? 1 : pow((double)attention->head_dim, -0.25),
        .transposed = doubles,
        .threads = doubles + transposed_doubles(attention),
        .thread_doubles = thread_doubles(attention),
        .heads = (void *)(doubles + transposed_doubles(attention) +
                          team_threads(team) * thread_doubles(attention)),
    };
    transpose(attention, m.transposed);
    team_run(team, heads, measure_head, (void *)&m);
    combine(&m, approximation);
}
