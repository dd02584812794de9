#ifndef DAEMON_RESPONSE_H
#define DAEMON_RESPONSE_H

/*
 * Responses under construction: messages of protobuf-c on the heap, all freed with the response. What is
 * built here is bounded by WIRE_BYTES_MAX; where there is no memory for it the process ends (daemon/memory.h).
 */

#include <stddef.h>

#include "proto/performer.pb-c.h"
#include "proto/status.h"

struct caller;

/* A request, who asks, and what is answered. */
struct asked {
    const struct caller *caller;
    const Performer__Request *request;
    Performer__Response *response;
};

/* ST_OK, no body yet. */
Performer__Response *response_new(void);

/* No body, and words for a person. */
Performer__Response *response_refuse(enum status status, const char *text);

/* A copy of the text; NULL gives "". */
char *message_text(const char *text);

/* Puts a message behind a repeated field: message_append(&list->runs, &list->n_runs, run). */
#define message_append(items, count, item) message_append_at((void ***)(items), (count), (item))
void message_append_at(void ***items, size_t *count, void *item);

/* Frees messages from the front of a repeated field until the rest takes at most `bytes_max` packed. */
#define messages_keep_last(items, count, bytes_max) \
    messages_keep_last_at((void **)(items), (count), (bytes_max))
void messages_keep_last_at(void **items, size_t *count, size_t bytes_max);

/* What the message adds to a repeated field, at most. */
size_t message_bytes(const ProtobufCMessage *message);

#endif
