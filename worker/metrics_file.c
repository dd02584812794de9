#include "worker/metrics_file.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "proto/logline.h"

enum { PATH_BYTES_MAX = 4096, LINE_BYTES_MAX = 512, NUMBER_BYTES = 32 };

struct metrics_file {
    FILE *stream;
    uint64_t attempt;
    bool warned;
    char path[PATH_BYTES_MAX];
};

/* Reads what is there: the attempt of its last whole line, and how far that goes. */
static void lines_read(FILE *stream, uint64_t *attempt, long *length)
{
    char line[LINE_BYTES_MAX];
    while (fgets(line, sizeof line, stream)) {
        if (!strchr(line, '\n')) break;
        sscanf(line, "{\"attempt\":%" SCNu64, attempt);
        *length = ftell(stream);
    }
}

static enum status lock_fault(const char *path, int error, struct fault *fault)
{
    if (error != EWOULDBLOCK) return fault_errno(fault, error, "could not lock %s", path);
    return fault_set(fault, ST_BUSY,
                     "another process trains into %s: use another directory, and Open MPI's mpirun "
                     "for several ranks",
                     path);
}

enum status metrics_file_open(const char *directory, struct metrics_file **file,
                              struct fault *fault)
{
    struct metrics_file *opened = calloc(1, sizeof *opened);
    if (!opened) return fault_set(fault, ST_NO_MEMORY, "open metrics.jsonl: out of memory");
    snprintf(opened->path, sizeof opened->path, "%s/metrics.jsonl", directory);
    enum status status;
    opened->stream = fopen(opened->path, "a+e");
    if (!opened->stream) {
        status = fault_errno(fault, errno, "could not open %s", opened->path);
        goto free_file;
    }
    /* Held until the stream is closed. Ranks that a foreign launcher started would each think they are alone. */
    if (flock(fileno(opened->stream), LOCK_EX | LOCK_NB) != 0) {
        status = lock_fault(opened->path, errno, fault);
        goto close_stream;
    }
    long length = 0;
    rewind(opened->stream);
    lines_read(opened->stream, &opened->attempt, &length);
    opened->attempt++;
    if (ftruncate(fileno(opened->stream), length) != 0) {
        status = fault_errno(fault, errno, "could not cut %s", opened->path);
        goto close_stream;
    }
    fseek(opened->stream, 0, SEEK_END);
    setvbuf(opened->stream, NULL, _IOLBF, BUFSIZ);
    *file = opened;
    return ST_OK;

close_stream:
    fclose(opened->stream);
free_file:
    free(opened);
    return status;
}

/* The shortest text that reads back as the same double. */
static void number_print(char text[NUMBER_BYTES], double value)
{
    if (!isfinite(value)) {
        snprintf(text, NUMBER_BYTES, "null");
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, NUMBER_BYTES, "%.*g", digits, value);
        if (strtod(text, NULL) == value) return;
    }
}

void metrics_file_add(struct metrics_file *file, uint64_t step, const char *name, double value,
                      uint64_t time_ms)
{
    char number[NUMBER_BYTES];
    number_print(number, value);
    int written = fprintf(file->stream,
                          "{\"attempt\":%" PRIu64 ",\"step\":%" PRIu64
                          ",\"name\":\"%s\",\"value\":%s,\"time_ms\":%" PRIu64 "}\n",
                          file->attempt, step, name, number, time_ms);
    if ((written > 0 && !ferror(file->stream)) || file->warned) return;
    log_warn("metrics-not-written", "could not write %s: %s", file->path, strerror(errno));
    file->warned = true;
}

void metrics_file_close(struct metrics_file *file)
{
    if (!file) return;
    if (fclose(file->stream) != 0 && !file->warned)
        log_warn("metrics-not-written", "could not write %s: %s", file->path, strerror(errno));
    free(file);
}
