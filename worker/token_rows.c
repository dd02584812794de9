#include "worker/token_rows.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "worker/byte_source.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rows are used as they lie in the file");

static enum status rows_map(const char *path, struct token_rows *rows, size_t *bytes,
                            struct fault *fault)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return fault_errno(fault, errno, "could not open %s", path);
    struct stat about;
    enum status status = ST_OK;
    void *mapping = NULL;
    if (fstat(file, &about) != 0)
        status = fault_errno(fault, errno, "could not look at %s", path);
    else if (!S_ISREG(about.st_mode))
        status = fault_set(fault, ST_BAD_DATA, "%s is not a plain file", path);
    else if (about.st_size > 0) {
        mapping = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_SHARED, file, 0);
        if (mapping == MAP_FAILED) status = fault_errno(fault, errno, "could not map %s", path);
    }
    close(file);
    if (status != ST_OK) return status;
    rows->mapping = mapping;
    rows->mapping_bytes = (size_t)about.st_size;
    rows->tokens = mapping;
    *bytes = (size_t)about.st_size;
    return ST_OK;
}

static enum status rows_inflate(const char *path, struct token_rows *rows, size_t *bytes,
                                struct fault *fault)
{
    struct byte_source *source;
    enum status status = byte_source_open(path, &source, fault);
    if (status != ST_OK) return status;

    uint8_t *all = NULL;
    size_t count = 0, capacity = 0, length = 0;
    const uint8_t *piece;
    while ((status = byte_source_read(source, &piece, &length, fault)) == ST_OK && length > 0) {
        if (count + length > capacity) {
            capacity = 2 * (count + length);
            uint8_t *more = realloc(all, capacity);
            if (!more) {
                status = fault_set(fault, ST_NO_MEMORY, "read %s: out of memory", path);
                break;
            }
            all = more;
        }
        memcpy(all + count, piece, length);
        count += length;
    }
    byte_source_close(source);
    if (status != ST_OK) {
        free(all);
        return status;
    }
    rows->tokens = (const uint16_t *)(void *)all;
    *bytes = count;
    return ST_OK;
}

static enum status rows_check(const char *path, const struct token_rows *rows, size_t bytes,
                              int64_t vocab, struct fault *fault)
{
    size_t row_bytes = (size_t)rows->row_tokens * sizeof *rows->tokens;
    if (bytes % row_bytes != 0)
        return fault_set(
            fault, ST_BAD_DATA,
            "%s has %zu bytes, which is not a multiple of a row's %zu (data.length + 1 "
            "= %lld tokens of 2 bytes); set data.length to that of the file, or bring the whole file",
            path, bytes, row_bytes, (long long)rows->row_tokens);
    for (int64_t i = 0; i < rows->rows * rows->row_tokens; i++)
        if (rows->tokens[i] >= vocab)
            return fault_set(fault, ST_BAD_DATA,
                             "%s: row %lld, column %lld (from 1) holds token %d, and data.vocab is "
                             "%lld; ids must be below it",
                             path, (long long)(i / rows->row_tokens) + 1,
                             (long long)(i % rows->row_tokens) + 1, rows->tokens[i],
                             (long long)vocab);
    return ST_OK;
}

enum status token_rows_open(const char *path, int64_t row_tokens, int64_t vocab,
                            struct token_rows *rows, struct fault *fault)
{
    struct token_rows opened = {.row_tokens = row_tokens};
    size_t name = strlen(path), bytes = 0;
    bool compressed = name > 3 && strcmp(path + name - 3, ".gz") == 0;
    enum status status = compressed ? rows_inflate(path, &opened, &bytes, fault)
                                    : rows_map(path, &opened, &bytes, fault);
    if (status != ST_OK) return status;
    opened.rows = (int64_t)(bytes / ((size_t)row_tokens * sizeof *opened.tokens));
    status = rows_check(path, &opened, bytes, vocab, fault);
    if (status != ST_OK) {
        token_rows_close(&opened);
        return status;
    }
    *rows = opened;
    return ST_OK;
}

void token_rows_close(struct token_rows *rows)
{
    if (rows->mapping)
        munmap(rows->mapping, rows->mapping_bytes);
    else
        free((void *)(uintptr_t)rows->tokens);
    *rows = (struct token_rows){0};
}
