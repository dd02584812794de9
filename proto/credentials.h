#ifndef PROTO_CREDENTIALS_H
#define PROTO_CREDENTIALS_H

/* What a client shows a daemon, from its environment: never from a command line, where everybody could read it. */

#include "proto/status.h"

struct credentials {
    char *token;       /* of $PERFORMERD_TOKEN or the file $PERFORMERD_TOKEN_FILE; "": none */
    char *authorities; /* certificates in PEM, of the file $PERFORMERD_TLS_CA; NULL: none */
};

/* The credentials are the caller's, to be freed. ST_NOT_PERMITTED: the token file can be read by others;
 * ST_NOT_FOUND, ST_INVALID (no token in it), ...: with the file's name and the cure. */
enum status credentials_load(struct credentials *credentials, struct fault *fault);

/* Zeroed ones may be freed. */
void credentials_free(struct credentials *credentials);

/* $NAME, NULL where it is not set or empty. Borrowed from the environment. */
const char *environment_variable(const char *name);

#endif
