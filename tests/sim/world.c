#include "tests/sim/world.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "daemon/memory.h"
#include "proto/durable.h"
#include "proto/logline.h"

struct world world;
void (*world_violated)(const char *words);

static const uint64_t WALL_MS = UINT64_C(1700000000000);

/* ---- memory ---- */

struct block {
    struct block *next;
    max_align_t bytes[];
};

void *world_memory(size_t bytes)
{
    struct block *block = memory_zeroed(1, sizeof *block + bytes);
    block->next = world.blocks;
    world.blocks = block;
    return block->bytes;
}

void *world_copy(const void *bytes, size_t length)
{
    char *copy = world_memory(length + 1);
    if (length > 0) memcpy(copy, bytes, length);
    return copy;
}

/* ---- what will happen: a heap, by time, then in the order in which it was put in ---- */

struct entry {
    uint64_t at_ms, order;
    world_act *act;
    void *what;
    uint64_t stamp;
};

struct agenda {
    struct entry *entries;
    size_t count, capacity;
    uint64_t order;
};

static struct agenda agenda; /* keeps its memory from one world to the next */

static bool entry_before(const struct entry *a, const struct entry *b)
{
    return a->at_ms != b->at_ms ? a->at_ms < b->at_ms : a->order < b->order;
}

static void entries_swap(struct entry *a, struct entry *b)
{
    struct entry c = *a;
    *a = *b;
    *b = c;
}

void world_in(uint64_t delay_ms, world_act *act, void *what, uint64_t stamp)
{
    if (agenda.count == agenda.capacity) {
        agenda.capacity = agenda.capacity > 0 ? 2 * agenda.capacity : 256;
        agenda.entries = memory_grow(agenda.entries, agenda.capacity * sizeof *agenda.entries);
    }
    size_t place = agenda.count++;
    agenda.entries[place] =
        (struct entry){world.now_ms + delay_ms, agenda.order++, act, what, stamp};
    for (; place > 0; place = (place - 1) / 2) {
        struct entry *parent = &agenda.entries[(place - 1) / 2];
        if (!entry_before(&agenda.entries[place], parent)) return;
        entries_swap(&agenda.entries[place], parent);
    }
}

static struct entry agenda_take(void)
{
    struct entry first = agenda.entries[0];
    agenda.entries[0] = agenda.entries[--agenda.count];
    for (size_t place = 0;;) {
        size_t least = place;
        for (size_t child = 2 * place + 1; child <= 2 * place + 2; child++)
            if (child < agenda.count &&
                entry_before(&agenda.entries[child], &agenda.entries[least]))
                least = child;
        if (least == place) return first;
        entries_swap(&agenda.entries[place], &agenda.entries[least]);
        place = least;
    }
}

bool world_step(uint64_t until_ms)
{
    if (agenda.count == 0 || agenda.entries[0].at_ms > until_ms) {
        world.now_ms = until_ms;
        return false;
    }
    struct entry next = agenda_take();
    world.now_ms = next.at_ms;
    next.act(next.what, next.stamp);
    return true;
}

/* ---- beginning and end ---- */

void world_begin(uint64_t seed)
{
    world = (struct world){.seed = seed, .chance = {seed}, .trace = world.trace, .now_ms = 60000};
    agenda.count = 0;
    agenda.order = 0;
}

void world_end(void)
{
    while (world.blocks) {
        struct block *block = world.blocks;
        world.blocks = block->next;
        free(block);
    }
}

/* ---- weather ---- */

bool world_strikes(unsigned per_mille)
{
    return !world.calm && per_mille > 0 && chance_hits(&world.chance, per_mille);
}

bool world_reach_out(void)
{
    if (!world.reaching_out) return true;
    if (world.dead) return false;
    if (world.deeds_left > 0 && --world.deeds_left == 0) {
        world.dead = true;
        world_trace("the daemon dies in the middle of something");
    }
    return !world.dead;
}

bool world_sync_fails(void)
{
    if (!world.reaching_out || !world.sync_fails) return false;
    world.sync_fails = false;
    world.sync_failed = world.disk_lies = true;
    world_trace("a sync fails");
    return true;
}

uint64_t world_wall_ms(void)
{
    return (uint64_t)((int64_t)(WALL_MS + world.now_ms) + world.wall_offset_ms);
}

/* ---- words ---- */

void world_trace(const char *format, ...)
{
    if (!world.trace) return;
    printf("%9.3f  ", (double)world.now_ms / 1e3);
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
}

void world_violation(const char *format, ...)
{
    char words[400];
    va_list args;
    va_start(args, format);
    vsnprintf(words, sizeof words, format, args);
    va_end(args);
    world_violated(words);
    _exit(EXIT_FAILURE);
}

/* ---- what the product's code asks of the machine ---- */

int __wrap_clock_gettime(clockid_t clock, struct timespec *time);
ssize_t __wrap_getrandom(void *bytes, size_t size, unsigned flags);
int __wrap_unlink(const char *path);
enum status __wrap_durable_write(const char *path, const void *bytes, size_t length,
                                 struct fault *fault);
enum status __wrap_make_directories(const char *path, struct fault *fault);
enum status __wrap_write_fully(int fd, const void *bytes, size_t length, const char *path,
                               struct fault *fault);
void __wrap_log_line(enum log_level level, const char *id, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

int __real_unlink(const char *path);
enum status __real_durable_write(const char *path, const void *bytes, size_t length,
                                 struct fault *fault);
enum status __real_make_directories(const char *path, struct fault *fault);
enum status __real_write_fully(int fd, const void *bytes, size_t length, const char *path,
                               struct fault *fault);

int __wrap_clock_gettime(clockid_t clock, struct timespec *time)
{
    uint64_t ms = clock == CLOCK_REALTIME ? world_wall_ms() : world.now_ms - world.boot_ms;
    *time =
        (struct timespec){.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
    return 0;
}

ssize_t __wrap_getrandom(void *bytes, size_t size, unsigned flags)
{
    (void)flags;
    for (size_t i = 0; i < size; i++) ((uint8_t *)bytes)[i] = (uint8_t)chance_word(&world.chance);
    return (ssize_t)size;
}

int __wrap_unlink(const char *path)
{
    if (world_reach_out()) return __real_unlink(path);
    errno = EIO;
    return -1;
}

static enum status dead_or_full(const char *path, struct fault *fault)
{
    if (!world_reach_out()) return fault_set(fault, ST_IO, "nobody is there to write %s", path);
    if (world.disk_full) return fault_set(fault, ST_NO_SPACE, "no space for %s", path);
    return ST_OK;
}

enum status __wrap_durable_write(const char *path, const void *bytes, size_t length,
                                 struct fault *fault)
{
    enum status status = dead_or_full(path, fault);
    return status == ST_OK ? __real_durable_write(path, bytes, length, fault) : status;
}

/* That a directory is there already needs no space. */
enum status __wrap_make_directories(const char *path, struct fault *fault)
{
    enum status status = access(path, F_OK) == 0 ? ST_OK : dead_or_full(path, fault);
    return status == ST_OK ? __real_make_directories(path, fault) : status;
}

enum status __wrap_write_fully(int fd, const void *bytes, size_t length, const char *path,
                               struct fault *fault)
{
    enum status status = dead_or_full(path, fault);
    return status == ST_OK ? __real_write_fully(fd, bytes, length, path, fault) : status;
}

void __wrap_log_line(enum log_level level, const char *id, const char *format, ...)
{
    (void)level;
    if (!world.trace) return;
    char words[600];
    va_list args;
    va_start(args, format);
    vsnprintf(words, sizeof words, format, args);
    va_end(args);
    world_trace("%s%s: %s", world.dead && world.reaching_out ? "(unheard) " : "", id, words);
}
