#include "tests/faults/platter.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/sim/chance.h"

enum {
    NODES_MAX = 256,
    NAMES_MAX = 512,
    NAME_BYTES = 64,
    FILES_MAX = 256, /* open ones */
    DEEDS_MAX = 1024,
    FILE_BYTES = 1 << 16,
    SECTOR_BYTES = 512,
    NOBODY = -1,
    ROOT = 0,
};

/* Files and directories, whatever they are called. */
struct node {
    bool is_directory;
};

struct name {
    int directory; /* a node */
    char name[NAME_BYTES];
    int node; /* NOBODY: there is none of that name */
};

struct names {
    struct name list[NAMES_MAX];
    size_t count;
};

enum deed_kind { DEED_NAMES, DEED_WRITE, DEED_SYNC };

struct deed {
    enum deed_kind kind;
    int node;              /* written or synced */
    struct name change[2]; /* at once; the second may have no name */
    size_t offset, length;
    char *bytes;
};

static struct {
    char root[PATH_MAX];
    struct node nodes[NODES_MAX];
    int node_count;
    struct names names; /* as the program sees them */
    int open[FILES_MAX];
    size_t written[FILES_MAX];
    struct deed deeds[DEEDS_MAX];
    size_t length;
} platter;

/* ---- names ---- */

static int *name_find(struct names *names, int directory, const char *name)
{
    for (size_t i = 0; i < names->count; i++)
        if (names->list[i].directory == directory && strcmp(names->list[i].name, name) == 0)
            return &names->list[i].node;
    return NULL;
}

static void name_set(struct names *names, const struct name *change)
{
    if (change->name[0] == '\0') return;
    int *found = name_find(names, change->directory, change->name);
    if (found) {
        *found = change->node;
        return;
    }
    assert(names->count < NAMES_MAX);
    names->list[names->count++] = *change;
}

/* The name that `path` ends in, and the node of that name; false: it lies elsewhere. */
static bool resolve(const char *path, struct name *last)
{
    size_t root = strlen(platter.root);
    if (root == 0 || strncmp(path, platter.root, root) != 0) return false;
    *last = (struct name){.node = ROOT};
    for (const char *part = path + root; *part != '\0';) {
        part += strspn(part, "/");
        size_t length = strcspn(part, "/");
        if (length == 0) break;
        assert(length < NAME_BYTES && last->node != NOBODY);
        last->directory = last->node;
        memcpy(last->name, part, length);
        last->name[length] = '\0';
        const int *node = name_find(&platter.names, last->directory, last->name);
        last->node = node ? *node : NOBODY;
        part += length;
    }
    return true;
}

/* ---- what is done ---- */

static struct deed *deed_add(enum deed_kind kind, int node)
{
    assert(platter.length < DEEDS_MAX);
    struct deed *deed = &platter.deeds[platter.length++];
    *deed = (struct deed){.kind = kind, .node = node};
    return deed;
}

static void note_names(struct name one, struct name other)
{
    struct deed *deed = deed_add(DEED_NAMES, NOBODY);
    deed->change[0] = one;
    deed->change[1] = other;
    name_set(&platter.names, &one);
    name_set(&platter.names, &other);
}

static void note_made(const char *path, bool is_directory)
{
    struct name name;
    if (!resolve(path, &name) || name.node != NOBODY) return;
    assert(platter.node_count < NODES_MAX);
    name.node = platter.node_count++;
    platter.nodes[name.node].is_directory = is_directory;
    note_names(name, (struct name){0});
}

static void note_removed(const char *path)
{
    struct name name;
    if (!resolve(path, &name)) return;
    name.node = NOBODY;
    note_names(name, (struct name){0});
}

/* With what was at `to` at `from` afterwards, or nothing. */
static void note_renamed(const char *from, const char *to, bool exchanged)
{
    struct name source, target;
    if (!resolve(from, &source) || !resolve(to, &target)) return;
    int moved = source.node;
    source.node = exchanged ? target.node : NOBODY;
    target.node = moved;
    note_names(source, target);
}

static void note_open(int file, const char *path)
{
    struct name name;
    if (file < 0 || !resolve(path, &name)) return;
    assert(file < FILES_MAX);
    platter.open[file] = name.node;
    platter.written[file] = 0;
}

static int node_of(int file)
{
    return platter.root[0] != '\0' && file >= 0 && file < FILES_MAX ? platter.open[file] : NOBODY;
}

static void note_written(int file, const void *bytes, size_t length)
{
    if (node_of(file) == NOBODY || length == 0) return;
    struct deed *deed = deed_add(DEED_WRITE, node_of(file));
    deed->offset = platter.written[file];
    deed->length = length;
    deed->bytes = malloc(length);
    assert(deed->bytes && deed->offset + length <= FILE_BYTES);
    memcpy(deed->bytes, bytes, length);
    platter.written[file] += length;
}

void platter_record(const char *root)
{
    platter.nodes[ROOT].is_directory = true;
    platter.node_count = 1;
    for (int i = 0; i < FILES_MAX; i++) platter.open[i] = NOBODY;
    snprintf(platter.root, sizeof platter.root, "%s", root);
}

size_t platter_length(void)
{
    return platter.length;
}

/* ---- what a power cut leaves ---- */

/* True where a later sync of the node, before `length`, makes the deed certain. */
static bool synced(size_t deed, size_t length, int node)
{
    for (size_t i = deed + 1; i < length; i++)
        if (platter.deeds[i].kind == DEED_SYNC && platter.deeds[i].node == node) return true;
    return false;
}

static void sectors_keep(const struct deed *deed, bool certain, unsigned keeps,
                         struct chance *chance, char *bytes, size_t *size)
{
    for (size_t at = 0; at < deed->length;) {
        size_t offset = deed->offset + at;
        size_t part = SECTOR_BYTES - offset % SECTOR_BYTES;
        if (part > deed->length - at) part = deed->length - at;
        if (certain || chance_below(chance, 256) < keeps) {
            memcpy(bytes + offset, deed->bytes + at, part);
            if (offset + part > *size) *size = offset + part;
        }
        at += part;
    }
}

static void file_make(int node, size_t length, unsigned keeps, struct chance *chance,
                      const char *path)
{
    static char bytes[FILE_BYTES];
    size_t size = 0;
    memset(bytes, 0, sizeof bytes);
    for (size_t i = 0; i < length; i++) {
        const struct deed *deed = &platter.deeds[i];
        if (deed->kind == DEED_WRITE && deed->node == node)
            sectors_keep(deed, synced(i, length, node), keeps, chance, bytes, &size);
    }
    FILE *file = fopen(path, "wb");
    assert(file);
    fwrite(bytes, 1, size, file);
    fclose(file);
}

static void directory_fill(const struct names *names, int directory, size_t length, unsigned keeps,
                           struct chance *chance, const char *path)
{
    for (size_t i = 0; i < names->count; i++) {
        const struct name *name = &names->list[i];
        char inner[PATH_MAX];
        if (name->directory != directory || name->node == NOBODY) continue;
        int bytes = snprintf(inner, sizeof inner, "%s/%s", path, name->name);
        assert(bytes < PATH_MAX);
        if (!platter.nodes[name->node].is_directory) {
            file_make(name->node, length, keeps, chance, inner);
            continue;
        }
        int failed = mkdir(inner, 0700);
        assert(!failed);
        directory_fill(names, name->node, length, keeps, chance, inner);
    }
}

void platter_cut(size_t length, unsigned keeps, uint64_t seed, const char *to)
{
    static struct names names;
    struct chance chance = {seed};
    names.count = 0;
    for (size_t i = 0; i < length; i++) {
        const struct deed *deed = &platter.deeds[i];
        if (deed->kind != DEED_NAMES) continue;
        if (synced(i, length, deed->change[0].directory) || chance_below(&chance, 256) < keeps)
            for (int k = 0; k < 2; k++) name_set(&names, &deed->change[k]);
    }
    directory_fill(&names, ROOT, length, keeps, &chance, to);
}

/* ---- in place of the real calls ---- */

int __real_mkdir(const char *path, mode_t mode);
int __wrap_mkdir(const char *path, mode_t mode);
int __real_mkostemp(char *path, int flags);
int __wrap_mkostemp(char *path, int flags);
int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
ssize_t __real_write(int file, const void *bytes, size_t length);
ssize_t __wrap_write(int file, const void *bytes, size_t length);
int __real_fsync(int file);
int __wrap_fsync(int file);
int __real_close(int file);
int __wrap_close(int file);
int __real_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to);
int __real_renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags);
int __wrap_renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags);
int __real_unlink(const char *path);
int __wrap_unlink(const char *path);
int __real_remove(const char *path);
int __wrap_remove(const char *path);

int __wrap_mkdir(const char *path, mode_t mode)
{
    int failed = __real_mkdir(path, mode);
    if (!failed) note_made(path, true);
    return failed;
}

int __wrap_mkostemp(char *path, int flags)
{
    int file = __real_mkostemp(path, flags);
    if (file >= 0) note_made(path, false);
    note_open(file, path);
    return file;
}

int __wrap_open(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    int file = __real_open(path, flags, mode);
    if (file >= 0 && (flags & O_CREAT)) note_made(path, false);
    note_open(file, path);
    return file;
}

ssize_t __wrap_write(int file, const void *bytes, size_t length)
{
    ssize_t written = __real_write(file, bytes, length);
    if (written > 0) note_written(file, bytes, (size_t)written);
    return written;
}

int __wrap_fsync(int file)
{
    int failed = __real_fsync(file);
    if (!failed && node_of(file) != NOBODY) deed_add(DEED_SYNC, node_of(file));
    return failed;
}

int __wrap_close(int file)
{
    if (node_of(file) != NOBODY) platter.open[file] = NOBODY;
    return __real_close(file);
}

int __wrap_rename(const char *from, const char *to)
{
    int failed = __real_rename(from, to);
    if (!failed) note_renamed(from, to, false);
    return failed;
}

int __wrap_renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags)
{
    int failed = __real_renameat2(from_at, from, to_at, to, flags);
    if (!failed) note_renamed(from, to, flags & RENAME_EXCHANGE);
    return failed;
}

int __wrap_unlink(const char *path)
{
    int failed = __real_unlink(path);
    if (!failed) note_removed(path);
    return failed;
}

int __wrap_remove(const char *path)
{
    int failed = __real_remove(path);
    if (!failed) note_removed(path);
    return failed;
}
