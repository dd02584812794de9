#include "daemon/spool.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "proto/wire.h"

/* The next length; ST_NOT_FOUND at the end of the file. */
static enum status read_length(FILE *file, const char *path, size_t *length, struct fault *fault)
{
    unsigned char bytes[4];
    size_t got = fread(bytes, 1, sizeof bytes, file);
    if (got == 0 && feof(file)) return ST_NOT_FOUND;
    if (ferror(file)) return fault_errno(fault, errno, "could not read %s", path);
    uint32_t value = (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 |
                     (uint32_t)bytes[3] << 24;
    if (got < sizeof bytes || value > WIRE_BYTES_MAX)
        return fault_set(fault, ST_CORRUPT, "%s: no whole report at byte %ld", path,
                         ftell(file) - (long)got);
    *length = value;
    return ST_OK;
}

static enum status read_report(FILE *file, const char *path, size_t length,
                               Performer__Report **report, struct fault *fault)
{
    uint8_t *bytes = malloc(length > 0 ? length : 1);
    if (!bytes) return fault_set(fault, ST_NO_MEMORY, "no memory to read %s", path);
    bool whole = fread(bytes, 1, length, file) == length;
    Performer__Report *found = whole ? performer__report__unpack(NULL, length, bytes) : NULL;
    free(bytes);
    if (!found)
        return fault_set(fault, ST_CORRUPT, "%s: no whole report before byte %ld", path,
                         ftell(file));
    *report = found;
    return ST_OK;
}

enum status spool_read(const char *path, spool_told *told, void *context, struct fault *fault)
{
    FILE *file = fopen(path, "rbe");
    if (!file && errno == ENOENT) return ST_OK;
    if (!file) return fault_errno(fault, errno, "could not open %s", path);
    enum status status;
    for (size_t length = 0; (status = read_length(file, path, &length, fault)) == ST_OK;) {
        Performer__Report *report = NULL;
        status = read_report(file, path, length, &report, fault);
        if (status != ST_OK) break;
        status = told(context, report);
        performer__report__free_unpacked(report, NULL);
        if (status != ST_OK) break;
    }
    fclose(file);
    return status == ST_NOT_FOUND ? ST_OK : status;
}
