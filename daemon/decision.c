#include "daemon/decision.h"

#include <assert.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include "daemon/memory.h"
#include "proto/utf8.h"

enum { BLOCK_BYTES = 4096 };

struct decision_block {
    struct decision_block *next;
    size_t used, size;
    _Alignas(max_align_t) unsigned char bytes[];
};

void decision_init(struct decision *decision, const char *name)
{
    *decision = (struct decision){.name = name, .answer.status = ST_OK};
}

void decision_fini(struct decision *decision)
{
    while (decision->blocks) {
        struct decision_block *next = decision->blocks->next;
        free(decision->blocks);
        decision->blocks = next;
    }
    free(decision->records);
    free(decision->effects);
    *decision = (struct decision){0};
}

struct record *decision_record(struct decision *decision, enum record_kind kind)
{
    if (decision->record_count == decision->record_capacity) {
        size_t capacity = decision->record_capacity > 0 ? 2 * decision->record_capacity : 8;
        decision->records = memory_grow(decision->records, capacity * sizeof *decision->records);
        decision->record_capacity = capacity;
    }
    struct record *record = &decision->records[decision->record_count++];
    *record = (struct record){.kind = kind};
    return record;
}

struct effect *decision_effect(struct decision *decision, enum effect_kind kind)
{
    if (decision->effect_count == decision->effect_capacity) {
        size_t capacity = decision->effect_capacity > 0 ? 2 * decision->effect_capacity : 2;
        decision->effects = memory_grow(decision->effects, capacity * sizeof *decision->effects);
        decision->effect_capacity = capacity;
    }
    struct effect *effect = &decision->effects[decision->effect_count++];
    *effect = (struct effect){.kind = kind};
    return effect;
}

void *decision_memory(struct decision *decision, size_t bytes)
{
    bytes = (bytes + _Alignof(max_align_t) - 1) / _Alignof(max_align_t) * _Alignof(max_align_t);
    struct decision_block *block = decision->blocks;
    if (!block || block->size - block->used < bytes) {
        size_t size = bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES;
        block = memory_grow(NULL, sizeof *block + size);
        *block = (struct decision_block){.next = decision->blocks, .size = size};
        decision->blocks = block;
    }
    void *memory = block->bytes + block->used;
    block->used += bytes;
    return memory;
}

char *decision_format(struct decision *decision, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    assert(length >= 0);
    char *text = decision_memory(decision, (size_t)length + 1);
    va_start(args, format);
    vsnprintf(text, (size_t)length + 1, format, args);
    va_end(args);
    return text;
}

static bool is_control(unsigned char byte, bool lines)
{
    if (lines && (byte == '\n' || byte == '\t')) return false;
    return byte < 0x20 || byte == 0x7F;
}

char *decision_clean(struct decision *decision, const char *text, size_t limit, bool lines)
{
    size_t length = text ? strnlen(text, limit) : 0;
    char *clean = decision_memory(decision, length + 1);
    if (length > 0) memcpy(clean, text, length);
    clean[length] = '\0';
    utf8_repair(clean);
    for (size_t i = 0; i < length; i++)
        if (is_control((unsigned char)clean[i], lines)) clean[i] = '?';
    return clean;
}
