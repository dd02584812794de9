#ifndef PROTO_UTF8_H
#define PROTO_UTF8_H

/* Text of others as UTF-8 (RFC 3629), which JSON, TOML and terminals ask for. */

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes of the sequence that `text`, which ends in NUL, begins with; 0 where it is none. */
size_t utf8_length(const char *text);

/* Replaces each byte that belongs to no sequence by '?'. */
void utf8_repair(char *text);

#ifdef __cplusplus
}
#endif

#endif
