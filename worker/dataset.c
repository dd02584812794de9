#include "worker/dataset.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "proto/vocabulary.h"
#include "worker/fasta.h"
#include "worker/masking.h"
#include "worker/record.h"
#include "worker/text.h"
#include "worker/token_rows.h"

enum { NO_TOKEN = -1, TEXT_BLOCK_BYTES = 4096, IDS_MAX = 1 << 16, LENGTH_BLOCK = 64 };

struct alphabet {
    int32_t letters; /* records are made of ids 0 ... letters-1 */
    int32_t bos, eos, pad, mask;
};

struct dataset {
    struct alphabet alphabet;
    bool masked; /* the objective; else next-token */
    uint64_t seed;
    int64_t length, batch;
    double entropy;
    uint64_t hash;

    /* Row r begins at starts[r], or r * stride where there are no starts. It has `window` tokens
     * or, where `padded`, what lies before starts[r + 1]. */
    const uint16_t *tokens;
    int64_t rows, window, stride;
    int64_t *starts;
    int64_t starts_capacity;
    bool padded;

    struct token_buffer packed; /* owns the tokens of fasta and text */
    struct token_rows file;     /* owns those of a tokens file */
};

/* Which records are wanted. */
struct selection {
    double valid_fraction; /* 0: all of the file */
    enum split split;
};

struct packer {
    struct dataset *dataset;
    struct selection selection;
    bool blocks; /* one record is a whole text: blocks of it are chosen */
};

static struct alphabet alphabet_of(const struct jobspec *spec)
{
    switch (spec->data.format) {
    case FORMAT_FASTA:
        return (struct alphabet){(int32_t)strlen(FASTA_LETTERS), FASTA_BOS, FASTA_EOS, FASTA_PAD,
                                 FASTA_MASK};
    case FORMAT_TEXT:
        return (struct alphabet){TEXT_EOS, NO_TOKEN, TEXT_EOS, TEXT_PAD, TEXT_MASK};
    default:
        return (struct alphabet){(int32_t)spec->data.vocab, NO_TOKEN, NO_TOKEN, 0,
                                 (int32_t)spec->data.vocab};
    }
}

/* By what a record holds, so that neither ranks nor order nor place in the file move it, and equal
 * records stay together. */
static bool selected(const struct selection *selection, const uint16_t *tokens, size_t count)
{
    if (selection->valid_fraction <= 0.0) return true;
    double place = (double)(XXH3_64bits(tokens, count * sizeof *tokens) >> 11) * 0x1p-53;
    return (place < selection->valid_fraction) == (selection->split == SPLIT_VALID);
}

static enum status starts_add(struct dataset *dataset, int64_t start)
{
    if (dataset->rows + 1 >= dataset->starts_capacity) {
        int64_t capacity = 2 * dataset->starts_capacity + 1024;
        int64_t *starts = realloc(dataset->starts, (size_t)capacity * sizeof *starts);
        if (!starts) return ST_NO_MEMORY;
        dataset->starts = starts;
        dataset->starts_capacity = capacity;
    }
    dataset->starts[dataset->rows++] = start;
    return ST_OK;
}

static void packed_add(struct token_buffer *packed, const uint16_t *tokens, size_t count)
{
    memcpy(packed->tokens + packed->count, tokens, count * sizeof *tokens);
    packed->count += count;
}

static void packed_mark(struct token_buffer *packed, int32_t token)
{
    if (token != NO_TOKEN) packed->tokens[packed->count++] = (uint16_t)token;
}

/* One record a row: BOS, record, EOS, cut where a row ends. */
static enum status pack_row(struct dataset *dataset, const uint16_t *tokens, size_t count)
{
    struct token_buffer *packed = &dataset->packed;
    size_t start = packed->count, window = (size_t)dataset->window;
    if (count > window) count = window;
    enum status status = token_buffer_reserve(packed, count + 2);
    if (status == ST_OK) status = starts_add(dataset, (int64_t)start);
    if (status != ST_OK) return status;
    packed_mark(packed, dataset->alphabet.bos);
    packed_add(packed, tokens, count);
    packed_mark(packed, dataset->alphabet.eos);
    if (packed->count > start + window) packed->count = start + window;
    return ST_OK;
}

static enum status pack_joined(struct dataset *dataset, const uint16_t *tokens, size_t count)
{
    enum status status = token_buffer_reserve(&dataset->packed, count + 1);
    if (status != ST_OK) return status;
    packed_add(&dataset->packed, tokens, count);
    packed_mark(&dataset->packed, dataset->alphabet.eos);
    return ST_OK;
}

/* A run of neighbouring blocks of one side is a record of its own. */
static enum status pack_blocks(const struct packer *packer, const uint16_t *tokens, size_t count)
{
    enum status status = ST_OK;
    size_t run = 0; /* tokens of the run that ends at `at` */
    for (size_t at = 0; at < count && status == ST_OK;) {
        size_t block = count - at < TEXT_BLOCK_BYTES ? count - at : TEXT_BLOCK_BYTES;
        bool wanted = selected(&packer->selection, tokens + at, block);
        if (wanted) run += block;
        at += block;
        if (run > 0 && (!wanted || at == count)) {
            size_t end = wanted ? at : at - block;
            status = pack_joined(packer->dataset, tokens + end - run, run);
            run = 0;
        }
    }
    return status;
}

static enum status pack_record(void *context, const uint16_t *tokens, size_t count)
{
    const struct packer *packer = context;
    if (packer->blocks) return pack_blocks(packer, tokens, count);
    if (!selected(&packer->selection, tokens, count)) return ST_OK;
    return packer->dataset->padded ? pack_row(packer->dataset, tokens, count)
                                   : pack_joined(packer->dataset, tokens, count);
}

static enum status records_load(struct dataset *dataset, const struct jobspec *spec,
                                const char *path, const struct selection *selection,
                                struct fault *fault)
{
    bool text = spec->data.format == FORMAT_TEXT;
    struct packer packer = {.dataset = dataset,
                            .selection = *selection,
                            .blocks = text && !dataset->padded && selection->valid_fraction > 0.0};
    const struct record_sink sink = {&packer, pack_record};
    enum status status =
        text ? text_read(path, dataset->padded, &sink, fault) : fasta_read(path, &sink, fault);
    if (status != ST_OK) return status;

    int64_t count = (int64_t)dataset->packed.count;
    dataset->tokens = dataset->packed.tokens;
    if (dataset->padded && dataset->rows > 0)
        dataset->starts[dataset->rows] = count; /* starts_add keeps room for it */
    if (!dataset->padded) {
        dataset->stride = dataset->length;
        dataset->rows =
            count >= dataset->window ? (count - dataset->window) / dataset->stride + 1 : 0;
    }
    return ST_OK;
}

static enum status rows_load(struct dataset *dataset, const struct jobspec *spec, const char *path,
                             const struct selection *selection, struct fault *fault)
{
    enum status status =
        token_rows_open(path, dataset->length + 1, spec->data.vocab, &dataset->file, fault);
    if (status != ST_OK) return status;
    const struct token_rows *file = &dataset->file;
    dataset->tokens = file->tokens;
    dataset->stride = file->row_tokens;
    if (selection->valid_fraction <= 0.0) {
        dataset->rows = file->rows;
        return ST_OK;
    }
    for (int64_t r = 0; r < file->rows && status == ST_OK; r++) {
        int64_t start = r * file->row_tokens;
        if (selected(selection, file->tokens + start, (size_t)file->row_tokens))
            status = starts_add(dataset, start);
    }
    if (status != ST_OK) return fault_set(fault, status, "read %s: out of memory", path);
    return ST_OK;
}

struct row {
    const uint16_t *tokens;
    int64_t count;
};

static struct row row_at(const struct dataset *dataset, int64_t r)
{
    assert(r >= 0 && r < dataset->rows);
    int64_t start = dataset->starts ? dataset->starts[r] : r * dataset->stride;
    int64_t count = dataset->padded ? dataset->starts[r + 1] - start : dataset->window;
    return (struct row){dataset->tokens + start, count};
}

static enum status entropy_measure(struct dataset *dataset)
{
    int64_t *counts = calloc(IDS_MAX, sizeof *counts);
    if (!counts) return ST_NO_MEMORY;
    int64_t total = 0;
    for (int64_t r = 0; r < dataset->rows; r++) {
        struct row row = row_at(dataset, r);
        for (int64_t l = dataset->masked ? 0 : 1; l < row.count; l++) {
            if (dataset->masked && row.tokens[l] >= dataset->alphabet.letters) continue;
            counts[row.tokens[l]]++;
            total++;
        }
    }
    double entropy = 0.0;
    for (int i = 0; i < IDS_MAX; i++) {
        if (counts[i] == 0) continue;
        double share = (double)counts[i] / (double)total;
        entropy -= share * log(share);
    }
    free(counts);
    dataset->entropy = entropy;
    return ST_OK;
}

static void hash_measure(struct dataset *dataset)
{
    for (int64_t r = 0; r < dataset->rows; r++) {
        struct row row = row_at(dataset, r);
        size_t bytes = (size_t)row.count * sizeof *row.tokens;
        dataset->hash = XXH3_64bits_withSeed(row.tokens, bytes, dataset->hash);
    }
}

static enum status rows_check(const struct dataset *dataset, const struct jobspec *spec,
                              const char *path, const struct selection *selection,
                              struct fault *fault)
{
    long long rows = dataset->rows, length = dataset->length, batch = dataset->batch;
    bool divided = selection->valid_fraction > 0.0;
    if (selection->split == SPLIT_VALID && rows == 0 && divided)
        return fault_set(fault, ST_BAD_DATA,
                         "no row of %lld tokens of %s fell into validation; raise "
                         "data.valid_fraction (%g), or name a file in data.valid",
                         length, path, spec->data.valid_fraction);
    if (selection->split == SPLIT_VALID && rows == 0)
        return fault_set(fault, ST_BAD_DATA,
                         "validation data %s do not fill one row of %lld tokens; lower "
                         "data.length, or name a larger file",
                         path, length);
    if (selection->split == SPLIT_TRAIN && rows < batch)
        return fault_set(fault, ST_BAD_DATA,
                         "training data %s give %lld rows of %lld tokens%s, fewer than one batch "
                         "of %lld; lower train.batch%s, or bring more data",
                         path, rows, length, divided ? " beside those for validation" : "", batch,
                         dataset->padded ? "" : " or data.length");
    return ST_OK;
}

enum status dataset_open(const struct jobspec *spec, enum split split, struct dataset **dataset,
                         struct fault *fault)
{
    bool own_file = spec->data.valid && spec->data.valid[0] != '\0';
    if (split == SPLIT_VALID && !jobspec_validates(spec)) {
        *dataset = NULL;
        return ST_OK;
    }
    const char *path = split == SPLIT_VALID && own_file ? spec->data.valid : spec->data.train;
    const struct selection selection = {own_file ? 0.0 : spec->data.valid_fraction, split};

    struct dataset *opened = calloc(1, sizeof *opened);
    if (!opened) return fault_set(fault, ST_NO_MEMORY, "open %s: out of memory", path);
    opened->alphabet = alphabet_of(spec);
    opened->masked = spec->model.objective == OBJECTIVE_MASKED;
    opened->seed = (uint64_t)spec->job.seed;
    opened->length = spec->data.length;
    opened->batch = spec->train.batch;
    opened->window = opened->masked ? opened->length : opened->length + 1;
    opened->padded = spec->data.format != FORMAT_TOKENS && spec->data.packing == PACKING_PAD;

    enum status status = spec->data.format == FORMAT_TOKENS
                             ? rows_load(opened, spec, path, &selection, fault)
                             : records_load(opened, spec, path, &selection, fault);
    if (status == ST_OK) status = rows_check(opened, spec, path, &selection, fault);
    if (status != ST_OK) goto close_dataset;
    status = entropy_measure(opened);
    if (status != ST_OK) {
        fault_set(fault, status, "read %s: out of memory", path);
        goto close_dataset;
    }
    hash_measure(opened);
    *dataset = opened;
    return ST_OK;

close_dataset:
    dataset_close(opened);
    return status;
}

void dataset_close(struct dataset *dataset)
{
    if (!dataset) return;
    token_buffer_fini(&dataset->packed);
    token_rows_close(&dataset->file);
    free(dataset->starts);
    free(dataset);
}

int64_t dataset_rows(const struct dataset *dataset)
{
    return dataset->rows;
}

double dataset_entropy(const struct dataset *dataset)
{
    return dataset->entropy;
}

uint64_t dataset_hash(const struct dataset *dataset)
{
    return dataset->hash;
}

/* Tokens of a row as far as they go in; a row of next-token has one more, for its last target. */
static int64_t tokens_of(const struct dataset *dataset, struct row row)
{
    return row.count < dataset->length ? row.count : dataset->length;
}

/* Sequence i of the batch, made of `row`; one without tokens is all padding. `step` and `sequence`
 * key what is masked. */
static void sequence_fill(const struct dataset *dataset, struct row row, uint32_t step,
                          uint32_t sequence, struct batch *batch, int64_t i)
{
    int32_t *ids = batch->ids + i * batch->length;
    int32_t *targets = batch->targets + i * batch->length;
    uint8_t *key_mask = batch->key_mask + i * batch->length;
    for (int64_t l = 0; l < batch->length; l++) {
        ids[l] = l < row.count ? row.tokens[l] : dataset->alphabet.pad;
        targets[l] = l + 1 < row.count ? row.tokens[l + 1] : -1;
        key_mask[l] = l < row.count;
    }
    if (!dataset->masked) return;
    const struct masking masking = {dataset->seed, step, dataset->alphabet.mask,
                                    dataset->alphabet.letters};
    masking_apply(&masking, sequence, tokens_of(dataset, row), ids, targets);
}

/* A sequence of a step, in the order of the epoch; of step 0 in that of the file. */
static struct row row_for(const struct dataset *dataset, uint64_t step, int64_t sequence)
{
    if (step == 0) return sequence < dataset->rows ? row_at(dataset, sequence) : (struct row){0};
    uint64_t rows = (uint64_t)dataset->rows;
    uint64_t n = (step - 1) * (uint64_t)dataset->batch + (uint64_t)sequence;
    return row_at(dataset,
                  sample_order(dataset->seed, n / rows, dataset->rows, (int64_t)(n % rows)));
}

int64_t dataset_shorter(int64_t length)
{
    return (length - 1) / LENGTH_BLOCK * LENGTH_BLOCK;
}

/* What is padded is as long as its longest row asks for, which a shard sees by itself. */
static int64_t batch_length(const struct dataset *dataset, int64_t longest)
{
    if (!dataset->padded) return dataset->length;
    int64_t blocks = longest > 0 ? (longest + LENGTH_BLOCK - 1) / LENGTH_BLOCK : 1;
    int64_t length = blocks * LENGTH_BLOCK;
    return length < dataset->length ? length : dataset->length;
}

static void batch_fill(const struct dataset *dataset, uint64_t step, int64_t first,
                       struct batch *batch)
{
    int64_t longest = 0;
    batch->tokens = 0;
    for (int64_t i = 0; i < batch->sequences; i++) {
        int64_t tokens = tokens_of(dataset, row_for(dataset, step, first + i));
        if (tokens > longest) longest = tokens;
        batch->tokens += tokens;
    }
    batch->length = batch_length(dataset, longest);
    for (int64_t i = 0; i < batch->sequences; i++)
        sequence_fill(dataset, row_for(dataset, step, first + i), (uint32_t)step,
                      (uint32_t)(first + i), batch, i);
}

void dataset_batch(const struct dataset *dataset, uint64_t step, int64_t first, struct batch *batch)
{
    assert(step >= 1 && step <= UINT32_MAX);
    assert(first >= 0 && first + batch->sequences <= dataset->batch);
    batch_fill(dataset, step, first, batch);
}

void dataset_rows_at(const struct dataset *dataset, int64_t first, struct batch *batch)
{
    assert(first >= 0);
    batch_fill(dataset, 0, first, batch);
}
