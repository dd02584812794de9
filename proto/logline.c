#include "proto/logline.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const level_names[] = {
    [LOG_ERROR] = "error",
    [LOG_WARN] = "warn",
    [LOG_INFO] = "info",
    [LOG_DEBUG] = "debug",
};

static atomic_int threshold = LOG_INFO;
static pthread_once_t environment_once = PTHREAD_ONCE_INIT;
static char line_context[128];

static void read_environment(void)
{
    const char *wanted = getenv("PERFORMERD_LOG");
    if (!wanted) return;
    for (int level = LOG_ERROR; level <= LOG_DEBUG; level++)
        if (strcmp(wanted, level_names[level]) == 0) atomic_store(&threshold, level);
}

void log_context(const char *context)
{
    snprintf(line_context, sizeof line_context, "%s", context);
}

void log_set_level(enum log_level level)
{
    /* First, so that the environment does not win over the call later. */
    pthread_once(&environment_once, read_environment);
    atomic_store(&threshold, (int)level);
}

static size_t format_time(char *text, size_t size)
{
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t length = strftime(text, size, "%Y-%m-%dT%H:%M:%S", &utc);
    return length +
           (size_t)snprintf(text + length, size - length, ".%03ldZ", now.tv_nsec / 1000000);
}

/* What an entry says may come from a file or a peer: it stays one line, and cannot steer a terminal. */
static void flatten(char *text)
{
    for (; *text != '\0'; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7f) *text = ' ';
}

void log_line(enum log_level level, const char *id, const char *format, ...)
{
    pthread_once(&environment_once, read_environment);
    if ((int)level > atomic_load(&threshold)) return;

    char line[1024];
    size_t length = format_time(line, sizeof line);
    length +=
        (size_t)snprintf(line + length, sizeof line - length, " %s %s%s%s: ", level_names[level],
                         line_context, line_context[0] ? " " : "", id);
    if (length > sizeof line - 2) length = sizeof line - 2;
    va_list args;
    va_start(args, format);
    vsnprintf(line + length, sizeof line - 1 - length, format, args);
    va_end(args);
    flatten(line);
    length = strlen(line);
    line[length++] = '\n';
    /* One write, so that lines of threads and of ranks that share a file do not mix. Nobody can be told
     * that the log cannot be written. */
    ssize_t written = write(STDERR_FILENO, line, length);
    (void)written;
}
