#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/durable.h"
#include "proto/safetensors.h"

static char path[64];
static struct fault fault;

static void make_path(void)
{
    snprintf(path, sizeof path, "/tmp/safetensors.XXXXXX");
    close(mkstemp(path));
}

static void remove_path(void)
{
    unlink(path);
}

TestSuite(safetensors, .init = make_path, .fini = remove_path);

static void put(const void *bytes, size_t length)
{
    FILE *out = fopen(path, "wb");
    cr_assert_eq(fwrite(bytes, 1, length, out), length);
    fclose(out);
}

/* A file of that header, which need not be one, and `data_bytes` bytes of data. */
static void put_header(const char *header, size_t data_bytes)
{
    char bytes[20000] = {0};
    size_t length = strlen(header);
    for (int i = 0; i < 8; i++) bytes[i] = (char)((uint64_t)length >> (8 * i));
    memcpy(bytes + 8, header, length);
    put(bytes, 8 + length + data_bytes);
}

static float weights[6] = {1, -2, 3.5f, 0, 1e-30f, -0.0f};
static int64_t counter[1] = {-7};
static unsigned char mask[3] = {1, 0, 1};

static const struct tensor_entry entries[] = {
    {.name = "steps", .type = TENSOR_I64, .dimensions = 0, .bytes = 8, .data = counter},
    {.name = "w \"q\" \xc3\xa9",
     .type = TENSOR_F32,
     .dimensions = 2,
     .shape = {2, 3},
     .bytes = 24,
     .data = weights},
    {.name = "empty",
     .type = TENSOR_F32,
     .dimensions = 2,
     .shape = {0, 3},
     .bytes = 0,
     .data = weights},
    {.name = "mask", .type = TENSOR_BOOL, .dimensions = 1, .shape = {3}, .bytes = 3, .data = mask},
};
static const struct metadata_entry metadata[] = {{"kernel", "relu"}, {"causal", "true"}};

static void put_example(void)
{
    cr_assert_eq(safetensors_write(path, entries, 4, metadata, 2, &fault), ST_OK, "%s", fault.text);
}

Test(safetensors, what_was_written_is_read)
{
    struct safetensors *file;
    put_example();
    cr_assert_eq(safetensors_open(path, &file, &fault), ST_OK, "%s", fault.text);
    cr_assert_eq(safetensors_count(file), 4);
    for (size_t i = 0; i < 4; i++) {
        const struct tensor_entry *entry = safetensors_find(file, entries[i].name);
        cr_assert_not_null(entry);
        cr_expect_eq(entry->type, entries[i].type);
        cr_expect_eq(entry->dimensions, entries[i].dimensions);
        cr_expect_eq(memcmp(entry->shape, entries[i].shape, sizeof entry->shape), 0);
        cr_expect_eq(entry->bytes, entries[i].bytes);
        cr_expect_eq(memcmp(entry->data, entries[i].data, entry->bytes), 0);
    }
    cr_expect_str_eq(safetensors_at(file, 0)->name, "steps");
    cr_expect_str_eq(safetensors_at(file, 3)->name, "mask");
    cr_expect_eq((uintptr_t)safetensors_at(file, 0)->data % 8, 0);
    cr_expect_null(safetensors_find(file, "none"));
    cr_expect_str_eq(safetensors_metadata(file, "kernel"), "relu");
    cr_expect_null(safetensors_metadata(file, "none"));
    safetensors_close(file);
}

/* Byte by byte as the format's description has it. */
Test(safetensors, the_bytes_are_those_of_the_format)
{
    static const char expected[] =
        "\x38\0\0\0\0\0\0\0"
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}  "
        "\0\0\x80\x3f";
    float one = 1;
    struct tensor_entry entry = {
        .name = "a", .type = TENSOR_F32, .dimensions = 1, .shape = {1}, .bytes = 4, .data = &one};
    cr_assert_eq(safetensors_write(path, &entry, 1, NULL, 0, &fault), ST_OK);
    char *bytes;
    size_t length;
    cr_assert_eq(file_read(path, 1000, &bytes, &length, &fault), ST_OK);
    cr_assert_eq(length, sizeof expected - 1, "%zu bytes: %s", length, bytes + 8);
    cr_assert_eq(memcmp(bytes, expected, length), 0, "%s", bytes + 8);
    free(bytes);
}

Test(safetensors, the_same_entries_give_the_same_bytes)
{
    char *first, *second;
    size_t first_length, second_length;
    put_example();
    cr_assert_eq(file_read(path, 1000, &first, &first_length, &fault), ST_OK);
    put_example();
    cr_assert_eq(file_read(path, 1000, &second, &second_length, &fault), ST_OK);
    cr_assert_eq(first_length, second_length);
    cr_assert_eq(memcmp(first, second, first_length), 0);
    free(first);
    free(second);
}

Test(safetensors, no_tensors_are_a_file_too)
{
    struct safetensors *file;
    cr_assert_eq(safetensors_write(path, NULL, 0, NULL, 0, &fault), ST_OK);
    cr_assert_eq(safetensors_open(path, &file, &fault), ST_OK, "%s", fault.text);
    cr_assert_eq(safetensors_count(file), 0);
    cr_assert_null(safetensors_metadata(file, "x"));
    safetensors_close(file);
}

#define TENSOR(name, dtype, shape, offsets) \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static const struct hostile {
    const char *header;
    size_t data_bytes;
    const char *in_words;
} hostile_files[] = {
    {"", 0, "no JSON"},
    {"[]", 0, "no JSON object"},
    {"{", 0, "no JSON"},
    {"{} {}", 0, "no JSON"},
    {"{\"a\":1}", 0, "no dtype"},
    {"{" TENSOR("a", "F32", "[1]", "[0,4]") "," TENSOR("a", "F32", "[1]", "[4,8]") "}", 8,
     "duplicate"},
    {"{" TENSOR("a", "F32", "[1]", "[0,4]") "," TENSOR("b", "F32", "[2]", "[0,8]") "}", 8,
     "`b` at 0 overlaps"},
    {"{" TENSOR("a", "F32", "[2]", "[0,8]") "," TENSOR("b", "F32", "[2]", "[4,12]") "}", 12,
     "`b` at 4 overlaps the one before it, `a`"},
    {"{" TENSOR("a", "F32", "[1]", "[4,8]") "}", 8, "bytes 0 ... 4"},
    {"{" TENSOR("a", "F32", "[1]", "[0,4]") "}", 8, "bytes 4 ... 8"},
    {"{" TENSOR("a", "F32", "[1]", "[0,4]") "," TENSOR("b", "F32", "[1]", "[8,12]") "}", 12,
     "bytes 4 ... 8"},
    {"{" TENSOR("a", "F32", "[1]", "[0,4]") "}", 3, "0 ... 4 of 3"},
    {"{" TENSOR("a", "F32", "[1]", "[-4,0]") "}", 4, "-4 ... 0"},
    {"{" TENSOR("a", "F32", "[1]", "[4,0]") "}", 4, "4 ... 0"},
    {"{" TENSOR("a", "F32", "[1]", "[9223372036854775800,9223372036854775804]") "}", 4,
     "9223372036854775800"},
    {"{" TENSOR("a", "F32", "[1]", "[0,18446744073709551616]") "}", 4, "no JSON"},
    {"{" TENSOR("a", "F32", "[1]", "[0,4.0]") "}", 4, "no pair"},
    {"{" TENSOR("a", "F32", "[1]", "[0]") "}", 4, "no pair"},
    {"{" TENSOR("a", "F32", "[1]", "[0,4,8]") "}", 4, "no pair"},
    {"{" TENSOR("a", "F32", "[1]", "{\"0\":0}") "}", 4, "no pair"},
    {"{" TENSOR("a", "F32", "[2]", "[0,4]") "}", 4, "its shape does not give"},
    {"{" TENSOR("a", "F32", "[-1]", "[0,4]") "}", 4, "size 0"},
    {"{" TENSOR("a", "F32", "[1.0]", "[0,4]") "}", 4, "size 0"},
    {"{" TENSOR("a", "F32", "[4611686018427387905]", "[0,4]") "}", 4, "its shape does not give"},
    {"{" TENSOR("a", "F32", "[4294967296,4294967296]", "[0,0]") "}", 0, "its shape does not give"},
    {"{" TENSOR("a", "F32", "[9223372036854775807,2,0]", "[0,4]") "}", 4,
     "its shape does not give"},
    {"{" TENSOR("a", "F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, "9 dimensions"},
    {"{" TENSOR("a", "F32", "1", "[0,4]") "}", 4, "no shape"},
    {"{" TENSOR("a", "F16", "[2]", "[0,4]") "}", 4, "dtype `F16`; known are: F32"},
    {"{" TENSOR("a", "f32", "[1]", "[0,4]") "}", 4, "dtype `f32`"},
    {"{\"a\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "no dtype"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4, "more than"},
    {"{" TENSOR("", "F32", "[1]", "[0,4]") "}", 4, "name has 0 bytes"},
    {"{\"__metadata__\":[]}", 0, "__metadata__ is no object"},
    {"{\"__metadata__\":{\"k\":1}}", 0, "`k` in __metadata__"},
};

Test(safetensors, a_hostile_header_is_corrupt_and_the_words_say_where)
{
    for (size_t i = 0; i < sizeof hostile_files / sizeof hostile_files[0]; i++) {
        const struct hostile *hostile = &hostile_files[i];
        char header[1000];
        size_t pad = (8 - strlen(hostile->header) % 8) % 8;
        snprintf(header, sizeof header, "%s%*s", hostile->header, (int)pad, "");
        struct safetensors *file = NULL;
        put_header(header, hostile->data_bytes);
        cr_expect_eq(safetensors_open(path, &file, &fault), ST_CORRUPT, "%s", hostile->header);
        cr_expect_null(file);
        cr_expect(strstr(fault.text, path), "%s", fault.text);
        cr_expect(strstr(fault.text, hostile->in_words), "%s: \"%s\" is not in: %s",
                  hostile->header, hostile->in_words, fault.text);
    }
}

Test(safetensors, data_that_another_writer_did_not_align_are_read)
{
    struct safetensors *file;
    put_header("{" TENSOR("b", "U8", "[1]", "[0,1]") "," TENSOR("a", "F32", "[1]", "[1,5]") "}", 5);
    cr_assert_eq(safetensors_open(path, &file, &fault), ST_OK, "%s", fault.text);
    const struct tensor_entry *entry = safetensors_find(file, "a");
    cr_assert_eq(entry->bytes, 4);
    cr_assert_eq((const char *)entry->data, (const char *)safetensors_find(file, "b")->data + 1);
    safetensors_close(file);
}

Test(safetensors, deep_nesting_and_long_names_are_corrupt)
{
    struct safetensors *file;
    char header[12001];
    memset(header, '[', sizeof header - 1);
    header[sizeof header - 1] = '\0';
    put_header(header, 0);
    cr_assert_eq(safetensors_open(path, &file, &fault), ST_CORRUPT);
    char name[200];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    snprintf(header, sizeof header, "{\"%s\":{}}", name);
    put_header(header, 0);
    cr_assert_eq(safetensors_open(path, &file, &fault), ST_CORRUPT);
    cr_assert(strstr(fault.text, "199 bytes"), "%s", fault.text);
}

Test(safetensors, the_length_of_the_header_is_not_believed)
{
    static const uint64_t lengths[] = {
        1, 3, UINT64_C(1) << 31, UINT64_C(1) << 63, UINT64_MAX, UINT64_MAX - 7};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        struct safetensors *file;
        unsigned char bytes[10] = {0, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
        for (int k = 0; k < 8; k++) bytes[k] = (unsigned char)(lengths[i] >> (8 * k));
        put(bytes, sizeof bytes);
        cr_expect_eq(safetensors_open(path, &file, &fault), ST_CORRUPT, "%llx",
                     (unsigned long long)lengths[i]);
        if (lengths[i] > 2) cr_expect(strstr(fault.text, "is said to have"), "%s", fault.text);
    }
}

/* A file of holes may be huge and cost nothing; its header must not be taken into memory. */
Test(safetensors, a_huge_header_is_refused)
{
    struct safetensors *file;
    unsigned char bytes[8] = {0, 0, 0, 0, 1};
    put(bytes, sizeof bytes);
    cr_assert_eq(truncate(path, INT64_C(5) << 30), 0);
    cr_assert_eq(safetensors_open(path, &file, &fault), ST_CORRUPT);
    cr_assert(strstr(fault.text, "the limit is"), "%s", fault.text);
}

Test(safetensors, what_is_no_file_says_so)
{
    struct safetensors *file;
    cr_assert_eq(safetensors_open("/none", &file, &fault), ST_NOT_FOUND);
    cr_assert_eq(safetensors_open("/tmp", &file, &fault), ST_CORRUPT);
    cr_assert_eq(safetensors_open("/dev/zero", &file, &fault), ST_CORRUPT);
    put("", 0);
    cr_assert_eq(safetensors_open(path, &file, &fault), ST_CORRUPT);
    cr_assert(strstr(fault.text, "0 bytes"), "%s", fault.text);
}

/* Reads all that the file claims to hold; the sanitizers see a byte outside of it. */
static unsigned read_all(const struct safetensors *file)
{
    unsigned sum = 0;
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const struct tensor_entry *entry = safetensors_at(file, i);
        for (size_t k = 0; k < entry->bytes; k++) sum += ((const unsigned char *)entry->data)[k];
    }
    return sum;
}

Test(safetensors, every_truncation_is_corrupt)
{
    char *bytes;
    size_t length;
    put_example();
    cr_assert_eq(file_read(path, 1000, &bytes, &length, &fault), ST_OK);
    for (size_t cut = 0; cut < length; cut++) {
        struct safetensors *file;
        put(bytes, cut);
        cr_expect_eq(safetensors_open(path, &file, &fault), ST_CORRUPT, "cut at %zu", cut);
    }
    free(bytes);
}

Test(safetensors, every_flipped_bit_is_corrupt_or_reads_safely)
{
    char *bytes;
    size_t length;
    put_example();
    cr_assert_eq(file_read(path, 1000, &bytes, &length, &fault), ST_OK);
    int corrupt = 0, read = 0;
    for (size_t bit = 0; bit < (length - 35) * 8; bit++) {
        struct safetensors *file;
        bytes[bit / 8] ^= (char)(1 << bit % 8);
        put(bytes, length);
        enum status status = safetensors_open(path, &file, &fault);
        cr_expect(status == ST_OK || status == ST_CORRUPT, "bit %zu: %s", bit, fault.text);
        if (status == ST_OK) {
            read_all(file);
            safetensors_close(file);
            read++;
        } else {
            corrupt++;
        }
        bytes[bit / 8] ^= (char)(1 << bit % 8);
    }
    cr_expect_gt(corrupt, read);
    cr_expect_gt(read, 0, "a flipped bit in a name is another name");
    free(bytes);
}

Test(safetensors, a_full_disk_leaves_no_file)
{
    static char large[100000];
    struct tensor_entry entry = {.name = "a",
                                 .type = TENSOR_U8,
                                 .dimensions = 1,
                                 .shape = {sizeof large},
                                 .bytes = sizeof large,
                                 .data = large};
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit = {.rlim_cur = 4096, .rlim_max = 4096};
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    cr_assert_eq(safetensors_write(path, &entry, 1, NULL, 0, &fault), ST_NO_SPACE);
    cr_assert(strstr(fault.text, path), "%s", fault.text);
    cr_assert_neq(access(path, F_OK), 0);
}

Test(safetensors, what_could_not_be_read_is_not_written)
{
    struct tensor_entry twice[] = {entries[1], entries[1]};
    struct tensor_entry misaligned[] = {entries[3], entries[1]};
    struct tensor_entry short_of_bytes = entries[1];
    short_of_bytes.bytes = 20;
    cr_assert_eq(safetensors_write(path, twice, 2, NULL, 0, &fault), ST_INVALID);
    cr_assert_eq(safetensors_write(path, misaligned, 2, NULL, 0, &fault), ST_INVALID);
    cr_assert(strstr(fault.text, "wider types"), "%s", fault.text);
    cr_assert_eq(safetensors_write(path, &short_of_bytes, 1, NULL, 0, &fault), ST_INVALID);
    cr_assert_eq(safetensors_write("/dev/full", entries, 4, NULL, 0, &fault), ST_INVALID);
    cr_assert_eq(access("/dev/full", F_OK), 0, "a device is not removed");
    cr_assert_eq(safetensors_write("/none/x", entries, 4, NULL, 0, &fault), ST_NOT_FOUND);
}
