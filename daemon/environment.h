#ifndef DAEMON_ENVIRONMENT_H
#define DAEMON_ENVIRONMENT_H

/*
 * RUN/attempt-A/environment: how the ranks of an attempt find the daemon, and prove whose they are. Lines KEY=VALUE, the
 * value as it is up to the end of the line: no quotes, no escapes, no comments. It holds a secret, so its mode is 0600,
 * and what it says is never on a command line and never in a log.
 *
 * performer-launch puts these variables into the environment of the ranks (environment_load), under mpirun and under Slurm.
 */

#include "proto/status.h"

/* How ranks reach the daemon. */
struct way_in {
    const char *url;         /* NULL: there is none */
    const char *certificate; /* PEM text that they are to trust; NULL: it needs none */
};

/* V(member, key) */
#define ENVIRONMENT(V)           \
    V(url, "PERFORMERD_URL")     \
    V(token, "PERFORMERD_TOKEN") \
    V(tls_ca, "PERFORMERD_TLS_CA")

/* Texts are borrowed; NULL: the line is left out. */
struct environment {
#define ENVIRONMENT_MEMBER(member, key) const char *member;
    ENVIRONMENT(ENVIRONMENT_MEMBER)
#undef ENVIRONMENT_MEMBER
};

/* Durable. ST_INVALID: a value holds a newline. */
enum status environment_write(const char *attempt_directory, const struct environment *environment,
                              struct fault *fault);

/* Sets the file's variables in this process; what they were before is replaced. */
enum status environment_load(const char *attempt_directory, struct fault *fault);

#endif
