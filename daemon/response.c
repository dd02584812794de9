#include "daemon/response.h"

#include <stdbool.h>
#include <string.h>

#include "daemon/memory.h"

Performer__Response *response_new(void)
{
    Performer__Response *response = memory_zeroed(1, sizeof *response);
    performer__response__init(response);
    return response;
}

Performer__Response *response_refuse(enum status status, const char *text)
{
    Performer__Response *response = response_new();
    response->status = (int32_t)status;
    response->text = message_text(text);
    return response;
}

char *message_text(const char *text)
{
    size_t size = text ? strlen(text) + 1 : 1;
    char *copy = memory_grow(NULL, size);
    text_copy(copy, size, text);
    return copy;
}

void message_append_at(void ***items, size_t *count, void *item)
{
    bool full = (*count & (*count - 1)) == 0; /* room doubles at each power of two */
    if (full) *items = memory_grow(*items, (*count == 0 ? 1 : *count * 2) * sizeof **items);
    (*items)[(*count)++] = item;
}

size_t message_bytes(const ProtobufCMessage *message)
{
    enum { TAG_AND_LENGTH = 6 };
    return protobuf_c_message_get_packed_size(message) + TAG_AND_LENGTH;
}

void messages_keep_last_at(void **items, size_t *count, size_t bytes_max)
{
    size_t first = *count;
    for (size_t bytes = 0; first > 0; first--) {
        bytes += message_bytes(items[first - 1]);
        if (bytes > bytes_max) break;
    }
    for (size_t i = 0; i < first; i++) protobuf_c_message_free_unpacked(items[i], NULL);
    *count -= first;
    if (first > 0) memmove(items, items + first, *count * sizeof *items);
}
