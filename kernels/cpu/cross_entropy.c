/* Maximum, exponentials, their sum and the gradient of a row while it is in the first cache. */

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/pieces.h"

enum { ROWS = 64 };

struct tally {
    double loss;
    int64_t counted, correct;
};

/* A tally for each piece. */
size_t CPU(cross_entropy_scratch)(const struct cross_entropy *arguments, int threads)
{
    (void)threads;
    return (size_t)pieces_of(arguments->rows, ROWS) * sizeof(struct tally);
}

static float row_largest(const float *row, int64_t count)
{
    floats largest = lanes_of(-INFINITY);
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) largest = lanes_larger(lanes_load(row + i), largest);
    if (i < count) largest = lanes_larger(lanes_load_part(row + i, count - i, -INFINITY), largest);
    return lanes_largest(largest);
}

/* Σ exp(row - largest); the exponentials take the row's place where `keep`. */
static float row_exp(float *row, int64_t count, float largest, bool keep)
{
    floats sum = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        const floats power = lanes_exp2((lanes_load(row + i) - largest) * LOG2_E);
        sum += power;
        if (keep) lanes_store(row + i, power);
    }
    if (i < count) {
        const floats x = lanes_load_part(row + i, count - i, -INFINITY);
        const floats power = lanes_exp2((x - largest) * LOG2_E);
        sum += power;
        if (keep) lanes_store_part(row + i, power, count - i);
    }
    return lanes_sum(sum);
}

static bool first_of_equals(const float *row, int32_t target, float largest)
{
    if (row[target] != largest) return false;
    for (int32_t i = 0; i < target; i++)
        if (row[i] == largest) return false;
    return true;
}

static void row_cross_entropy(const struct cross_entropy *a, int64_t r, struct tally *tally)
{
    float *row = a->logits + r * a->vocab;
    const int32_t target = a->targets[r];

    assert(target < a->vocab);
    if (target < 0) {
        if (a->backward) memset(row, 0, (size_t)a->vocab * sizeof *row);
        return;
    }
    const float largest = row_largest(row, a->vocab), aimed = row[target];
    tally->counted++;
    tally->correct += first_of_equals(row, target, largest);
    const float sum = row_exp(row, a->vocab, largest, a->backward);
    tally->loss += log((double)sum) + ((double)largest - aimed);
    if (!a->backward) return;
    const float scale = 1 / sum;
    for (int64_t i = 0; i < a->vocab; i++) row[i] *= scale;
    row[target] -= 1;
}

struct task {
    const struct cross_entropy *arguments;
    struct tally *tallies;
};

static void rows_cross_entropy(void *context, int64_t piece, int thread)
{
    const struct task *task = context;
    const struct range rows = piece_range(piece, ROWS, task->arguments->rows);
    (void)thread;
    task->tallies[piece] = (struct tally){0};
    for (int64_t r = rows.from; r < rows.from + rows.count; r++)
        row_cross_entropy(task->arguments, r, &task->tallies[piece]);
}

enum status CPU(cross_entropy)(struct stream *stream, const struct cross_entropy *arguments)
{
    const int64_t pieces = pieces_of(arguments->rows, ROWS);
    struct task task = {arguments, stream->scratch};
    struct tally total = {0};

    team_run(stream->team, pieces, rows_cross_entropy, &task);
    for (int64_t piece = 0; piece < pieces; piece++) {
        total.loss += task.tallies[piece].loss;
        total.counted += task.tallies[piece].counted;
        total.correct += task.tallies[piece].correct;
    }
    *arguments->loss_sum = total.loss;
    *arguments->counted = total.counted;
    *arguments->correct = total.correct;
    return ST_OK;
}
