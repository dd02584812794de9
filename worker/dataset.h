#ifndef WORKER_DATASET_H
#define WORKER_DATASET_H

/*
 * Training data as rows of tokens, and which row is which sequence of which step: a function of
 * (seed, step, place in the batch) alone, so it is the same for any number of ranks and after any
 * resume.
 *
 * Records (a FASTA entry; a text file, or a line of it with `pad`) become rows by [data] packing:
 *   concat  record + EOS, all joined, cut every `length` tokens; next-token reads one more for its last
 *           target. What does not fill the last row is left out.
 *   pad     BOS + record + EOS (text has no BOS), cut to a row, the rest PAD. Rows that are asked for together are only as
 *           long as the longest of them, in blocks of 64: what is behind holds no token of any.
 * A tokens file holds rows already; the masked objective reads the first `length` of each.
 *
 * With valid_fraction a record is for validation where the XXH3 hash of its tokens falls below that share:
 * whatever the seed, its place and the number of ranks, and equal records together. A record is then
 * an entry, a line, a row of a tokens file, or a block of 4096 bytes of a joined text.
 */

#include <stdint.h>

#include "proto/jobspec.h"
#include "proto/status.h"

struct dataset;

enum split { SPLIT_TRAIN, SPLIT_VALID };

/*
 * Reads the files of the job into memory (tokens files are mapped). Blocks. ST_NOT_FOUND,
 * ST_BAD_DATA with file, line or record and the cure (an empty file, a letter that is no residue, a
 * token id beyond vocab, fewer training rows than one batch, no validation row), ST_NO_MEMORY. The
 * dataset is the caller's. Asking for SPLIT_VALID where the job has no validation data gives ST_OK
 * and NULL.
 */
enum status dataset_open(const struct jobspec *spec, enum split split, struct dataset **dataset,
                         struct fault *fault);
void dataset_close(struct dataset *dataset);

int64_t dataset_rows(const struct dataset *dataset);

/* Entropy in nats of the distribution of predicted tokens, all contexts alike: what a model that
 * knows only frequencies would lose. */
double dataset_entropy(const struct dataset *dataset);

/* The next shorter length than `length` that rows of [data] packing "pad" can have together, 0: none. */
int64_t dataset_shorter(int64_t length);

/* Of the tokens of all rows, in order: equal where the data are. Checkpoints hold it. */
uint64_t dataset_hash(const struct dataset *dataset);

/* `sequences` rows of `length` tokens: the memory is the caller's and has room for rows of data.length, `length` is set
 * by who fills it. */
struct batch {
    int64_t sequences, length;
    int32_t *ids;      /* (S, L) */
    int32_t *targets;  /* (S, L), -1: nothing to predict here */
    uint8_t *key_mask; /* (S, L), 0: padding; all 1 where nothing is padded */
    int64_t tokens;    /* that are no padding */
};

/*
 * Fills the batch with sequences first ... first + S - 1 of the global batch of `step` (from 1), in
 * the order of the epoch. Masked positions of the masked objective are chosen by (seed, step,
 * sequence, position): 15 %, of these 80 % MASK, 10 % a random token, 10 % as they were; BOS, EOS
 * and PAD never. Does not allocate.
 */
void dataset_batch(const struct dataset *dataset, uint64_t step, int64_t first,
                   struct batch *batch);

/* The same for evaluation: rows first ... in file order, masked positions the same at every
 * evaluation. Rows behind the last come out empty, with nothing to predict. */
void dataset_rows_at(const struct dataset *dataset, int64_t first, struct batch *batch);

/* The p-th of `rows` rows in epoch `epoch`: one permutation of 0 ... rows-1 for each (seed, epoch).
 */
int64_t sample_order(uint64_t seed, uint64_t epoch, int64_t rows, int64_t p);

#endif
