#include "worker/byte_source.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <zlib.h>

enum { PIECE_BYTES = 1 << 18 };

struct byte_source {
    gzFile file;
    const char *path;
    uint8_t piece[PIECE_BYTES];
};

static enum status source_fault(struct byte_source *source, struct fault *fault)
{
    int code = Z_OK;
    const char *words = gzerror(source->file, &code);
    switch (code) {
    case Z_ERRNO:
        return fault_errno(fault, errno, "could not read %s", source->path);
    case Z_MEM_ERROR:
        return fault_set(fault, ST_NO_MEMORY, "read %s: out of memory", source->path);
    case Z_BUF_ERROR:
        return fault_set(fault, ST_BAD_DATA,
                         "%s ends in the middle of its gzip stream; fetch the file again",
                         source->path);
    default:
        return fault_set(fault, ST_BAD_DATA,
                         "%s holds a damaged gzip stream (%s); fetch the file again", source->path,
                         words);
    }
}

enum status byte_source_open(const char *path, struct byte_source **source, struct fault *fault)
{
    struct stat about;
    if (stat(path, &about) != 0) return fault_errno(fault, errno, "could not open %s", path);
    if (S_ISDIR(about.st_mode))
        return fault_set(fault, ST_BAD_DATA, "%s is a directory; name one file in it", path);

    struct byte_source *opened = malloc(sizeof *opened);
    if (!opened) return fault_set(fault, ST_NO_MEMORY, "open %s: out of memory", path);
    opened->path = path;
    errno = 0;
    opened->file = gzopen(path, "rbe");
    if (!opened->file) {
        int error = errno != 0 ? errno : ENOMEM; /* zlib's own failure leaves no errno */
        free(opened);
        return fault_errno(fault, error, "could not open %s", path);
    }
    gzbuffer(opened->file, PIECE_BYTES);
    *source = opened;
    return ST_OK;
}

enum status byte_source_read(struct byte_source *source, const uint8_t **bytes, size_t *length,
                             struct fault *fault)
{
    int got = gzread(source->file, source->piece, PIECE_BYTES);
    if (got < 0) return source_fault(source, fault);
    if (got < PIECE_BYTES) {
        /* A stream that was cut gives what it has, and says so only when asked. */
        int code = Z_OK;
        gzerror(source->file, &code);
        if (code != Z_OK && code != Z_STREAM_END) return source_fault(source, fault);
    }
    *bytes = source->piece;
    *length = (size_t)got;
    return ST_OK;
}

void byte_source_close(struct byte_source *source)
{
    if (!source) return;
    gzclose(source->file);
    free(source);
}
