#include "worker/manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <xxhash.h>

#include "proto/durable.h"

enum { PATH_BYTES_MAX = 4096, LINE_BYTES_MAX = 80, PIECE_BYTES = 1 << 20 };

static const char *const files[] = {MODEL_FILE, OPTIMIZER_FILE, STATE_FILE};

enum {
    FILE_COUNT = sizeof files / sizeof files[0],
    MANIFEST_BYTES_MAX = FILE_COUNT * LINE_BYTES_MAX
};

struct digest {
    uint64_t checksum, size;
};

static enum status file_open(int directory, const char *path, const char *name, int *file,
                             struct fault *fault)
{
    int opened = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (opened < 0 && errno == ELOOP)
        return fault_set(fault, ST_CORRUPT, "%s/%s is a symbolic link", path, name);
    if (opened < 0 && errno == ENOENT)
        return fault_set(fault, ST_CORRUPT, "%s/%s is missing", path, name);
    if (opened < 0) return fault_errno(fault, errno, "could not open %s/%s", path, name);
    *file = opened;
    return ST_OK;
}

static enum status file_digest(int directory, const char *path, const char *name, void *piece,
                               struct digest *digest, struct fault *fault)
{
    int file = -1;
    enum status status = file_open(directory, path, name, &file, fault);
    if (status != ST_OK) return status;
    XXH3_state_t *state = XXH3_createState();
    if (!state) {
        status = fault_set(fault, ST_NO_MEMORY, "read %s/%s: out of memory", path, name);
        goto close_file;
    }
    XXH3_64bits_reset(state);
    uint64_t size = 0;
    ssize_t got;
    while ((got = read(file, piece, PIECE_BYTES)) != 0) {
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            status = fault_errno(fault, errno, "could not read %s/%s", path, name);
            goto free_state;
        }
        XXH3_64bits_update(state, piece, (size_t)got);
        size += (uint64_t)got;
    }
    *digest = (struct digest){XXH3_64bits_digest(state), size};
free_state:
    XXH3_freeState(state);
close_file:
    close(file);
    return status;
}

static enum status directory_open(const char *path, int *directory, struct fault *fault)
{
    int opened = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (opened < 0 && (errno == ELOOP || errno == ENOTDIR))
        return fault_set(fault, ST_CORRUPT, "%s is not a directory, or a symbolic link", path);
    if (opened < 0) return fault_errno(fault, errno, "could not open the directory %s", path);
    *directory = opened;
    return ST_OK;
}

/* The lines that the files give, one behind the other. */
static enum status lines_make(const char *path, char lines[FILE_COUNT][LINE_BYTES_MAX],
                              uint64_t *bytes, struct fault *fault)
{
    int directory = -1;
    enum status status = directory_open(path, &directory, fault);
    if (status != ST_OK) return status;
    void *piece = malloc(PIECE_BYTES);
    if (!piece) {
        status = fault_set(fault, ST_NO_MEMORY, "read %s: out of memory", path);
        goto close_directory;
    }
    uint64_t total = 0;
    for (int i = 0; i < FILE_COUNT && status == ST_OK; i++) {
        struct digest digest = {0};
        status = file_digest(directory, path, files[i], piece, &digest, fault);
        if (status != ST_OK) break;
        snprintf(lines[i], LINE_BYTES_MAX, "%016" PRIx64 " %" PRIu64 " %s\n", digest.checksum,
                 digest.size, files[i]);
        total += digest.size;
    }
    free(piece);
    if (status == ST_OK) *bytes = total;
close_directory:
    close(directory);
    return status;
}

enum status manifest_write(const char *directory, uint64_t *bytes, struct fault *fault)
{
    char lines[FILE_COUNT][LINE_BYTES_MAX], text[MANIFEST_BYTES_MAX] = "", path[PATH_BYTES_MAX];
    uint64_t total;
    enum status status = lines_make(directory, lines, &total, fault);
    if (status != ST_OK) return status;
    for (int i = 0; i < FILE_COUNT; i++) strcat(text, lines[i]);
    snprintf(path, sizeof path, "%s/" MANIFEST_FILE, directory);
    status = durable_write(path, text, strlen(text), fault);
    if (status != ST_OK) return status;
    *bytes = total;
    return ST_OK;
}

enum status manifest_verify(const char *directory, struct fault *fault)
{
    char lines[FILE_COUNT][LINE_BYTES_MAX], path[PATH_BYTES_MAX], *text;
    uint64_t bytes;
    size_t length;
    enum status status = lines_make(directory, lines, &bytes, fault);
    if (status != ST_OK) return status;
    snprintf(path, sizeof path, "%s/" MANIFEST_FILE, directory);
    status = file_read(path, MANIFEST_BYTES_MAX, &text, &length, fault);
    if (status == ST_NOT_FOUND) return fault_set(fault, ST_CORRUPT, "%s is missing", path);
    if (status != ST_OK) return status;

    const char *next = text;
    for (int i = 0; i < FILE_COUNT && status == ST_OK; i++) {
        size_t line = strlen(lines[i]);
        if ((size_t)(text + length - next) < line || memcmp(next, lines[i], line) != 0)
            status = fault_set(fault, ST_CORRUPT, "%s/%s is not what its MANIFEST says", directory,
                               files[i]);
        next += line;
    }
    if (status == ST_OK && next != text + length)
        status = fault_set(fault, ST_CORRUPT, "%s has more than %d lines", path, FILE_COUNT);
    free(text);
    return status;
}
