#ifndef PROTO_WIRE_H
#define PROTO_WIRE_H

/* Requests and responses as bytes: packing, unpacking with limits, and the protocol's version. No I/O. */

#include <stddef.h>
#include <stdint.h>

#include "proto/performer.pb-c.h"
#include "proto/status.h"

enum { PROTOCOL_VERSION = 1 };

/* No message is larger, in either direction; nng is told so on every socket, since its own limit is none. */
enum { WIRE_BYTES_MAX = 1 << 20 };

/* `*bytes` is the caller's, to be freed. ST_TOO_LARGE, ST_NO_MEMORY. The version is filled in. */
enum status wire_pack_request(Performer__Request *request, uint8_t **bytes, size_t *length);
enum status wire_pack_response(Performer__Response *response, uint8_t **bytes, size_t *length);

/* The message is the caller's, to be freed with performer__request__free_unpacked(request, NULL).
 * ST_TOO_LARGE, ST_NO_MEMORY, ST_CORRUPT (not a message), and of a response ST_UNSUPPORTED (another version, or no body).
 * Texts come out as valid UTF-8, a bad byte replaced by '?'. */
enum status wire_unpack_request(const uint8_t *bytes, size_t length, Performer__Request **request,
                                struct fault *fault);

enum status wire_unpack_response(const uint8_t *bytes, size_t length,
                                 Performer__Response **response, struct fault *fault);

/* What is asked of a request once it is known whose it is. ST_UNSUPPORTED: another version, or no body. */
enum status wire_check_request(const Performer__Request *request, struct fault *fault);

#endif
