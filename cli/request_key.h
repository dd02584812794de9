#ifndef CLI_REQUEST_KEY_H
#define CLI_REQUEST_KEY_H

/* What makes a request one: with the same key the daemon does it once, however often it comes. */

#include "proto/status.h"

struct request_key {
    char text[33]; /* 128 bits of chance in hexadecimal */
};

enum status request_key_make(struct request_key *key, struct fault *fault);

#endif
