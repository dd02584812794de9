/* From files to batches: what each format and packing gives, what is refused and in which words. */

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>
#include <zlib.h>

#include "proto/vocabulary.h"
#include "worker/dataset.h"

static char directory[64], path[128], valid_path[128];
static struct jobspec spec;

static void setup(void)
{
    strcpy(directory, "/tmp/dataset-XXXXXX");
    cr_assert(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/train", directory);
    snprintf(valid_path, sizeof valid_path, "%s/valid", directory);
    spec = (struct jobspec){0};
    spec.job.seed = 7;
    spec.data.format = FORMAT_FASTA;
    spec.data.train = path;
    spec.data.valid = "";
    spec.data.length = 4;
    spec.data.packing = PACKING_CONCAT;
    spec.train.batch = 1;
    spec.model.objective = OBJECTIVE_NEXT_TOKEN;
}

static void teardown(void)
{
    unlink(path);
    unlink(valid_path);
    rmdir(directory);
}

TestSuite(dataset, .init = setup, .fini = teardown);

static void file_write(const char *name, const void *bytes, size_t length)
{
    FILE *file = fopen(name, "wb");
    cr_assert(file);
    cr_assert_eq(fwrite(bytes, 1, length, file), length);
    fclose(file);
}

static void text_write(const char *text)
{
    file_write(path, text, strlen(text));
}

static struct dataset *opened(enum split split)
{
    struct dataset *dataset = NULL;
    struct fault fault = {0};
    enum status status = dataset_open(&spec, split, &dataset, &fault);
    cr_assert_eq(status, ST_OK, "%s", fault.text);
    return dataset;
}

/* Every word must be in what dataset_open says. */
static void expect_fault(enum split split, enum status expected, int words, ...)
{
    struct dataset *dataset = (void *)&spec;
    struct fault fault = {0};
    cr_assert_eq(dataset_open(&spec, split, &dataset, &fault), expected, "%s", fault.text);
    cr_assert_eq(dataset, (void *)&spec, "outputs stay untouched on failure");
    va_list list;
    va_start(list, words);
    for (int i = 0; i < words; i++) {
        const char *word = va_arg(list, const char *);
        cr_assert(strstr(fault.text, word), "no \"%s\" in: %s", word, fault.text);
    }
    va_end(list);
}

enum { BATCH_MAX = 512 };
static int32_t ids[BATCH_MAX], targets[BATCH_MAX];
static uint8_t key_mask[BATCH_MAX];

static struct batch batch_of(int64_t sequences)
{
    cr_assert_leq(sequences * spec.data.length, BATCH_MAX);
    return (struct batch){
        .sequences = sequences, .ids = ids, .targets = targets, .key_mask = key_mask};
}

static char letter(int32_t id)
{
    const char *marks = FASTA_LETTERS "<|_?"; /* BOS EOS PAD MASK */
    return id < 0 ? '.' : marks[id];
}

/* Row r as "ids/targets/mask", letters for residues. */
static const char *row_text(const struct dataset *dataset, int64_t r)
{
    static char text[256];
    struct batch batch = batch_of(1);
    dataset_rows_at(dataset, r, &batch);
    int at = 0;
    for (int64_t l = 0; l < batch.length; l++) text[at++] = letter(ids[l]);
    text[at++] = '/';
    for (int64_t l = 0; l < batch.length; l++) text[at++] = letter(targets[l]);
    text[at++] = '/';
    for (int64_t l = 0; l < batch.length; l++) text[at++] = (char)('0' + key_mask[l]);
    text[at] = '\0';
    return text;
}

Test(dataset, fasta_joined)
{
    text_write(">one\nACD\nef\n>two some words > here\r\nGH*\r\n\r\n>none\n>three\nxYz*");
    struct dataset *dataset = opened(SPLIT_TRAIN);
    /* ACDEF|GH|XYZ| : 13 tokens, 3 windows of 4 inputs and one more target */
    cr_assert_eq(dataset_rows(dataset), 3);
    cr_assert_str_eq(row_text(dataset, 0), "ACDE/CDEF/1111");
    cr_assert_str_eq(row_text(dataset, 1), "F|GH/|GH|/1111");
    cr_assert_str_eq(row_text(dataset, 2), "|XYZ/XYZ|/1111");
    dataset_close(dataset);
}

Test(dataset, a_row_behind_the_last_predicts_nothing)
{
    text_write(">one\nACDEF\n");
    struct dataset *dataset = opened(SPLIT_TRAIN);
    cr_assert_eq(dataset_rows(dataset), 1);
    cr_assert_str_eq(row_text(dataset, 1), "____/..../0000");
    dataset_close(dataset);
}

Test(dataset, fasta_padded)
{
    spec.data.packing = PACKING_PAD;
    text_write(">one\nA\n>two\nCDE\n>three\nFGHIKL\n>four\nMN\n");
    struct dataset *dataset = opened(SPLIT_TRAIN);
    cr_assert_eq(dataset_rows(dataset), 4);
    cr_assert_str_eq(row_text(dataset, 0), "<A|_/A|../1110");
    cr_assert_str_eq(row_text(dataset, 1), "<CDE/CDE|/1111");
    cr_assert_str_eq(row_text(dataset, 2), "<FGH/FGHI/1111");
    cr_assert_str_eq(row_text(dataset, 3), "<MN|/MN|./1111");
    dataset_close(dataset);
}

/* A protein of so many residues; with BOS and EOS two tokens more. */
static void protein_add(char *text, int residues)
{
    strcat(text, ">one\n");
    size_t end = strlen(text);
    memset(text + end, 'A', (size_t)residues);
    strcpy(text + end + residues, "\n");
}

/* As long as the longest of the shard's own rows in blocks of 64, never beyond data.length; joined rows are never cut. */
Test(dataset, padded_batches_are_cut_to_their_longest_row)
{
    static const int residues[] = {62, 63, 20, 126, 190, 500};
    static const int64_t alone[] = {64, 128, 64, 128, 192, 200}, pairs[] = {128, 128, 200};
    static char text[2000];
    text[0] = '\0';
    for (int i = 0; i < 6; i++) protein_add(text, residues[i]);
    spec.data.packing = PACKING_PAD;
    spec.data.length = 200;
    text_write(text);
    struct dataset *dataset = opened(SPLIT_TRAIN);
    for (int64_t r = 0; r < 6; r++) {
        struct batch batch = batch_of(1);
        dataset_rows_at(dataset, r, &batch);
        cr_expect_eq(batch.length, alone[r], "row %d: %d", (int)r, (int)batch.length);
        cr_expect_eq(batch.tokens, residues[r] == 500 ? 200 : residues[r] + 2);
    }
    for (int64_t r = 0; r < 3; r++) {
        struct batch batch = batch_of(2);
        dataset_rows_at(dataset, 2 * r, &batch);
        cr_expect_eq(batch.length, pairs[r]);
        int64_t tokens = 0;
        for (int64_t i = 0; i < 2 * batch.length; i++) {
            tokens += key_mask[i];
            cr_expect_eq(key_mask[i], ids[i] != FASTA_PAD);
        }
        cr_expect_eq(batch.tokens, tokens);
        cr_expect_eq(ids[0], FASTA_BOS);
        cr_expect_eq(ids[batch.length], FASTA_BOS);
    }
    dataset_close(dataset);

    spec.data.packing = PACKING_CONCAT;
    dataset = opened(SPLIT_TRAIN);
    struct batch batch = batch_of(1);
    dataset_rows_at(dataset, 0, &batch);
    cr_expect_eq(batch.length, 200);
    cr_expect_eq(batch.tokens, 200);
    dataset_close(dataset);
}

Test(dataset, shorter_lengths)
{
    cr_expect_eq(dataset_shorter(200), 192);
    cr_expect_eq(dataset_shorter(192), 128);
    cr_expect_eq(dataset_shorter(64), 0);
    cr_expect_eq(dataset_shorter(63), 0);
}

Test(dataset, text_joined_is_the_file)
{
    spec.data.format = FORMAT_TEXT;
    text_write("ab\n\xff");
    struct dataset *dataset = opened(SPLIT_TRAIN);
    struct batch batch = batch_of(1);
    dataset_rows_at(dataset, 0, &batch);
    const int32_t expected[] = {'a', 'b', '\n', 0xff}, next[] = {'b', '\n', 0xff, TEXT_EOS};
    cr_assert_eq(dataset_rows(dataset), 1);
    cr_assert_arr_eq(ids, expected, sizeof expected);
    cr_assert_arr_eq(targets, next, sizeof next);
    dataset_close(dataset);
}

Test(dataset, text_padded_is_its_lines)
{
    spec.data.format = FORMAT_TEXT;
    spec.data.packing = PACKING_PAD;
    text_write("ab\r\n\n\r\nwxyz!\nq");
    struct dataset *dataset = opened(SPLIT_TRAIN);
    cr_assert_eq(dataset_rows(dataset), 3);
    struct batch batch = batch_of(1);
    dataset_rows_at(dataset, 0, &batch);
    const int32_t first[] = {'a', 'b', TEXT_EOS, TEXT_PAD}, first_next[] = {'b', TEXT_EOS, -1, -1};
    cr_assert_arr_eq(ids, first, sizeof first);
    cr_assert_arr_eq(targets, first_next, sizeof first_next);
    cr_assert_arr_eq(key_mask, ((uint8_t[]){1, 1, 1, 0}), 4);
    dataset_rows_at(dataset, 1, &batch);
    cr_assert_arr_eq(ids, ((int32_t[]){'w', 'x', 'y', 'z'}), sizeof first);
    cr_assert_arr_eq(targets, ((int32_t[]){'x', 'y', 'z', '!'}), sizeof first);
    dataset_close(dataset);
}

Test(dataset, token_rows)
{
    spec.data.format = FORMAT_TOKENS;
    spec.data.vocab = 300;
    const uint16_t rows[] = {1, 2, 3, 4, 5, 299, 7, 8, 9, 10};
    file_write(path, rows, sizeof rows);
    struct dataset *dataset = opened(SPLIT_TRAIN);
    cr_assert_eq(dataset_rows(dataset), 2);
    struct batch batch = batch_of(2);
    dataset_rows_at(dataset, 0, &batch);
    cr_assert_arr_eq(ids, ((int32_t[]){1, 2, 3, 4, 299, 7, 8, 9}), 8 * sizeof ids[0]);
    cr_assert_arr_eq(targets, ((int32_t[]){2, 3, 4, 5, 7, 8, 9, 10}), 8 * sizeof ids[0]);
    dataset_close(dataset);
}

static void gzip_write(const void *bytes, size_t length, const char *mode)
{
    gzFile file = gzopen(path, mode);
    cr_assert(file);
    cr_assert_eq(gzwrite(file, bytes, (unsigned)length), (int)length);
    gzclose(file);
}

/* A FASTA file larger than a piece that is read at once. */
static size_t fasta_large(char **text)
{
    enum { RECORDS = 3000 };
    size_t length = 0;
    *text = malloc(RECORDS * 256);
    unsigned state = 1;
    for (int i = 0; i < RECORDS; i++) {
        length += (size_t)sprintf(*text + length, ">record %d\n", i);
        int residues = 20 + i % 150;
        for (int j = 0; j < residues; j++) {
            state = state * 1664525u + 1013904223u;
            (*text)[length++] = FASTA_LETTERS[(state >> 16) % 20];
            if (j % 60 == 59) (*text)[length++] = '\n';
        }
        (*text)[length++] = '\n';
    }
    return length;
}

static double rows_checksum(const struct dataset *dataset)
{
    double sum = 0.0;
    struct batch batch = batch_of(1);
    for (int64_t r = 0; r < dataset_rows(dataset); r++) {
        dataset_rows_at(dataset, r, &batch);
        for (int64_t l = 0; l < batch.length; l++) sum += (ids[l] + 1) * sin((double)(r + l));
    }
    return sum;
}

Test(dataset, gzip_is_read_as_it_is)
{
    char *text;
    size_t length = fasta_large(&text);
    spec.data.length = 64;
    file_write(path, text, length);
    struct dataset *plain = opened(SPLIT_TRAIN);
    double expected = rows_checksum(plain);
    int64_t rows = dataset_rows(plain);
    cr_assert_gt(rows, 1000);
    dataset_close(plain);

    gzip_write(text, length / 2, "wb"); /* two members in one file */
    gzip_write(text + length / 2, length - length / 2, "ab");
    struct dataset *packed = opened(SPLIT_TRAIN);
    cr_assert_eq(dataset_rows(packed), rows);
    cr_assert_eq(rows_checksum(packed), expected);
    dataset_close(packed);
    free(text);
}

Test(dataset, a_cut_or_damaged_gzip_is_refused)
{
    char *text;
    size_t length = fasta_large(&text);
    gzip_write(text, length, "wb");
    free(text);
    FILE *file = fopen(path, "rb");
    char *bytes = malloc(length);
    size_t size = fread(bytes, 1, length, file);
    fclose(file);
    for (size_t cut = 20; cut < size; cut += size / 17) {
        file_write(path, bytes, cut);
        expect_fault(SPLIT_TRAIN, ST_BAD_DATA, 2, path, "fetch the file again");
    }
    bytes[size - 6] ^= 1; /* the checksum behind the data */
    file_write(path, bytes, size);
    expect_fault(SPLIT_TRAIN, ST_BAD_DATA, 2, path, "damaged");
    free(bytes);
}

Test(dataset, what_is_no_residue_is_named_with_its_place)
{
    text_write(">one\nACD\nEJ\n");
    expect_fault(SPLIT_TRAIN, ST_BAD_DATA, 4, path, ":3:2:", "'J'", "write X");
    text_write(">one\nAC-D\n");
    expect_fault(SPLIT_TRAIN, ST_BAD_DATA, 2, ":2:3:", "gaps");
    text_write("; comment\n>one\nACD\n");
    expect_fault(SPLIT_TRAIN, ST_BAD_DATA, 2, ":1:1:", "'>name'");
    text_write(">one\nACD\n;comment\n");
    expect_fault(SPLIT_TRAIN, ST_BAD_DATA, 2, ":3:1:", "comment");
    text_write(">one\nAC*D\n");
    expect_fault(SPLIT_TRAIN, ST_BAD_DATA, 2, ":2:3:", "middle");
    text_write(">one\nAC**\n");
    expect_fault(SPLIT_TRAIN, ST_BAD_DATA, 1, ":2:3:");
    text_write(">one\nAC\x80\n");
    expect_fault(SPLIT_TRAIN, ST_BAD_DATA, 2, ":2:3:", "0x80");
}

Test(dataset, missing_and_unfit_files)
{
    expect_fault(SPLIT_TRAIN, ST_NOT_FOUND, 1, path);
    spec.data.train = directory;
    expect_fault(SPLIT_TRAIN, ST_BAD_DATA, 2, directory, "is a directory");
    spec.data.format = FORMAT_TOKENS;
    spec.data.vocab = 10;
    expect_fault(SPLIT_TRAIN, ST_BAD_DATA, 2, directory, "not a plain file");
}

Test(dataset, too_few_rows_for_a_batch)
{
    spec.train.batch = 3;
    text_write("");
    expect_fault(SPLIT_TRAIN, ST_BAD_DATA, 2, "0 rows of 4 tokens", "one batch of 3");
    text_write(">one\nACDEFGHI\n");
    expect_fault(SPLIT_TRAIN, ST_BAD_DATA, 2, " 2 rows of 4 tokens", "train.batch");
    spec.data.format = FORMAT_TOKENS;
    spec.data.vocab = 9;
    text_write("");
    expect_fault(SPLIT_TRAIN, ST_BAD_DATA, 1, " 0 rows");
}

Test(dataset, token_files_that_do_not_fit)
{
    spec.data.format = FORMAT_TOKENS;
    spec.data.vocab = 9;
    const uint16_t rows[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 0};
    file_write(path, rows, 19);
    expect_fault(SPLIT_TRAIN, ST_BAD_DATA, 3, "19 bytes", "row's 10", "data.length");
    file_write(path, rows, 20);
    expect_fault(SPLIT_TRAIN, ST_BAD_DATA, 4, "row 2, column 4", "token 9", "data.vocab is 9",
                 path);
}

Test(dataset, no_validation_unless_asked_for)
{
    text_write(">one\nACDEF\n");
    struct dataset *dataset = (void *)&spec;
    cr_assert_eq(dataset_open(&spec, SPLIT_VALID, &dataset, NULL), ST_OK);
    cr_assert_null(dataset);
}

Test(dataset, validation_file)
{
    text_write(">one\nACDEF\n");
    file_write(valid_path, ">two\nGHIKLMNPQ\n", 15);
    spec.data.valid = valid_path;
    struct dataset *train = opened(SPLIT_TRAIN), *valid = opened(SPLIT_VALID);
    cr_assert_str_eq(row_text(train, 0), "ACDE/CDEF/1111");
    cr_assert_eq(dataset_rows(valid), 2);
    cr_assert_str_eq(row_text(valid, 0), "GHIK/HIKL/1111");
    dataset_close(train);
    dataset_close(valid);
    file_write(valid_path, ">two\nGHI\n", 9);
    expect_fault(SPLIT_VALID, ST_BAD_DATA, 3, valid_path, "one row of 4 tokens", "data.length");
}

Test(dataset, an_empty_validation_share_is_refused)
{
    spec.data.valid_fraction = 1e-9;
    text_write(">one\nACDEF\n");
    expect_fault(SPLIT_VALID, ST_BAD_DATA, 2, "raise data.valid_fraction", "data.valid");
}

/* Rows of a padded dataset as one string each, sorted. */
static int text_compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static char **rows_sorted(struct dataset *dataset)
{
    int64_t rows = dataset_rows(dataset);
    char **texts = malloc((size_t)rows * sizeof *texts);
    for (int64_t r = 0; r < rows; r++) texts[r] = strdup(row_text(dataset, r));
    qsort(texts, (size_t)rows, sizeof *texts, text_compare);
    return texts;
}

static void texts_free(char **texts, int64_t count)
{
    for (int64_t i = 0; i < count; i++) free(texts[i]);
    free(texts);
}

/* 2000 different records, `reverse` back to front and in lower case. */
static void numbered_records(bool reverse)
{
    FILE *file = fopen(path, "w");
    for (int i = 0; i < 2000; i++) {
        int n = reverse ? 1999 - i : i;
        fprintf(file, ">%d\n", i);
        for (int k = 0; k < 4; k++, n /= 20) {
            char residue = FASTA_LETTERS[n % 20];
            fputc(reverse ? tolower(residue) : residue, file);
        }
        fputc('\n', file);
    }
    fclose(file);
}

Test(dataset, the_split_follows_the_record_alone)
{
    spec.data.packing = PACKING_PAD;
    spec.data.length = 6;
    spec.data.valid_fraction = 0.1;
    numbered_records(false);
    struct dataset *train = opened(SPLIT_TRAIN), *valid = opened(SPLIT_VALID);
    int64_t rows = dataset_rows(valid);
    cr_assert_eq(dataset_rows(train) + rows, 2000);
    /* binomial, mean 200, standard deviation 13.4 */
    cr_assert(rows > 146 && rows < 254, "%ld", rows);
    char **before = rows_sorted(valid);
    dataset_close(train);
    dataset_close(valid);

    numbered_records(true);
    spec.job.seed = 8;
    valid = opened(SPLIT_VALID);
    cr_assert_eq(dataset_rows(valid), rows);
    char **after = rows_sorted(valid);
    for (int64_t r = 0; r < rows; r++) cr_assert_str_eq(before[r], after[r]);
    texts_free(before, rows);
    texts_free(after, rows);
    dataset_close(valid);
}

Test(dataset, token_rows_and_lines_of_text_split_too)
{
    enum { ROWS = 1000 };
    static uint16_t rows[ROWS][5];
    for (int r = 0; r < ROWS; r++)
        for (int l = 0; l < 5; l++) rows[r][l] = (uint16_t)(r >> (2 * l) & 3);
    spec.data.format = FORMAT_TOKENS;
    spec.data.vocab = 4;
    spec.data.valid_fraction = 0.25;
    file_write(path, rows, sizeof rows);
    struct dataset *train = opened(SPLIT_TRAIN), *valid = opened(SPLIT_VALID);
    cr_assert_eq(dataset_rows(train) + dataset_rows(valid), ROWS);
    cr_assert(dataset_rows(valid) > 190 && dataset_rows(valid) < 310);
    uint8_t seen[ROWS] = {0};
    struct dataset *both[] = {train, valid};
    struct batch batch = batch_of(1);
    for (int side = 0; side < 2; side++)
        for (int64_t r = 0; r < dataset_rows(both[side]); r++) {
            dataset_rows_at(both[side], r, &batch);
            int n = targets[3] << 8;
            for (int l = 0; l < 4; l++) n |= ids[l] << (2 * l);
            cr_assert_eq(seen[n]++, 0, "row %d is on both sides", n);
        }
    dataset_close(train);
    dataset_close(valid);
}

/* Blocks of a joined text: every byte is on one side, in order, and runs of blocks end in EOS. */
Test(dataset, a_joined_text_splits_by_blocks)
{
    enum { BLOCK = 4096, BLOCKS = 64, BYTES = BLOCK * BLOCKS - 100 };
    char *text = malloc(BYTES);
    for (int i = 0; i < BYTES; i++) text[i] = (char)(1 + i / BLOCK);
    spec.data.format = FORMAT_TEXT;
    spec.data.length = 1;
    spec.model.objective = OBJECTIVE_MASKED; /* a row a token */
    spec.data.valid_fraction = 0.3;
    file_write(path, text, BYTES);
    free(text);
    int blocks[BLOCKS + 1] = {0}, tokens = 0;
    for (int side = 0; side < 2; side++) {
        struct dataset *dataset = opened(side == 0 ? SPLIT_TRAIN : SPLIT_VALID);
        struct batch batch = batch_of(1);
        int previous = TEXT_EOS;
        for (int64_t r = 0; r < dataset_rows(dataset); r++) {
            dataset_rows_at(dataset, r, &batch);
            int token = targets[0] >= 0 ? targets[0] : ids[0];
            if (token == TEXT_EOS) {
                cr_assert_neq(previous, TEXT_EOS);
            } else {
                tokens++;
                if (token != previous) {
                    blocks[token]++;
                    if (previous != TEXT_EOS) cr_assert_eq(token, previous + 1);
                }
            }
            previous = token;
        }
        cr_assert_eq(previous, TEXT_EOS);
        cr_assert(dataset_rows(dataset) > BLOCK);
        dataset_close(dataset);
    }
    cr_assert_eq(tokens, BYTES);
    for (int b = 1; b <= BLOCKS; b++) cr_assert_eq(blocks[b], 1, "block %d", b);
}

Test(dataset, batches_follow_the_order_across_epochs)
{
    enum { ROWS = 7, BATCH = 3 };
    spec.data.format = FORMAT_TOKENS;
    spec.data.vocab = 100;
    spec.data.length = 1;
    spec.train.batch = BATCH;
    uint16_t rows[2 * ROWS];
    for (int i = 0; i < ROWS; i++) {
        rows[2 * i] = (uint16_t)i;
        rows[2 * i + 1] = (uint16_t)(i + 50);
    }
    file_write(path, rows, sizeof rows);
    struct dataset *dataset = opened(SPLIT_TRAIN);
    for (uint64_t step = 1; step <= 14; step++) {
        for (int64_t first = 0; first < BATCH; first++) { /* one shard a sequence */
            struct batch batch = batch_of(1);
            dataset_batch(dataset, step, first, &batch);
            uint64_t n = (step - 1) * BATCH + (uint64_t)first;
            int64_t row = sample_order(7, n / ROWS, ROWS, (int64_t)(n % ROWS));
            cr_assert_eq(ids[0], row);
            cr_assert_eq(targets[0], row + 50);
        }
        int32_t one_by_one = ids[0];
        struct batch whole = batch_of(BATCH);
        dataset_batch(dataset, step, 0, &whole);
        cr_assert_eq(ids[BATCH - 1], one_by_one);
    }
    dataset_close(dataset);
}

/* A long random FASTA, masked, and what became of its tokens. */
Test(dataset, masked_objective)
{
    spec.model.objective = OBJECTIVE_MASKED;
    spec.data.length = 100;
    spec.train.batch = 4;
    char *text;
    size_t length = fasta_large(&text);
    file_write(path, text, length);
    free(text);
    struct dataset *dataset = opened(SPLIT_TRAIN);
    int64_t tokens = 0, chosen = 0, masked = 0, kept = 0;
    int drawn[FASTA_VOCAB] = {0};
    struct batch batch = batch_of(4);
    for (uint64_t step = 1; step <= 1000; step++) {
        dataset_batch(dataset, step, 0, &batch);
        for (int i = 0; i < 400; i++) {
            cr_assert(key_mask[i]);
            if (ids[i] == FASTA_EOS) {
                cr_assert_eq(targets[i], -1);
                continue;
            }
            tokens++;
            if (targets[i] < 0) {
                cr_assert_lt(ids[i], FASTA_BOS);
                continue;
            }
            cr_assert_lt(targets[i], 20);
            chosen++;
            masked += ids[i] == FASTA_MASK;
            kept += ids[i] == targets[i];
            if (ids[i] != FASTA_MASK && ids[i] != targets[i]) drawn[ids[i]]++;
        }
    }
    double share = (double)chosen / (double)tokens;
    cr_assert_float_eq(share, 0.15, 0.003, "%g", share); /* 5 standard deviations */
    cr_assert_float_eq((double)masked / (double)chosen, 0.8, 0.01);
    /* a random token is the right one in 1 of 25 draws */
    cr_assert_float_eq((double)kept / (double)chosen, 0.1 + 0.1 / 25, 0.008);
    for (int id = 0; id < FASTA_BOS; id++) cr_assert_gt(drawn[id], 0, "%c never drawn", letter(id));
    for (int id = FASTA_BOS; id < FASTA_VOCAB; id++) cr_assert_eq(drawn[id], 0);

    int32_t before[400], before_targets[400];
    dataset_batch(dataset, 5, 0, &batch);
    memcpy(before, ids, sizeof before);
    memcpy(before_targets, targets, sizeof before_targets);
    dataset_batch(dataset, 6, 0, &batch);
    cr_assert_arr_neq(targets, before_targets, sizeof before_targets);
    for (int64_t first = 0; first < 4; first++) { /* the same whatever the shards */
        struct batch one = batch_of(1);
        dataset_batch(dataset, 5, first, &one);
        cr_assert_arr_eq(ids, before + first * 100, 100 * sizeof ids[0]);
        cr_assert_arr_eq(targets, before_targets + first * 100, 100 * sizeof ids[0]);
    }
    dataset_close(dataset);
}

Test(dataset, masked_tokens_file_masks_with_the_id_behind_its_own)
{
    spec.model.objective = OBJECTIVE_MASKED;
    spec.data.format = FORMAT_TOKENS;
    spec.data.vocab = 3;
    spec.data.length = 128;
    uint16_t row[129];
    for (int i = 0; i < 129; i++) row[i] = (uint16_t)(i % 3);
    file_write(path, row, sizeof row);
    struct dataset *dataset = opened(SPLIT_TRAIN);
    struct batch batch = batch_of(1);
    dataset_rows_at(dataset, 0, &batch);
    int masks = 0;
    for (int l = 0; l < 128; l++) {
        cr_assert_leq(ids[l], 3);
        masks += ids[l] == 3;
        cr_assert(targets[l] == -1 || targets[l] == row[l]);
    }
    cr_assert_gt(masks, 4);
    dataset_close(dataset);
}

Test(dataset, masked_padding_is_never_chosen)
{
    spec.model.objective = OBJECTIVE_MASKED;
    spec.data.packing = PACKING_PAD;
    spec.data.length = 16;
    spec.train.batch = 1;
    text_write(">one\nACDE\n");
    struct dataset *dataset = opened(SPLIT_TRAIN);
    struct batch batch = batch_of(1);
    int chosen = 0;
    for (uint64_t step = 1; step < 200; step++) {
        dataset_batch(dataset, step, 0, &batch);
        for (int l = 0; l < 16; l++) {
            bool residue = l >= 1 && l <= 4;
            chosen += targets[l] >= 0;
            if (!residue) cr_assert_eq(targets[l], -1);
            cr_assert_eq(key_mask[l], l <= 5);
        }
        cr_assert_eq(ids[0], FASTA_BOS);
        cr_assert_eq(ids[5], FASTA_EOS);
        cr_assert_eq(ids[6], FASTA_PAD);
    }
    cr_assert_gt(chosen, 60);
    dataset_close(dataset);
}

Test(dataset, entropy_of_what_is_predicted)
{
    /* AACA| and one window of 4: targets A C A | */
    text_write(">one\nAACA\n");
    struct dataset *dataset = opened(SPLIT_TRAIN);
    cr_assert_float_eq(dataset_entropy(dataset), 1.5 * log(2.0), 1e-12);
    dataset_close(dataset);
    spec.model.objective = OBJECTIVE_MASKED; /* A A C A: EOS is never predicted */
    dataset = opened(SPLIT_TRAIN);
    cr_assert_float_eq(dataset_entropy(dataset), 0.25 * log(4.0) + 0.75 * log(4.0 / 3.0), 1e-12);
    dataset_close(dataset);
}
