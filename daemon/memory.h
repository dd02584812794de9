#ifndef DAEMON_MEMORY_H
#define DAEMON_MEMORY_H

/*
 * Memory that must be there: a decision that has been committed cannot be half applied. Where there
 * is none the process ends, and its next start finds everything in the store.
 */

#include <stdlib.h>
#include <string.h>

static inline void *memory_grow(void *items, size_t bytes)
{
    void *grown = realloc(items, bytes > 0 ? bytes : 1);
    if (!grown) abort();
    return grown;
}

static inline void *memory_zeroed(size_t count, size_t size)
{
    void *items = calloc(count > 0 ? count : 1, size);
    if (!items) abort();
    return items;
}

/* Copies what fits into `size` bytes, the NUL included; never leaves half a UTF-8 character. */
static inline void text_copy(char *to, size_t size, const char *from)
{
    size_t length = from ? strnlen(from, size) : 0;
    if (length >= size) {
        length = size - 1;
        while (length > 0 && ((unsigned char)from[length] & 0xC0) == 0x80) length--;
    }
    if (length > 0) memcpy(to, from, length);
    to[length] = '\0';
}

#endif
