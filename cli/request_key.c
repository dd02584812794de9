#include "cli/request_key.h"

#include <errno.h>
#include <stdio.h>
#include <sys/random.h>

enum status request_key_make(struct request_key *key, struct fault *fault)
{
    unsigned char bytes[sizeof key->text / 2];

    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        return fault_errno(fault, errno, "could not make a random key");
    for (size_t i = 0; i < sizeof bytes; i++) snprintf(key->text + 2 * i, 3, "%02x", bytes[i]);
    return ST_OK;
}
