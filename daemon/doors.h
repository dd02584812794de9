#ifndef DAEMON_DOORS_H
#define DAEMON_DOORS_H

/* Where the daemon listens, who is let in, and which way its own ranks are told to come. */

#include "daemon/access.h"
#include "daemon/endpoint.h"
#include "daemon/environment.h"
#include "daemon/options.h"

struct doors {
    char url_default[OPTION_TEXT_MAX + 64];
    const char *urls[LISTEN_MAX];
    int url_count;
    char *certificate, *key; /* PEM texts, NULL: none */
    struct access *access;
    struct way_in local, remote; /* for ranks on this machine, and on others */
};

/* Reads what the options name, opens nothing. The doors are the caller's, to be closed; `options` is borrowed. A fault names
 * the option and the cure. */
enum status doors_open(const struct options *options, const char *state_directory,
                       struct doors *doors, struct fault *fault);
void doors_close(struct doors *doors);

/* Makes the directories of sockets where they are missing, mode 0700, and listens everywhere. */
enum status doors_listen(const struct doors *doors, struct endpoint *endpoint, struct fault *fault);

#endif
