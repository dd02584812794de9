#ifndef DAEMON_ACCESS_H
#define DAEMON_ACCESS_H

/*
 * Who asks. A connection over a socket of this machine proves a uid: the daemon's own and root's are served. Anybody else
 * shows a token with each request, and the token file says whose it is:
 *
 *   # user  token, of 16 bytes or more  its last day, by UTC; none: it does not end
 *   alice   5f0c...
 *   bob     91d2...                     2027-12-31
 *
 * A user may have several. The file is read at the start alone.
 */

#include <stdbool.h>
#include <sys/types.h>

#include "proto/status.h"

enum { USER_SIZE = 64, PEER_SIZE = 64 };

/* The other end of a connection, as far as the connection proves it. */
struct peer {
    char name[PEER_SIZE]; /* "uid 1000", "10.0.0.7": what limits and log go by */
    bool local;           /* `uid` is the kernel's word */
    uid_t uid;
};

/* Who stands behind a request. */
struct caller {
    char user[USER_SIZE];
    bool admin; /* all runs are theirs to command */
};

struct access;

/*
 * `token_file` NULL: no tokens; `admin_group` NULL: nobody but the daemon's user and root has all rights. Members of the
 * group are looked up here, once. The access is the caller's, to be closed. ST_NOT_PERMITTED: others can read the file;
 * ST_INVALID: a line that is none, or no such group; ST_NOT_FOUND, ...: each with place and cure.
 */
enum status access_open(const char *token_file, const char *admin_group, struct access **access,
                        struct fault *fault);
void access_close(struct access *access);

/* "" is no token. ST_NOT_PERMITTED: neither the peer nor the token is known, or its last day is over; nothing tells
 * which. */
enum status access_identify(const struct access *access, const struct peer *peer, const char *token,
                            struct caller *caller);

#endif
