/* Requests and responses as they come from a network: what is taken can be said again. */

#include <assert.h>
#include <stdlib.h>

#include "proto/wire.h"
#include "tests/fuzz/input.h"

static void request(const uint8_t *bytes, size_t length)
{
    Performer__Request *first, *second;
    struct fault fault;
    uint8_t *packed;
    if (wire_unpack_request(bytes, length, &first, &fault) != ST_OK) return;
    wire_check_request(first, &fault);
    if (wire_pack_request(first, &packed, &length) == ST_OK) {
        assert(wire_unpack_request(packed, length, &second, &fault) == ST_OK);
        performer__request__free_unpacked(second, NULL);
        free(packed);
    }
    performer__request__free_unpacked(first, NULL);
}

static void response(const uint8_t *bytes, size_t length)
{
    Performer__Response *first, *second;
    struct fault fault;
    uint8_t *packed;
    if (wire_unpack_response(bytes, length, &first, &fault) != ST_OK) return;
    if (wire_pack_response(first, &packed, &length) == ST_OK) {
        assert(wire_unpack_response(packed, length, &second, &fault) == ST_OK);
        performer__response__free_unpacked(second, NULL);
        free(packed);
    }
    performer__response__free_unpacked(first, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    request(bytes, length);
    response(bytes, length);
    return 0;
}
