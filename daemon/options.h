#ifndef DAEMON_OPTIONS_H
#define DAEMON_OPTIONS_H

/* The command line of performerd; made from options.def. */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "proto/status.h"

enum { LISTEN_MAX = 8, RANKS_MAX = 4096, OPTION_TEXT_MAX = 3072 };

struct options {
    char state[OPTION_TEXT_MAX];
    const char *runs; /* NULL: STATE/runs */
    const char *listen[LISTEN_MAX];
    int listen_count;                            /* 0: see options_default_url */
    const char *tls_cert, *tls_key, *token_file; /* files; NULL: not given */
    const char *admin_group, *advertise;         /* the same */
    uint32_t ranks_max;
    bool foreground, help, version;
};

/* Texts are borrowed from argv. ST_INVALID: with words that name the option and the cure. ST_UNSUPPORTED: an option
 * that is not built yet. */
enum status options_parse(int argc, char **argv, struct options *options, struct fault *fault);

void options_help(FILE *out);

/* ipc://$XDG_RUNTIME_DIR/performerd.sock, else the socket in the state directory. */
void options_default_url(const char *state_directory, char *url, size_t size);

#endif
