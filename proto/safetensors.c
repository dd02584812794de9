#include "proto/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/durable.h"

enum {
    LENGTH_BYTES = 8,
    ALIGNMENT = 8,
    /* Some 40 000 tensors. JSON takes up to 40 times its text in memory, so this is a limit on that too. */
    HEADER_BYTES_MAX = 4 << 20,
};

/* T(enumerator, name in the file, bytes of an element) */
#define TENSOR_TYPES(T)     \
    T(TENSOR_F32, "F32", 4) \
    T(TENSOR_F64, "F64", 8) \
    T(TENSOR_I64, "I64", 8) \
    T(TENSOR_I32, "I32", 4) \
    T(TENSOR_U8, "U8", 1)   \
    T(TENSOR_BOOL, "BOOL", 1)

static const struct {
    const char *name;
    size_t bytes;
} types[] = {
#define TYPE_ROW(enumerator, name, bytes) [enumerator] = {name, bytes},
    TENSOR_TYPES(TYPE_ROW)
#undef TYPE_ROW
};
#define TYPE_NAME(enumerator, name, bytes) name " "
static const char type_names[] = TENSOR_TYPES(TYPE_NAME);
#undef TYPE_NAME

struct safetensors {
    const char *path; /* of the caller, while opening */
    const char *map;
    size_t map_bytes;
    size_t data_offset, data_bytes;
    size_t count;
    struct tensor_entry *entries;
    json_t *metadata; /* NULL: none */
};

#define corrupt(file, fault, ...) corrupt_at(file, fault, __LINE__, __VA_ARGS__)

static enum status corrupt_at(const struct safetensors *file, struct fault *fault, int line,
                              const char *format, ...) __attribute__((format(printf, 4, 5)));

static enum status corrupt_at(const struct safetensors *file, struct fault *fault, int line,
                              const char *format, ...)
{
    char text[240];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (char *c = text; *c != '\0'; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f) *c = '?';
    return fault_set_at(fault, ST_CORRUPT, __FILE__, line, "%s: %s", file->path, text);
}

static bool type_from_name(const char *name, enum tensor_type *type)
{
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (strcmp(types[i].name, name) != 0) continue;
        *type = (enum tensor_type)i;
        return true;
    }
    return false;
}

/* Elements times bytes of one, false where that does not fit in a size_t. */
static bool tensor_bytes(const struct tensor_entry *entry, size_t *bytes)
{
    size_t product = types[entry->type].bytes;
    for (int i = 0; i < entry->dimensions; i++)
        if (__builtin_mul_overflow(product, (size_t)entry->shape[i], &product)) return false;
    *bytes = product;
    return true;
}

static enum status read_shape(const struct safetensors *file, const json_t *shape,
                              struct tensor_entry *entry, struct fault *fault)
{
    if (!json_is_array(shape)) return corrupt(file, fault, "tensor `%s` has no shape", entry->name);
    size_t dimensions = json_array_size(shape);
    if (dimensions > TENSOR_DIMENSIONS_MAX)
        return corrupt(file, fault, "tensor `%s` has %zu dimensions, the limit is %d", entry->name,
                       dimensions, TENSOR_DIMENSIONS_MAX);
    entry->dimensions = (int)dimensions;
    for (size_t i = 0; i < dimensions; i++) {
        const json_t *size = json_array_get(shape, i);
        if (!json_is_integer(size) || json_integer_value(size) < 0)
            return corrupt(file, fault, "size %zu in the shape of tensor `%s` is no size", i,
                           entry->name);
        entry->shape[i] = json_integer_value(size);
    }
    return ST_OK;
}

static enum status read_offsets(const struct safetensors *file, const json_t *offsets,
                                struct tensor_entry *entry, struct fault *fault)
{
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last))
        return corrupt(file, fault, "tensor `%s` has no pair of data_offsets", entry->name);
    json_int_t begin = json_integer_value(first), end = json_integer_value(last);
    if (begin < 0 || end < begin || (uint64_t)end > file->data_bytes)
        return corrupt(file, fault, "tensor `%s` lies at %lld ... %lld of %zu bytes of data",
                       entry->name, (long long)begin, (long long)end, file->data_bytes);
    size_t bytes;
    if (!tensor_bytes(entry, &bytes) || bytes != (size_t)(end - begin))
        return corrupt(file, fault, "tensor `%s` has %lld bytes, which its shape does not give",
                       entry->name, (long long)(end - begin));
    entry->bytes = bytes;
    entry->data = file->map + file->data_offset + begin;
    return ST_OK;
}

static enum status read_entry(const struct safetensors *file, const char *name, json_t *object,
                              struct tensor_entry *entry, struct fault *fault)
{
    size_t length = strlen(name);
    if (length == 0 || length >= sizeof entry->name)
        return corrupt(file, fault, "a tensor's name has %zu bytes, allowed are 1 to %zu", length,
                       sizeof entry->name - 1);
    memcpy(entry->name, name, length + 1);
    const char *type = json_string_value(json_object_get(object, "dtype"));
    if (!type) return corrupt(file, fault, "tensor `%s` has no dtype", name);
    if (!type_from_name(type, &entry->type))
        return corrupt(file, fault, "tensor `%s` has dtype `%.20s`; known are: %s", name, type,
                       type_names);
    if (json_object_size(object) != 3)
        return corrupt(file, fault, "tensor `%s` has more than dtype, shape and data_offsets",
                       name);
    enum status status = read_shape(file, json_object_get(object, "shape"), entry, fault);
    if (status != ST_OK) return status;
    return read_offsets(file, json_object_get(object, "data_offsets"), entry, fault);
}

static enum status read_metadata(struct safetensors *file, json_t *metadata, struct fault *fault)
{
    const char *key;
    json_t *value;
    if (!json_is_object(metadata)) return corrupt(file, fault, "__metadata__ is no object");
    json_object_foreach(metadata, key, value)
    {
        if (!json_is_string(value))
            return corrupt(file, fault, "the value of `%.60s` in __metadata__ is no text", key);
    }
    file->metadata = json_incref(metadata);
    return ST_OK;
}

static enum status read_header(struct safetensors *file, json_t *header, struct fault *fault)
{
    const char *name;
    json_t *value;
    if (!json_is_object(header)) return corrupt(file, fault, "the header is no JSON object");
    file->entries = calloc(json_object_size(header) + 1, sizeof file->entries[0]);
    if (!file->entries) return fault_set(fault, ST_NO_MEMORY, "no memory to open %s", file->path);
    json_object_foreach(header, name, value)
    {
        bool metadata = strcmp(name, "__metadata__") == 0;
        enum status status =
            metadata ? read_metadata(file, value, fault)
                     : read_entry(file, name, value, &file->entries[file->count], fault);
        if (status != ST_OK) return status;
        if (!metadata) file->count++;
    }
    return ST_OK;
}

static int compare_place(const void *a, const void *b)
{
    const struct tensor_entry *left = a, *right = b;
    const char *left_data = left->data, *right_data = right->data;
    if (left_data != right_data) return left_data < right_data ? -1 : 1;
    if (left->bytes != right->bytes) return left->bytes < right->bytes ? -1 : 1;
    return strcmp(left->name, right->name);
}

/* Puts the entries in the order of the data, and sees that each byte of it belongs to exactly one. */
static enum status check_cover(struct safetensors *file, struct fault *fault)
{
    const char *data = file->map + file->data_offset;
    size_t covered = 0;
    qsort(file->entries, file->count, sizeof file->entries[0], compare_place);
    for (size_t i = 0; i < file->count; i++) {
        const struct tensor_entry *entry = &file->entries[i];
        size_t begin = (size_t)((const char *)entry->data - data);
        if (begin < covered)
            return corrupt(file, fault, "tensor `%s` at %zu overlaps the one before it, `%s`",
                           entry->name, begin, file->entries[i - 1].name);
        if (begin > covered)
            return corrupt(file, fault, "bytes %zu ... %zu of the data belong to no tensor",
                           covered, begin);
        covered = begin + entry->bytes;
    }
    if (covered != file->data_bytes)
        return corrupt(file, fault, "bytes %zu ... %zu of the data belong to no tensor", covered,
                       file->data_bytes);
    return ST_OK;
}

static enum status map_file(struct safetensors *file, struct fault *fault)
{
    int fd = open(file->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return fault_errno(fault, errno, "could not open %s", file->path);
    struct stat info;
    enum status status = ST_OK;
    if (fstat(fd, &info) != 0)
        status = fault_errno(fault, errno, "could not open %s", file->path);
    else if (!S_ISREG(info.st_mode))
        status = corrupt(file, fault, "this is no regular file");
    else if (info.st_size < LENGTH_BYTES)
        status = corrupt(file, fault, "%lld bytes are too few for a safetensors file",
                         (long long)info.st_size);
    if (status != ST_OK) goto close_fd;

    void *map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED) {
        status = fault_errno(fault, errno, "could not map %s", file->path);
        goto close_fd;
    }
    file->map = map;
    file->map_bytes = (size_t)info.st_size;
close_fd:
    close(fd);
    return status;
}

static enum status measure_header(struct safetensors *file, struct fault *fault)
{
    uint64_t length = 0;
    for (int i = 0; i < LENGTH_BYTES; i++)
        length |= (uint64_t)(unsigned char)file->map[i] << (8 * i);
    size_t room = file->map_bytes - LENGTH_BYTES;
    if (length > room)
        return corrupt(file, fault, "the header is said to have %llu bytes, the file holds %zu",
                       (unsigned long long)length, room);
    if (length > HEADER_BYTES_MAX)
        return corrupt(file, fault, "the header has %llu bytes, the limit is %d",
                       (unsigned long long)length, HEADER_BYTES_MAX);
    file->data_offset = LENGTH_BYTES + (size_t)length;
    file->data_bytes = room - (size_t)length;
    return ST_OK;
}

static enum status read_file(struct safetensors *file, struct fault *fault)
{
    enum status status = map_file(file, fault);
    if (status != ST_OK) return status;
    status = measure_header(file, fault);
    if (status != ST_OK) return status;
    json_error_t error;
    json_t *header = json_loadb(file->map + LENGTH_BYTES, file->data_offset - LENGTH_BYTES,
                                JSON_REJECT_DUPLICATES, &error);
    if (!header)
        return corrupt(file, fault, "the header is no JSON, at byte %d: %s", error.position,
                       error.text);
    status = read_header(file, header, fault);
    json_decref(header);
    if (status != ST_OK) return status;
    return check_cover(file, fault);
}

enum status safetensors_open(const char *path, struct safetensors **file, struct fault *fault)
{
    struct safetensors *opened = calloc(1, sizeof *opened);
    if (!opened) return fault_set(fault, ST_NO_MEMORY, "no memory to open %s", path);
    opened->path = path;
    enum status status = read_file(opened, fault);
    if (status != ST_OK) {
        safetensors_close(opened);
        return status;
    }
    opened->path = NULL;
    *file = opened;
    return ST_OK;
}

void safetensors_close(struct safetensors *file)
{
    if (!file) return;
    if (file->map) munmap((void *)file->map, file->map_bytes);
    json_decref(file->metadata);
    free(file->entries);
    free(file);
}

size_t safetensors_count(const struct safetensors *file)
{
    return file->count;
}

const struct tensor_entry *safetensors_at(const struct safetensors *file, size_t index)
{
    return &file->entries[index];
}

const struct tensor_entry *safetensors_find(const struct safetensors *file, const char *name)
{
    for (size_t i = 0; i < file->count; i++)
        if (strcmp(file->entries[i].name, name) == 0) return &file->entries[i];
    return NULL;
}

const char *safetensors_metadata(const struct safetensors *file, const char *key)
{
    return json_string_value(json_object_get(file->metadata, key));
}

/* {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, NULL when out of memory. */
static json_t *describe_entry(const struct tensor_entry *entry, size_t offset)
{
    json_t *shape = json_array();
    for (int i = 0; i < entry->dimensions; i++) {
        if (json_array_append_new(shape, json_integer(entry->shape[i])) == 0) continue;
        json_decref(shape);
        return NULL;
    }
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", types[entry->type].name, "shape", shape,
                     "data_offsets", (json_int_t)offset, (json_int_t)(offset + entry->bytes));
}

static enum status describe_entries(json_t *header, const struct tensor_entry *entries,
                                    size_t count, struct fault *fault)
{
    size_t offset = 0;
    for (size_t i = 0; i < count; i++) {
        const struct tensor_entry *entry = &entries[i];
        size_t bytes;
        if (!tensor_bytes(entry, &bytes) || bytes != entry->bytes)
            return fault_set(fault, ST_INVALID, "tensor `%s`: %zu bytes are not its shape",
                             entry->name, entry->bytes);
        if (offset % types[entry->type].bytes != 0)
            return fault_set(fault, ST_INVALID,
                             "tensor `%s` would not be aligned: wider types come first",
                             entry->name);
        if (json_object_get(header, entry->name))
            return fault_set(fault, ST_INVALID, "two tensors of the name `%s`", entry->name);
        json_t *described = describe_entry(entry, offset);
        if (!described) return fault_set(fault, ST_NO_MEMORY, "no memory for a header");
        if (json_object_set_new(header, entry->name, described) != 0)
            return fault_set(fault, ST_INVALID, "tensor `%s` cannot be named in JSON", entry->name);
        offset += bytes;
    }
    return ST_OK;
}

static enum status describe_metadata(json_t *header, const struct metadata_entry *metadata,
                                     size_t count, struct fault *fault)
{
    if (count == 0) return ST_OK;
    json_t *object = json_object();
    for (size_t i = 0; i < count; i++)
        if (json_object_set_new(object, metadata[i].key, json_string(metadata[i].value)) != 0) {
            json_decref(object);
            return fault_set(fault, ST_INVALID, "metadata `%s` cannot be written as JSON",
                             metadata[i].key);
        }
    if (json_object_set_new(header, "__metadata__", object) != 0)
        return fault_set(fault, ST_NO_MEMORY, "no memory for a header");
    return ST_OK;
}

/* The length, the JSON, and spaces up to the alignment of the data. */
static enum status pack_header(const json_t *header, char **bytes, size_t *length,
                               struct fault *fault)
{
    const size_t flags = JSON_COMPACT;
    size_t json_bytes = json_dumpb(header, NULL, 0, flags);
    size_t padded = (json_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (json_bytes == 0 || padded > HEADER_BYTES_MAX)
        return fault_set(fault, ST_TOO_LARGE, "a header of %zu bytes, the limit is %d", padded,
                         HEADER_BYTES_MAX);
    char *packed = malloc(LENGTH_BYTES + padded);
    if (!packed) return fault_set(fault, ST_NO_MEMORY, "no memory for a header");
    for (int i = 0; i < LENGTH_BYTES; i++) packed[i] = (char)((uint64_t)padded >> (8 * i));
    if (json_dumpb(header, packed + LENGTH_BYTES, json_bytes, flags) != json_bytes) {
        free(packed);
        return fault_set(fault, ST_NO_MEMORY, "no memory for a header");
    }
    memset(packed + LENGTH_BYTES + json_bytes, ' ', padded - json_bytes);
    *bytes = packed;
    *length = LENGTH_BYTES + padded;
    return ST_OK;
}

static enum status write_file(const char *path, const char *header, size_t header_bytes,
                              const struct tensor_entry *entries, size_t count, struct fault *fault)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return fault_errno(fault, errno, "could not create %s", path);
    struct stat info;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        /* A device could take the bytes, but must not be removed when it does not. */
        close(fd);
        return fault_set(fault, ST_INVALID, "could not create %s: it is no regular file", path);
    }
    enum status status = write_fully(fd, header, header_bytes, path, fault);
    for (size_t i = 0; status == ST_OK && i < count; i++) {
        status = write_fully(fd, entries[i].data, entries[i].bytes, path, fault);
        /* The disk begins while the next is copied. Where it does not, no matter: the sync is what counts. */
        sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
    }
    if (status == ST_OK && fsync(fd) != 0)
        status = fault_errno(fault, errno, "could not sync %s", path);
    if (close(fd) != 0 && errno != EINTR && status == ST_OK)
        status = fault_errno(fault, errno, "could not close %s", path);
    if (status != ST_OK) unlink(path);
    return status;
}

enum status safetensors_write(const char *path, const struct tensor_entry *entries, size_t count,
                              const struct metadata_entry *metadata, size_t metadata_count,
                              struct fault *fault)
{
    json_t *header = json_object();
    if (!header) return fault_set(fault, ST_NO_MEMORY, "no memory for a header");
    char *bytes = NULL;
    size_t length = 0;
    enum status status = describe_metadata(header, metadata, metadata_count, fault);
    if (status == ST_OK) status = describe_entries(header, entries, count, fault);
    if (status == ST_OK) status = pack_header(header, &bytes, &length, fault);
    json_decref(header);
    if (status != ST_OK) return fault_wrap(fault, "could not write %s", path);
    status = write_file(path, bytes, length, entries, count, fault);
    free(bytes);
    return status;
}
