/*
 * How fast attention is: forward and backward in milliseconds, GFLOP/s of its products alone, and their share of
 * the product peak of this machine in the same precision, measured in the same run. Each kind is compared with the plain
 * reference in fp32 first, and what differs is not timed. On a GPU what its kernels compute and move is told, and how much of
 * the measured time an H100 would have to take for it. --roofline prints that alone, kernel by kernel: the table of
 * kernels/cuda/README.md.
 */

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/backend.h"
#include "kernels/bench/roofline.h"
#include "kernels/peak.h"
#include "kernels/projection.h"
#include "proto/whole_number.h"

enum {
    DIM = 64,
    FEATURES = 256,
    RANK = 256, /* linformer */
    ROUNDS = 2, /* reformer */
    BUCKETS = 64,
    CHUNK = 64,
    CHECK_LENGTH = 333,
    CHECK_HEADS = 2
};

struct options {
    const char *backend;
    enum precision precision;
    long threads, heads, repeat;
    const char *lengths, *attention; /* names of rows begin so */
    bool roofline;
};

static const struct measured {
    const char *name;
    enum attention_kind kind;
    enum attention_kernel kernel;
    bool causal;
    float epsilon;
} measured[] = {
    {"favor softmax-positive causal", ATTENTION_FAVOR, KERNEL_SOFTMAX_POSITIVE, true, 1e-6f},
    {"favor softmax-positive", ATTENTION_FAVOR, KERNEL_SOFTMAX_POSITIVE, false, 1e-6f},
    {"favor relu causal", ATTENTION_FAVOR, KERNEL_RELU, true, 1e-3f},
    {"favor relu", ATTENTION_FAVOR, KERNEL_RELU, false, 1e-3f},
    {"softmax causal", ATTENTION_SOFTMAX, KERNEL_SOFTMAX_POSITIVE, true, 0},
    {"softmax", ATTENTION_SOFTMAX, KERNEL_SOFTMAX_POSITIVE, false, 0},
    {"linformer", ATTENTION_LINFORMER, KERNEL_SOFTMAX_POSITIVE, false, 0},
    {"reformer causal", ATTENTION_REFORMER, KERNEL_SOFTMAX_POSITIVE, true, 0},
    {"reformer", ATTENTION_REFORMER, KERNEL_SOFTMAX_POSITIVE, false, 0},
    {"identity", ATTENTION_IDENTITY, KERNEL_SOFTMAX_POSITIVE, false, 0},
};
enum { MEASURED = sizeof measured / sizeof measured[0] };

/* Ends the program where there is no memory: nothing here can go on. */
static void *memory_new(const struct backend *backend, size_t bytes)
{
    void *memory;
    if (backend->memory_new(bytes + 1, &memory) != ST_OK) {
        fprintf(stderr, "kernels-bench: no memory for %zu bytes\n", bytes);
        exit(EXIT_FAILURE);
    }
    return memory;
}

enum role { Q, K, V, DOUT, INPUTS, OUT = INPUTS, DQ, DK, DV, ROLES };

/* One attention with all that it reads and writes; heads lie side by side in a row, as in the model. */
struct workload {
    const struct backend *backend; /* whose memory it is */
    float *data[ROLES];            /* (L, H, DIM) */
    float *projection;
    float *key_projection, *value_projection, *rotations;
    struct attention_backward backward; /* .forward is the attention */
    int64_t elements;
};

static struct heads_view view_of(float *data, int64_t heads)
{
    return (struct heads_view){data, 0, DIM, heads * DIM};
}

static float *gaussian_new(const struct backend *backend, uint32_t index, int64_t count,
                           double scale)
{
    float *values = memory_new(backend, (size_t)count * sizeof *values);
    gaussian_fill(1, PURPOSE_WEIGHTS, index, count, scale, values);
    return values;
}

/* Of one sequence, without what it reads and writes. */
static struct attention attention_of(const struct measured *what, enum precision precision,
                                     int64_t heads, int64_t length)
{
    return (struct attention){
        .kind = what->kind,
        .kernel = what->kernel,
        .precision = precision,
        .causal = what->causal,
        .epsilon = what->epsilon,
        .batch = 1,
        .heads = heads,
        .length = length,
        .head_dim = DIM,
        .value_dim = DIM,
        .features = FEATURES,
        .rank = RANK,
        .columns = length,
        .rounds = ROUNDS,
        .buckets = BUCKETS,
        .chunk = CHUNK,
    };
}

static struct workload workload_new(const struct backend *backend, const struct measured *what,
                                    enum precision precision, int64_t heads, int64_t length)
{
    struct workload w = {.backend = backend, .elements = heads * length * DIM};
    double *work = memory_new(backend, FEATURES * DIM * sizeof *work);

    for (int role = 0; role < ROLES; role++)
        w.data[role] = gaussian_new(backend, (uint32_t)role, w.elements, role < INPUTS ? 1 : 0);
    w.projection = memory_new(backend, FEATURES * DIM * sizeof(float));
    projection_fill(&(struct projection_draw){.features = FEATURES, .dim = DIM, .orthogonal = true},
                    work, w.projection);
    backend->memory_free(work);
    w.key_projection = gaussian_new(backend, ROLES, RANK * length, 1 / sqrt((double)RANK));
    w.value_projection = gaussian_new(backend, ROLES + 1, RANK * length, 1 / sqrt((double)RANK));
    w.rotations = gaussian_new(backend, ROLES + 2, (int64_t)ROUNDS * DIM * BUCKETS / 2, 1);
    struct attention forward = attention_of(what, precision, heads, length);
    forward.projection = w.projection;
    forward.q = view_of(w.data[Q], heads);
    forward.k = view_of(w.data[K], heads);
    forward.v = view_of(w.data[V], heads);
    forward.out = view_of(w.data[OUT], heads);
    forward.key_projection = w.key_projection;
    forward.value_projection = w.value_projection;
    forward.rotations = w.rotations;
    w.backward = (struct attention_backward){
        .forward = forward,
        .dout = view_of(w.data[DOUT], heads),
        .dq = view_of(w.data[DQ], heads),
        .dk = view_of(w.data[DK], heads),
        .dv = view_of(w.data[DV], heads),
    };
    return w;
}

static void workload_free(struct workload *w)
{
    void (*memory_free)(void *) = w->backend->memory_free;
    for (int role = 0; role < ROLES; role++) memory_free(w->data[role]);
    memory_free(w->projection), memory_free(w->rotations);
    memory_free(w->key_projection), memory_free(w->value_projection);
}

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

struct timing {
    double forward, backward; /* seconds, the least of all repeats */
};

/* Runs both passes; ends the program where the backend reports an error. */
static struct timing workload_run(const struct backend *backend, struct team *team,
                                  struct workload *w, long repeat)
{
    struct attention *forward = &w->backward.forward;
    forward->saved = memory_new(backend, backend->attention_saved_floats(forward) * sizeof(float));
    const int threads = team_threads(team);
    const size_t bytes[2] = {backend->attention_scratch(forward, threads),
                             backend->attention_backward_scratch(&w->backward, threads)};
    const size_t most = bytes[0] > bytes[1] ? bytes[0] : bytes[1];
    struct stream stream = {team, memory_new(backend, most), most};
    struct timing least = {INFINITY, INFINITY};

    for (long i = 0; i < repeat; i++) {
        const double start = seconds_now();
        enum status status = backend->attention(&stream, forward);
        if (status == ST_OK) status = backend->sync(&stream);
        const double middle = seconds_now();
        if (status == ST_OK) status = backend->attention_backward(&stream, &w->backward);
        if (status == ST_OK) status = backend->sync(&stream);
        const double end = seconds_now();
        if (status != ST_OK) {
            struct fault fault;
            backend_fault(backend, status, &fault);
            fprintf(stderr, "kernels-bench: %s: %s\n", backend->name, fault.text);
            exit(EXIT_FAILURE);
        }
        least.forward = fmin(least.forward, middle - start);
        least.backward = fmin(least.backward, end - middle);
    }
    backend->memory_free(stream.scratch);
    backend->memory_free(forward->saved);
    return least;
}

static double distance(const float *ours, const float *reference, int64_t count)
{
    double off = 0, norm = 0;
    for (int64_t i = 0; i < count; i++) {
        off += ((double)ours[i] - reference[i]) * ((double)ours[i] - reference[i]);
        norm += (double)reference[i] * reference[i];
    }
    return norm > 0 ? sqrt(off / norm) : sqrt(off);
}

/* Of ‖ours - reference‖ / ‖reference‖ (design: numbers). */
static double tolerance_of(enum precision precision, enum role role)
{
    if (precision == PRECISION_FP32) return 2e-5;
    return role == DQ || role == DK ? 4e-2 : 2e-2;
}

/* Whether the backend has it, and agrees with the reference at a small size. */
static bool workload_agrees(const struct backend *backend, struct team *team,
                            const struct measured *what, enum precision precision)
{
    static const char *const names[ROLES] = {[OUT] = "out", [DQ] = "dq", [DK] = "dk", [DV] = "dv"};
    struct workload ours = workload_new(backend, what, precision, CHECK_HEADS, CHECK_LENGTH);
    struct workload reference =
        workload_new(backend_find("reference"), what, PRECISION_FP32, CHECK_HEADS, CHECK_LENGTH);
    const char *why_not;
    bool agrees = backend->attention_supported(&ours.backward.forward, &why_not);

    if (!agrees) fprintf(stderr, "kernels-bench: %s: %s\n", what->name, why_not);
    if (agrees) {
        workload_run(backend, team, &ours, 1);
        workload_run(backend_find("reference"), team, &reference, 1);
    }
    for (enum role role = OUT; role < ROLES && agrees; role++) {
        const double off = distance(ours.data[role], reference.data[role], ours.elements);
        if (off <= tolerance_of(precision, role)) continue;
        fprintf(stderr, "kernels-bench: %s: %s differs from the reference by %.2g\n", what->name,
                names[role], off);
        agrees = false;
    }
    workload_free(&ours);
    workload_free(&reference);
    return agrees;
}

struct products {
    double forward, backward;
};

/* Pairs that a round of reformer sees, of a sequence whose buckets are of one size: a query and the keys of its own
 * chunk, when causal up to itself, and all of the chunk before. */
static double reformer_pairs(const struct measured *what, double length)
{
    const double size = length / BUCKETS, chunk = fmin(CHUNK, size);
    return length * (what->causal ? (chunk + 1) / 2 : chunk) + BUCKETS * (size - chunk) * chunk;
}

/*
 * GFLOP of the products that the method asks for, whatever a backend spends besides (features again in the backward
 * pass, the masked half of a chunk): favor, per position: 2 projections, K'ᵀ [V 1] and Q' S forward; again 2 and 2 of
 * them for each operand backward. Softmax: 2 and 5 products over the pairs that are seen. Linformer: the same over RANK
 * keys, and 2 products each way with its projections. Reformer: the same over the pairs that its rounds see, and q R.
 */
static struct products products_of(const struct measured *what, double heads, double length)
{
    const double d = DIM, m = FEATURES, pairs = length * (what->causal ? (length + 1) / 2 : length);
    const double seen = reformer_pairs(what, length);
    switch (what->kind) {
    case ATTENTION_FAVOR:
        return (struct products){1e-9 * heads * length * (4 * m * d + 4 * m * (d + 1)),
                                 1e-9 * heads * length * (4 * m * d + 8 * m * (d + 1))};
    case ATTENTION_SOFTMAX:
        return (struct products){1e-9 * heads * pairs * 4 * d, 1e-9 * heads * pairs * 10 * d};
    case ATTENTION_LINFORMER:
        return (struct products){1e-9 * heads * length * RANK * 8 * d,
                                 1e-9 * heads * length * RANK * 14 * d};
    case ATTENTION_REFORMER:
        return (struct products){1e-9 * heads * ROUNDS * (seen * 4 * d + length * BUCKETS * d),
                                 1e-9 * heads * ROUNDS * seen * 10 * d};
    default:
        return (struct products){0, 0};
    }
}

/* ---- what the kernels of a GPU compute and move ---- */

/* Of a pass, as if it were one kernel. */
struct pass_cost {
    struct kernel_cost sum;
    double seconds[2]; /* by precision */
};

static struct pass_cost pass_cost(const struct attention *attention, bool backward)
{
    struct kernel_cost costs[KERNEL_COSTS_MAX];
    struct pass_cost pass = {{.name = backward ? "backward" : "forward", .backward = backward},
                             {0}};
    const int count = kernel_costs(attention, costs);
    for (int i = 0; i < count; i++) {
        if (costs[i].backward != backward) continue;
        pass.sum.flops_fp32 += costs[i].flops_fp32;
        pass.sum.flops += costs[i].flops;
        pass.sum.bytes += costs[i].bytes;
        pass.seconds[PRECISION_FP32] += roofline_seconds(&costs[i], PRECISION_FP32);
        pass.seconds[PRECISION_BF16] += roofline_seconds(&costs[i], PRECISION_BF16);
    }
    return pass;
}

static void cost_print(const char *name, const struct kernel_cost *cost, const double seconds[2])
{
    printf("| %s | %.3g (%.3g) | %.0f | %.0f | %.0f |\n", name,
           1e-9 * (cost->flops_fp32 + cost->flops), 1e-9 * cost->flops_fp32, 1e-6 * cost->bytes,
           1e6 * seconds[PRECISION_FP32], 1e6 * seconds[PRECISION_BF16]);
}

/* The table of one attention, in Markdown. */
static void roofline_print(const struct measured *what, int64_t heads, int64_t length)
{
    struct kernel_cost costs[KERNEL_COSTS_MAX];
    const struct attention attention = attention_of(what, PRECISION_FP32, heads, length);
    const int count = kernel_costs(&attention, costs);
    for (int backward = 0; backward <= 1; backward++) {
        for (int i = 0; i < count; i++) {
            const double seconds[] = {
                [PRECISION_FP32] = roofline_seconds(&costs[i], PRECISION_FP32),
                [PRECISION_BF16] = roofline_seconds(&costs[i], PRECISION_BF16)};
            if (costs[i].backward == backward) cost_print(costs[i].name, &costs[i], seconds);
        }
        char name[80];
        const struct pass_cost pass = pass_cost(&attention, backward);
        snprintf(name, sizeof name, "**%s, %s**", what->name, pass.sum.name);
        cost_print(name, &pass.sum, pass.seconds);
    }
}

static void gpu_row_print(const struct measured *what, enum precision precision, int64_t heads,
                          int64_t length, struct timing timing)
{
    const struct attention attention = attention_of(what, precision, heads, length);
    for (int backward = 0; backward <= 1; backward++) {
        const struct pass_cost pass = pass_cost(&attention, backward);
        const double measured_seconds = backward ? timing.backward : timing.forward;
        printf("%-30s %7ld %-8s %10.3g %9.3g %9.3g %9.3g %8.2g%%\n", what->name, (long)length,
               pass.sum.name, 1e3 * measured_seconds, 1e-9 * (pass.sum.flops_fp32 + pass.sum.flops),
               1e-6 * pass.sum.bytes, 1e3 * pass.seconds[precision],
               100 * pass.seconds[precision] / measured_seconds);
    }
    fflush(stdout);
}

static void row_print(const struct measured *what, int64_t heads, int64_t length,
                      struct timing timing, double peak)
{
    const struct products gflop = products_of(what, (double)heads, (double)length);
    printf("%-30s %7ld %9.2f %9.2f", what->name, (long)length, timing.forward * 1e3,
           timing.backward * 1e3);
    if (gflop.forward > 0)
        printf(" %9.1f %9.1f %6.0f%% %6.0f%%", gflop.forward / timing.forward,
               gflop.backward / timing.backward, 100 * gflop.forward / timing.forward / peak,
               100 * gflop.backward / timing.backward / peak);
    printf("\n");
    fflush(stdout);
}

static bool is_wanted(const struct options *options, const struct measured *what)
{
    return strncmp(what->name, options->attention, strlen(options->attention)) == 0;
}

static bool is_known(const struct options *options)
{
    bool known = false;
    for (int i = 0; i < MEASURED; i++) known |= is_wanted(options, &measured[i]);
    if (!known)
        fprintf(stderr, "kernels-bench: --attention: no row begins with `%s`\n",
                options->attention);
    return known;
}

/* 0 behind the last of the lengths. */
static int64_t length_next(const char **at)
{
    char *end;
    if (!**at) return 0;
    const int64_t length = strtol(*at, &end, 10);
    *at = *end ? end + 1 : end;
    return length;
}

/* The product peak that shares are of; 0: a GPU, whose peaks are known. */
static double header_print(const struct options *options, const struct backend *backend,
                           struct team *team)
{
    const bool gpu = strcmp(backend->name, "cuda") == 0;
    const double peak = gpu ? 0 : peak_measure(team, options->precision);
    printf("%s, %s, %d threads, %ld heads of %d, %d features, %s\n", backend->description,
           backend_libraries(), team_threads(team), options->heads, DIM, FEATURES,
           precision_text(options->precision));
    if (gpu) {
        printf("beside %s\n\n%-30s %7s %-8s %10s %9s %9s %9s %9s\n", ROOFLINE_DEVICE, "attention",
               "length", "pass", "ms", "GFLOP", "MB", "H100 ms", "share");
        return 0;
    }
    printf("product peak %.1f GFLOP/s\n\n", peak);
    printf("%-30s %7s %9s %9s %9s %9s %7s %7s\n", "attention", "length", "fwd ms", "bwd ms",
           "fwd GF/s", "bwd GF/s", "of peak", "of peak");
    return peak;
}

static bool kinds_measure(const struct options *options, const struct backend *backend,
                          struct team *team)
{
    const double peak = header_print(options, backend, team);
    bool agree = true;

    for (int i = 0; i < MEASURED; i++) {
        if (!is_wanted(options, &measured[i])) continue;
        if (!workload_agrees(backend, team, &measured[i], options->precision)) {
            agree = false;
            continue;
        }
        const char *at = options->lengths;
        for (int64_t length; (length = length_next(&at)) > 0;) {
            struct workload w =
                workload_new(backend, &measured[i], options->precision, options->heads, length);
            const struct timing timing = workload_run(backend, team, &w, options->repeat);
            if (peak > 0)
                row_print(&measured[i], options->heads, length, timing, peak);
            else
                gpu_row_print(&measured[i], options->precision, options->heads, length, timing);
            workload_free(&w);
        }
    }
    return agree;
}

static void rooflines_print(const struct options *options)
{
    printf("| kernel | GFLOP (of them fp32 always) | MB | fp32 µs | bf16 µs |\n"
           "| --- | --- | --- | --- | --- |\n");
    for (int i = 0; i < MEASURED; i++) {
        const char *at = options->lengths;
        for (int64_t length; is_wanted(options, &measured[i]) && (length = length_next(&at)) > 0;)
            roofline_print(&measured[i], options->heads, length);
    }
}

static void usage(FILE *file)
{
    fprintf(
        file,
        "usage: kernels-bench [--backend NAME] [--precision fp32|bf16] [--threads N] [--heads N] "
        "[--lengths N,N...] [--repeat N] [--attention ROWS-THAT-BEGIN-SO] [--roofline]\n");
}

static long count_of(const char *option, const char *text)
{
    long count;
    struct fault fault;
    if (whole_number_parse(option, text, 1, 1000000, &count, &fault) == ST_OK) return count;
    fprintf(stderr, "kernels-bench: %s\n", fault.text);
    exit(2);
}

/* Numbers from 1, with commas between them. */
static bool lengths_valid(const char *text)
{
    for (;;) {
        char *end;
        const long length = strtol(text, &end, 10);
        if (end == text || length < 1 || length > 10000000) return false;
        if (!*end) return true;
        if (*end != ',') return false;
        text = end + 1;
    }
}

static struct options options_read(int argc, char **argv)
{
    enum {
        BACKEND = 'b',
        PRECISION = 'p',
        THREADS = 't',
        HEADS = 'h',
        LENGTHS = 'l',
        ATTENTION = 'a',
        REPEAT = 'r',
        ROOFLINE = 'f',
        HELP = '?' + 256
    };
    static const struct option known[] = {
        {"backend", required_argument, NULL, BACKEND},
        {"precision", required_argument, NULL, PRECISION},
        {"threads", required_argument, NULL, THREADS},
        {"heads", required_argument, NULL, HEADS},
        {"lengths", required_argument, NULL, LENGTHS},
        {"attention", required_argument, NULL, ATTENTION},
        {"repeat", required_argument, NULL, REPEAT},
        {"roofline", no_argument, NULL, ROOFLINE},
        {"help", no_argument, NULL, HELP},
        {NULL, 0, NULL, 0},
    };
    struct options options = {"cpu", PRECISION_FP32, 2, 8, 5, "1024,4096", "", false};

    for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (option) {
        case BACKEND:
            options.backend = optarg;
            break;
        case PRECISION:
            if (precision_from_text(optarg, &options.precision)) break;
            fprintf(stderr, "kernels-bench: --precision is fp32 or bf16, not `%s`\n", optarg);
            exit(2);
        case THREADS:
            options.threads = count_of("--threads", optarg);
            break;
        case HEADS:
            options.heads = count_of("--heads", optarg);
            break;
        case REPEAT:
            options.repeat = count_of("--repeat", optarg);
            break;
        case LENGTHS:
            options.lengths = optarg;
            break;
        case ATTENTION:
            options.attention = optarg;
            break;
        case ROOFLINE:
            options.roofline = true;
            break;
        case HELP:
            usage(stdout);
            exit(EXIT_SUCCESS);
        default:
            usage(stderr);
            exit(2);
        }
    }
    if (optind < argc || !lengths_valid(options.lengths)) {
        usage(stderr);
        exit(2);
    }
    if (!is_known(&options)) exit(2);
    return options;
}

int main(int argc, char **argv)
{
    const struct options options = options_read(argc, argv);
    if (options.roofline) {
        rooflines_print(&options);
        return EXIT_SUCCESS;
    }
    const struct backend *backend = backend_find(options.backend);
    struct team *team;

    if (!backend) {
        fprintf(stderr, "kernels-bench: --backend %s: %s\n", options.backend,
                backend_why_not(options.backend));
        return 2;
    }
    if (team_new((int)options.threads, &team) != ST_OK) {
        fprintf(stderr, "kernels-bench: could not start %ld threads\n", options.threads);
        return EXIT_FAILURE;
    }
    const bool agree = kinds_measure(&options, backend, team);
    team_free(team);
    return agree ? EXIT_SUCCESS : EXIT_FAILURE;
}
