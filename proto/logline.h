#ifndef PROTO_LOGLINE_H
#define PROTO_LOGLINE_H

/*
 * Log lines: time, level, a stable id, then a lower-case sentence, on stderr. Whoever ends a story logs
 * it, once; libraries are silent. Training curves are metrics, not logs.
 *
 * log_warn("run-stalled", "no heartbeat for %u ms", silence_ms);
 */

/* L(enumerator, function suffix): error: a run or the process cannot go on; warn: it can; info: a person would want
 * it in the daily journal; debug: per object. */
enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Put in front of each line, "run r7 rank 1"; copied. Set once by main. */
void log_context(const char *context);

/* Lines above this level are dropped; LOG_INFO at first, or what PERFORMERD_LOG names. */
void log_set_level(enum log_level level);

void log_line(enum log_level level, const char *id, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define log_error(id, ...) log_line(LOG_ERROR, id, __VA_ARGS__)
#define log_warn(id, ...)  log_line(LOG_WARN, id, __VA_ARGS__)
#define log_info(id, ...)  log_line(LOG_INFO, id, __VA_ARGS__)
#define log_debug(id, ...) log_line(LOG_DEBUG, id, __VA_ARGS__)

#endif
