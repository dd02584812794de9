#include "proto/credentials.h"

#include <stdlib.h>
#include <string.h>

#include "proto/durable.h"
#include "proto/secret.h"

enum { TOKEN_FILE_BYTES_MAX = 4096, PEM_BYTES_MAX = 1 << 18 };

const char *environment_variable(const char *name)
{
    const char *value = getenv(name);
    return value && value[0] != '\0' ? value : NULL;
}

/* The first line of the file, in place. */
static enum status token_read(const char *path, char **token, struct fault *fault)
{
    char *text;
    enum status status = secret_read(path, TOKEN_FILE_BYTES_MAX, &text, fault);
    if (status != ST_OK) return fault_wrap(fault, "PERFORMERD_TOKEN_FILE");
    text[strcspn(text, "\r\n")] = '\0';
    if (text[0] == '\0') {
        free(text);
        return fault_set(fault, ST_INVALID, "PERFORMERD_TOKEN_FILE: %s holds no token", path);
    }
    *token = text;
    return ST_OK;
}

static enum status authorities_read(char **authorities, struct fault *fault)
{
    const char *path = environment_variable("PERFORMERD_TLS_CA");
    size_t length;
    if (!path) return ST_OK;
    enum status status = file_read(path, PEM_BYTES_MAX, authorities, &length, fault);
    return status == ST_OK ? ST_OK : fault_wrap(fault, "PERFORMERD_TLS_CA");
}

enum status credentials_load(struct credentials *credentials, struct fault *fault)
{
    const char *token = environment_variable("PERFORMERD_TOKEN");
    const char *path = environment_variable("PERFORMERD_TOKEN_FILE");
    struct credentials loaded = {0};
    enum status status = ST_OK;
    if (!token && path)
        status = token_read(path, &loaded.token, fault);
    else if (!(loaded.token = strdup(token ? token : "")))
        status = fault_set(fault, ST_NO_MEMORY, "no memory for a token");
    if (status == ST_OK) status = authorities_read(&loaded.authorities, fault);
    if (status == ST_OK)
        *credentials = loaded;
    else
        credentials_free(&loaded);
    return status;
}

void credentials_free(struct credentials *credentials)
{
    free(credentials->token);
    free(credentials->authorities);
    *credentials = (struct credentials){0};
}
