#include "daemon/environment.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/durable.h"

enum { PATH_BYTES_MAX = 4200, TEXT_BYTES_MAX = 16384 };

static void environment_path(const char *attempt_directory, char path[PATH_BYTES_MAX])
{
    snprintf(path, PATH_BYTES_MAX, "%s/environment", attempt_directory);
}

static enum status add_line(char *text, const char *key, const char *value, struct fault *fault)
{
    size_t length = strlen(text);
    if (strchr(value, '\n'))
        return fault_set(fault, ST_INVALID, "%s cannot hold a newline: %s", key, value);
    if (snprintf(text + length, TEXT_BYTES_MAX - length, "%s=%s\n", key, value) >=
        (int)(TEXT_BYTES_MAX - length))
        return fault_set(fault, ST_TOO_LARGE, "%s is too long", key);
    return ST_OK;
}

enum status environment_write(const char *attempt_directory, const struct environment *environment,
                              struct fault *fault)
{
    char text[TEXT_BYTES_MAX] = "", path[PATH_BYTES_MAX];
    enum status status = ST_OK;
#define ENVIRONMENT_ADD(member, key)            \
    if (status == ST_OK && environment->member) \
        status = add_line(text, key, environment->member, fault);
    ENVIRONMENT(ENVIRONMENT_ADD)
#undef ENVIRONMENT_ADD
    if (status != ST_OK) return status;
    environment_path(attempt_directory, path);
    return durable_write(path, text, strlen(text), fault);
}

enum status environment_load(const char *attempt_directory, struct fault *fault)
{
    char path[PATH_BYTES_MAX], *text;
    size_t length;
    environment_path(attempt_directory, path);
    enum status status = file_read(path, TEXT_BYTES_MAX, &text, &length, fault);
    if (status != ST_OK) return status;
    char *rest = text;
    for (char *line; status == ST_OK && (line = strsep(&rest, "\n"));) {
        char *value = strchr(line, '=');
        if (line[0] == '\0') continue;
        if (value) *value++ = '\0';
        if (!value || setenv(line, value, 1) != 0)
            status = fault_set(fault, ST_CORRUPT, "%s has a line that is not KEY=VALUE", path);
    }
    free(text);
    return status;
}
