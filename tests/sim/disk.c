#include "tests/sim/disk.h"

#include <sqlite3.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/memory.h"
#include "tests/sim/world.h"

enum {
    SECTOR_BYTES = 512,
    NAME_BYTES = 64,
    FILES_MAX = 8,
    SHARED_REGIONS_MAX = 16,
    PENDING_MAX =
        1024, /* writes between two syncs; those before count as having reached the disk */
};

struct image {
    unsigned char *bytes;
    size_t size, capacity;
};

struct range {
    size_t offset, length;
};

struct disk_file {
    char name[NAME_BYTES]; /* "": there is no such file */
    struct image seen;     /* through the page cache */
    struct image durable;  /* on the platter */
    struct range pending[PENDING_MAX];
    size_t pending_count;
    void *shared[SHARED_REGIONS_MAX]; /* the log's index, of the process that has it open */
};

/* A file that is open. */
struct handle {
    sqlite3_file base;
    struct disk_file *file;
};

static struct disk_file files[FILES_MAX];
static struct disk_file kept[FILES_MAX];

/* ---- images ---- */

static void image_resize(struct image *image, size_t size)
{
    if (size > image->capacity) {
        size_t capacity = image->capacity > 0 ? image->capacity : 4096;
        while (capacity < size) capacity *= 2;
        image->bytes = memory_grow(image->bytes, capacity);
        image->capacity = capacity;
    }
    if (size > image->size) memset(image->bytes + image->size, 0, size - image->size);
    image->size = size;
}

static void image_write(struct image *image, const void *bytes, size_t offset, size_t length)
{
    if (offset + length > image->size) image_resize(image, offset + length);
    memcpy(image->bytes + offset, bytes, length);
}

static void image_copy(struct image *to, const struct image *from)
{
    image_resize(to, from->size);
    if (from->size > 0) memcpy(to->bytes, from->bytes, from->size);
}

/* ---- files ---- */

static struct disk_file *file_find(const char *name)
{
    for (int i = 0; i < FILES_MAX; i++)
        if (files[i].name[0] != '\0' && strcmp(files[i].name, name) == 0) return &files[i];
    return NULL;
}

static struct disk_file *file_make(const char *name)
{
    for (int i = 0; i < FILES_MAX; i++) {
        if (files[i].name[0] != '\0') continue;
        text_copy(files[i].name, sizeof files[i].name, name);
        return &files[i];
    }
    return NULL;
}

static void file_forget_shared(struct disk_file *file)
{
    for (int i = 0; i < SHARED_REGIONS_MAX; i++) {
        free(file->shared[i]);
        file->shared[i] = NULL;
    }
}

/* Its memory stays, for the next file in this place. */
static void file_remove(struct disk_file *file)
{
    file->name[0] = '\0';
    file->seen.size = file->durable.size = file->pending_count = 0;
    file_forget_shared(file);
}

/* What the range shows now, as far as the file reaches. */
static void range_reach_disk(struct disk_file *file, size_t offset, size_t length)
{
    if (offset >= file->seen.size) return;
    if (offset + length > file->seen.size) length = file->seen.size - offset;
    image_write(&file->durable, file->seen.bytes + offset, offset, length);
}

static void file_sync(struct disk_file *file)
{
    for (size_t i = 0; i < file->pending_count; i++)
        range_reach_disk(file, file->pending[i].offset, file->pending[i].length);
    file->pending_count = 0;
    image_resize(&file->durable, file->seen.size);
}

static void file_lose_power(struct disk_file *file, struct chance *chance)
{
    for (size_t i = 0; i < file->pending_count; i++) {
        const struct range *range = &file->pending[i];
        for (size_t at = 0; at < range->length; at += SECTOR_BYTES) {
            size_t rest = range->length - at;
            if (chance_below(chance, 2) == 0)
                range_reach_disk(file, range->offset + at,
                                 rest < SECTOR_BYTES ? rest : SECTOR_BYTES);
        }
    }
    if (chance_below(chance, 2) == 0) image_resize(&file->durable, file->seen.size);
    file->pending_count = 0;
    image_copy(&file->seen, &file->durable);
}

void disk_lose_power(struct chance *chance)
{
    for (int i = 0; i < FILES_MAX; i++)
        if (files[i].name[0] != '\0') file_lose_power(&files[i], chance);
}

static void file_copy(struct disk_file *to, const struct disk_file *from)
{
    memcpy(to->name, from->name, sizeof to->name);
    image_copy(&to->seen, &from->seen);
    image_copy(&to->durable, &from->durable);
}

void disk_keep(void)
{
    for (int i = 0; i < FILES_MAX; i++) file_copy(&kept[i], &files[i]);
}

void disk_reset(void)
{
    for (int i = 0; i < FILES_MAX; i++) {
        file_remove(&files[i]);
        file_copy(&files[i], &kept[i]);
    }
}

/* ---- what SQLite calls: an open file ---- */

static struct disk_file *file_of(sqlite3_file *handle)
{
    return ((struct handle *)handle)->file;
}

static int disk_close(sqlite3_file *handle)
{
    (void)handle;
    return SQLITE_OK;
}

static int disk_read(sqlite3_file *handle, void *bytes, int length, sqlite3_int64 offset)
{
    const struct image *seen = &file_of(handle)->seen;
    size_t start = (size_t)offset, want = (size_t)length;
    size_t there = start < seen->size ? seen->size - start : 0;
    if (there > want) there = want;
    if (there > 0) memcpy(bytes, seen->bytes + start, there);
    memset((char *)bytes + there, 0, want - there);
    return there == want ? SQLITE_OK : SQLITE_IOERR_SHORT_READ;
}

static int disk_write(sqlite3_file *handle, const void *bytes, int length, sqlite3_int64 offset)
{
    struct disk_file *file = file_of(handle);
    if (!world_reach_out()) return SQLITE_IOERR_WRITE;
    if (world.disk_full && (size_t)offset + (size_t)length > file->seen.size) return SQLITE_FULL;
    if (file->pending_count == PENDING_MAX) file_sync(file);
    file->pending[file->pending_count++] = (struct range){(size_t)offset, (size_t)length};
    image_write(&file->seen, bytes, (size_t)offset, (size_t)length);
    return SQLITE_OK;
}

static int disk_truncate(sqlite3_file *handle, sqlite3_int64 size)
{
    if (!world_reach_out()) return SQLITE_IOERR_TRUNCATE;
    image_resize(&file_of(handle)->seen, (size_t)size);
    return SQLITE_OK;
}

/* After a sync that failed the kernel holds the pages for clean: they may never reach the disk. */
static int disk_sync(sqlite3_file *handle, int flags)
{
    (void)flags;
    struct disk_file *file = file_of(handle);
    if (!world_reach_out()) return SQLITE_IOERR_FSYNC;
    if (world_sync_fails()) {
        file->pending_count = 0;
        return SQLITE_IOERR_FSYNC;
    }
    file_sync(file);
    return SQLITE_OK;
}

static int disk_size(sqlite3_file *handle, sqlite3_int64 *size)
{
    *size = (sqlite3_int64)file_of(handle)->seen.size;
    return SQLITE_OK;
}

/* One process at a time: state_directory.c sees to that. */
static int disk_lock(sqlite3_file *handle, int level)
{
    (void)handle, (void)level;
    return SQLITE_OK;
}

static int disk_check_lock(sqlite3_file *handle, int *taken)
{
    (void)handle;
    *taken = 0;
    return SQLITE_OK;
}

static int disk_control(sqlite3_file *handle, int operation, void *argument)
{
    (void)handle, (void)operation, (void)argument;
    return SQLITE_NOTFOUND;
}

static int disk_sector_size(sqlite3_file *handle)
{
    (void)handle;
    return SECTOR_BYTES;
}

/* As SQLite holds of every Unix file system. */
static int disk_characteristics(sqlite3_file *handle)
{
    (void)handle;
    return SQLITE_IOCAP_POWERSAFE_OVERWRITE;
}

static int disk_map_shared(sqlite3_file *handle, int region, int size, int extend,
                           void volatile **memory)
{
    struct disk_file *file = file_of(handle);
    if (region >= SHARED_REGIONS_MAX) return SQLITE_IOERR_SHMMAP;
    if (!file->shared[region] && extend) file->shared[region] = memory_zeroed(1, (size_t)size);
    *memory = file->shared[region];
    return SQLITE_OK;
}

static int disk_lock_shared(sqlite3_file *handle, int offset, int count, int flags)
{
    (void)handle, (void)offset, (void)count, (void)flags;
    return SQLITE_OK;
}

static void disk_barrier(sqlite3_file *handle)
{
    (void)handle;
}

static int disk_unmap_shared(sqlite3_file *handle, int remove)
{
    (void)remove; /* nobody else has it */
    file_forget_shared(file_of(handle));
    return SQLITE_OK;
}

static const sqlite3_io_methods methods = {
    .iVersion = 2,
    .xClose = disk_close,
    .xRead = disk_read,
    .xWrite = disk_write,
    .xTruncate = disk_truncate,
    .xSync = disk_sync,
    .xFileSize = disk_size,
    .xLock = disk_lock,
    .xUnlock = disk_lock,
    .xCheckReservedLock = disk_check_lock,
    .xFileControl = disk_control,
    .xSectorSize = disk_sector_size,
    .xDeviceCharacteristics = disk_characteristics,
    .xShmMap = disk_map_shared,
    .xShmLock = disk_lock_shared,
    .xShmBarrier = disk_barrier,
    .xShmUnmap = disk_unmap_shared,
};

/* ---- what SQLite calls: the file system ---- */

static int disk_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *handle, int flags,
                     int *flags_out)
{
    (void)vfs;
    struct handle *opened = (struct handle *)handle;
    *opened = (struct handle){0};
    if (!name) return SQLITE_CANTOPEN; /* temporary tables stay in memory */
    opened->file = file_find(name);
    if (!opened->file && (flags & SQLITE_OPEN_CREATE)) {
        if (!world_reach_out()) return SQLITE_CANTOPEN;
        opened->file = file_make(name);
    }
    if (!opened->file) return SQLITE_CANTOPEN;
    opened->base.pMethods = &methods;
    if (flags_out) *flags_out = flags;
    return SQLITE_OK;
}

static int disk_delete(sqlite3_vfs *vfs, const char *name, int sync_directory)
{
    (void)vfs, (void)sync_directory;
    struct disk_file *file = file_find(name);
    if (!world_reach_out()) return SQLITE_IOERR_DELETE;
    if (!file) return SQLITE_IOERR_DELETE_NOENT;
    file_remove(file);
    return SQLITE_OK;
}

static int disk_access(sqlite3_vfs *vfs, const char *name, int flags, int *result)
{
    (void)vfs, (void)flags;
    *result = file_find(name) != NULL;
    return SQLITE_OK;
}

static int disk_full_path(sqlite3_vfs *vfs, const char *name, int size, char *path)
{
    (void)vfs;
    text_copy(path, (size_t)size, name);
    return SQLITE_OK;
}

/* What SQLite draws decides nothing here, but a history replays to the last byte. */
static int disk_randomness(sqlite3_vfs *vfs, int size, char *bytes)
{
    (void)vfs;
    memset(bytes, 0x5A, (size_t)size);
    return size;
}

static int disk_sleep(sqlite3_vfs *vfs, int microseconds)
{
    (void)vfs;
    return microseconds;
}

static int disk_time(sqlite3_vfs *vfs, double *julian_day)
{
    (void)vfs;
    *julian_day = 2440587.5;
    return SQLITE_OK;
}

void disk_install(void)
{
    static sqlite3_vfs vfs = {
        .iVersion = 1,
        .szOsFile = sizeof(struct handle),
        .mxPathname = NAME_BYTES - 16,
        .zName = "simulated",
        .xOpen = disk_open,
        .xDelete = disk_delete,
        .xAccess = disk_access,
        .xFullPathname = disk_full_path,
        .xRandomness = disk_randomness,
        .xSleep = disk_sleep,
        .xCurrentTime = disk_time,
    };
    sqlite3_vfs_register(&vfs, 1);
}
