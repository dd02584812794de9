#include "daemon/doors.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/durable.h"
#include "proto/secret.h"

enum { PEM_BYTES_MAX = 1 << 18 };

static bool is_network(const char *url)
{
    return endpoint_socket_path(url) == NULL;
}

/* The first URL of the kind; NULL: none. */
static const char *first_url(const struct doors *doors, bool network)
{
    for (int i = 0; i < doors->url_count; i++)
        if (is_network(doors->urls[i]) == network) return doors->urls[i];
    return NULL;
}

static enum status check_together(const struct options *options, const struct doors *doors,
                                  struct fault *fault)
{
    bool network = first_url(doors, true);
    bool given = options->tls_cert || options->tls_key;
    bool whole = options->tls_cert && options->tls_key && options->token_file;
    if (given && !network)
        return fault_set(fault, ST_INVALID,
                         "--tls-cert and --tls-key are of use with --listen tls+tcp://HOST:PORT "
                         "alone: add one");
    if (given && !whole)
        return fault_set(fault, ST_INVALID,
                         "--tls-cert, --tls-key and --token-file go together: %s is missing",
                         !options->tls_cert  ? "--tls-cert"
                         : !options->tls_key ? "--tls-key"
                                             : "--token-file");
    if (options->advertise && !network)
        return fault_set(fault, ST_INVALID,
                         "--advertise %s: the daemon listens on no network; add --listen "
                         "tls+tcp://HOST:PORT",
                         options->advertise);
    return ST_OK;
}

static enum status read_certificate(const struct options *options, struct doors *doors,
                                    struct fault *fault)
{
    size_t length;
    if (!options->tls_cert) return ST_OK;
    enum status status =
        file_read(options->tls_cert, PEM_BYTES_MAX, &doors->certificate, &length, fault);
    if (status != ST_OK) return fault_wrap(fault, "--tls-cert");
    status = secret_read(options->tls_key, PEM_BYTES_MAX, &doors->key, fault);
    return status == ST_OK ? ST_OK : fault_wrap(fault, "--tls-key");
}

static bool is_tls(const char *url)
{
    return strncmp(url, "tls+tcp://", strlen("tls+tcp://")) == 0;
}

/* An address that means all of them is none to connect to. */
static bool is_anywhere(const char *tls_url)
{
    const char *host = tls_url + strlen("tls+tcp://");
    return strncmp(host, "0.0.0.0:", 8) == 0 || strncmp(host, "[::]:", 5) == 0 ||
           strncmp(host, "*:", 2) == 0 || host[0] == ':';
}

static enum status find_ways(const struct options *options, struct doors *doors,
                             struct fault *fault)
{
    const char *local = first_url(doors, false);
    const char *remote = options->advertise ? options->advertise : first_url(doors, true);
    if (options->advertise && !is_tls(options->advertise))
        return fault_set(fault, ST_INVALID, "--advertise %s: write tls+tcp://HOST:PORT",
                         options->advertise);
    if (remote && is_tls(remote) && is_anywhere(remote))
        return fault_set(fault, ST_INVALID,
                         "%s is no address that ranks could connect to: say which with --advertise "
                         "tls+tcp://HOST:PORT",
                         remote);
    doors->remote = (struct way_in){remote, doors->certificate};
    doors->local = local ? (struct way_in){local, NULL} : doors->remote;
    return ST_OK;
}

enum status doors_open(const struct options *options, const char *state_directory,
                       struct doors *doors, struct fault *fault)
{
    *doors = (struct doors){.url_count = options->listen_count};
    memcpy(doors->urls, options->listen, sizeof doors->urls);
    if (doors->url_count == 0) {
        options_default_url(state_directory, doors->url_default, sizeof doors->url_default);
        doors->urls[doors->url_count++] = doors->url_default;
    }
    enum status status = check_together(options, doors, fault);
    if (status == ST_OK) status = read_certificate(options, doors, fault);
    if (status == ST_OK) status = find_ways(options, doors, fault);
    if (status == ST_OK)
        status = access_open(options->token_file, options->admin_group, &doors->access, fault);
    if (status != ST_OK) doors_close(doors);
    return status;
}

void doors_close(struct doors *doors)
{
    access_close(doors->access);
    free(doors->certificate);
    free(doors->key);
    *doors = (struct doors){0};
}

static enum status make_socket_directory(const char *path, struct fault *fault)
{
    char directory[PATH_MAX];
    if (path[0] != '/') return ST_OK; /* the endpoint says what is wrong */
    snprintf(directory, sizeof directory, "%s", path);
    char *slash = strrchr(directory, '/');
    slash[slash == directory ? 1 : 0] = '\0';
    return make_directories(directory, fault);
}

enum status doors_listen(const struct doors *doors, struct endpoint *endpoint, struct fault *fault)
{
    const struct endpoint_tls tls = {doors->certificate, doors->key};
    enum status status = ST_OK;
    for (int i = 0; i < doors->url_count && status == ST_OK; i++) {
        const char *path = endpoint_socket_path(doors->urls[i]);
        if (path) status = make_socket_directory(path, fault);
        if (status == ST_OK)
            status = endpoint_listen(endpoint, doors->urls[i], doors->key ? &tls : NULL, fault);
    }
    return status;
}
