#include "proto/status.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *status_text(enum status status)
{
    switch (status) {
#define STATUS_CASE(name, number, text) \
    case name:                          \
        return text;
        STATUS_LIST(STATUS_CASE)
#undef STATUS_CASE
    }
    return "unknown status";
}

const char *status_name(enum status status)
{
    static const struct {
        enum status status;
        char name[24];
    } names[] = {
#define STATUS_NAME(name, number, text) {name, #name},
        STATUS_LIST(STATUS_NAME)
#undef STATUS_NAME
    };
    static _Thread_local char lower[sizeof names[0].name];

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (names[i].status != status) continue;
        const char *name = names[i].name + strlen("ST_");
        size_t length = 0;
        for (; name[length] != '\0'; length++) lower[length] = (char)tolower(name[length]);
        lower[length] = '\0';
        return lower;
    }
    return "unknown";
}

enum status status_from_errno(int error)
{
    switch (error) {
    case ENOENT:
        return ST_NOT_FOUND;
    case EACCES:
    case EPERM:
        return ST_NOT_PERMITTED;
    case ENOMEM:
        return ST_NO_MEMORY;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return ST_NO_SPACE;
    case EIO:
        return ST_IO;
    default:
        return ST_SYSTEM;
    }
}

enum status fault_set_at(struct fault *fault, enum status status, const char *file, int line,
                         const char *format, ...)
{
    if (!fault) return status;
    fault->status = status;
    fault->file = file;
    fault->line = line;
    va_list args;
    va_start(args, format);
    vsnprintf(fault->text, sizeof fault->text, format, args);
    va_end(args);
    return status;
}

enum status fault_errno_at(struct fault *fault, int error, const char *file, int line,
                           const char *format, ...)
{
    char text[sizeof fault->text - 80];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return fault_set_at(fault, status_from_errno(error), file, line, "%s: %s", text,
                        strerror(error));
}

/* As much of `more` as there is room for. */
static void text_append(char *text, size_t size, const char *more)
{
    const size_t used = strlen(text), length = strnlen(more, size - 1 - used);
    memcpy(text + used, more, length);
    text[used + length] = '\0';
}

enum status fault_wrap(struct fault *fault, const char *format, ...)
{
    if (!fault) return ST_INTERNAL;
    char inner[sizeof fault->text];
    memcpy(inner, fault->text, sizeof inner);
    va_list args;
    va_start(args, format);
    vsnprintf(fault->text, sizeof fault->text, format, args);
    va_end(args);
    text_append(fault->text, sizeof fault->text, ": ");
    text_append(fault->text, sizeof fault->text, inner);
    return fault->status;
}
