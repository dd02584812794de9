#include "proto/wire.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "proto/utf8.h"

/*
 * What unpacking may take: a frame of empty sub-messages, two bytes each, would become fifty times its
 * size in memory. What we send ourselves stays below four times.
 */
enum { UNPACK_BYTES_MAX = 16 * WIRE_BYTES_MAX };

struct budget {
    size_t left;
    bool no_memory; /* it had room, and the machine had none */
};

static void *budget_alloc(void *context, size_t size)
{
    struct budget *budget = context;
    if (size > budget->left) return NULL;
    budget->left -= size;
    void *memory = malloc(size);
    budget->no_memory |= !memory;
    return memory;
}

static void budget_free(void *context, void *pointer)
{
    (void)context;
    free(pointer);
}

/* How many values a field holds, and where the first is. */
static size_t field_values(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field,
                           const void **first)
{
    const char *base = (const char *)message;
    const void *at = base + field->offset;
    if (field->label == PROTOBUF_C_LABEL_REPEATED) {
        memcpy(first, at, sizeof *first);
        size_t count;
        memcpy(&count, base + field->quantifier_offset, sizeof count);
        return count;
    }
    *first = at;
    if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) == 0) return 1;
    uint32_t which;
    memcpy(&which, base + field->quantifier_offset, sizeof which);
    return which == field->id ? 1 : 0;
}

/*
 * Texts go into a database, into JSON and onto terminals, and protobuf-c lets any bytes through. A log
 * line cut inside a letter must not make a rank's report unacceptable for ever, so they are mended
 * rather than refused: a bad byte becomes '?'. The depth is that of the schema.
 */
static void message_repair(ProtobufCMessage *message)
{
    const ProtobufCMessageDescriptor *type = message->descriptor;
    for (unsigned i = 0; i < type->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &type->fields[i];
        if (field->type != PROTOBUF_C_TYPE_STRING && field->type != PROTOBUF_C_TYPE_MESSAGE)
            continue;
        const void *first;
        size_t count = field_values(message, field, &first);
        void *const *values = first;
        for (size_t k = 0; k < count; k++) {
            if (!values[k]) continue;
            if (field->type == PROTOBUF_C_TYPE_MESSAGE)
                message_repair(values[k]);
            else if (((char *)values[k])[0] != '\0') /* the empty one is a constant */
                utf8_repair(values[k]);
        }
    }
}

static enum status message_pack(const ProtobufCMessage *message, uint8_t **bytes, size_t *length)
{
    size_t size = protobuf_c_message_get_packed_size(message);
    if (size > WIRE_BYTES_MAX) return ST_TOO_LARGE;
    uint8_t *packed = malloc(size);
    if (!packed) return ST_NO_MEMORY;
    *length = protobuf_c_message_pack(message, packed);
    *bytes = packed;
    return ST_OK;
}

static enum status message_unpack(const ProtobufCMessageDescriptor *type, const uint8_t *bytes,
                                  size_t length, ProtobufCMessage **message, struct fault *fault)
{
    if (length > WIRE_BYTES_MAX)
        return fault_set(fault, ST_TOO_LARGE, "a message of %zu bytes; the limit is %d", length,
                         WIRE_BYTES_MAX);
    struct budget budget = {.left = UNPACK_BYTES_MAX};
    ProtobufCAllocator allocator = {
        .alloc = budget_alloc, .free = budget_free, .allocator_data = &budget};
    ProtobufCMessage *unpacked = protobuf_c_message_unpack(type, &allocator, length, bytes);
    if (!unpacked && budget.no_memory)
        return fault_set(fault, ST_NO_MEMORY, "no memory for a message of %zu bytes", length);
    if (!unpacked)
        return fault_set(fault, ST_CORRUPT, "%zu bytes that are no %s message", length,
                         type->short_name);
    message_repair(unpacked);
    *message = unpacked;
    return ST_OK;
}

static enum status version_check(uint32_t version, struct fault *fault)
{
    if (version == PROTOCOL_VERSION) return ST_OK;
    return fault_set(fault, ST_UNSUPPORTED,
                     "the other side speaks protocol %u, this program (%s) speaks %d: use "
                     "performerd, performerctl and performer-worker of one version",
                     version, PERFORMERD_VERSION, PROTOCOL_VERSION);
}

enum status wire_pack_request(Performer__Request *request, uint8_t **bytes, size_t *length)
{
    request->version = PROTOCOL_VERSION;
    return message_pack(&request->base, bytes, length);
}

enum status wire_pack_response(Performer__Response *response, uint8_t **bytes, size_t *length)
{
    response->version = PROTOCOL_VERSION;
    return message_pack(&response->base, bytes, length);
}

enum status wire_unpack_request(const uint8_t *bytes, size_t length, Performer__Request **request,
                                struct fault *fault)
{
    ProtobufCMessage *message = NULL;
    enum status status =
        message_unpack(&performer__request__descriptor, bytes, length, &message, fault);
    if (status != ST_OK) return status;
    *request = (Performer__Request *)message;
    return ST_OK;
}

enum status wire_check_request(const Performer__Request *request, struct fault *fault)
{
    enum status status = version_check(request->version, fault);
    if (status == ST_OK && request->body_case == PERFORMER__REQUEST__BODY__NOT_SET)
        status = fault_set(fault, ST_UNSUPPORTED, "a request that asks for nothing known here");
    return status;
}

enum status wire_unpack_response(const uint8_t *bytes, size_t length,
                                 Performer__Response **response, struct fault *fault)
{
    ProtobufCMessage *message = NULL;
    enum status status =
        message_unpack(&performer__response__descriptor, bytes, length, &message, fault);
    if (status != ST_OK) return status;
    Performer__Response *unpacked = (Performer__Response *)message;
    status = version_check(unpacked->version, fault);
    if (status == ST_OK && unpacked->status == ST_OK &&
        unpacked->body_case == PERFORMER__RESPONSE__BODY__NOT_SET)
        status = fault_set(fault, ST_UNSUPPORTED, "an answer that holds nothing known here");
    if (status != ST_OK) {
        performer__response__free_unpacked(unpacked, NULL);
        return status;
    }
    *response = unpacked;
    return ST_OK;
}
