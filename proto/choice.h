#ifndef PROTO_CHOICE_H
#define PROTO_CHOICE_H

/* The closed sets of values of the job file as enums with their texts; made from proto/jobspec.def. */

#include <stdbool.h>

#include "proto/jobspec.def"

#ifdef __cplusplus
extern "C" {
#endif

#define CHOICE_ENUMERATOR(enumerator, text, support) enumerator,
#define CHOICE_ENUM(KIND, tag, LIST)                 enum tag { LIST(CHOICE_ENUMERATOR) };
JOBSPEC_CHOICES(CHOICE_ENUM)
#undef CHOICE_ENUM
#undef CHOICE_ENUMERATOR

/* The text of a choice as it stands in the file: launcher_text(LAUNCHER_LOCAL) is "local". Never NULL. */
#define CHOICE_TEXT(KIND, tag, LIST) const char *tag##_text(enum tag value);
JOBSPEC_CHOICES(CHOICE_TEXT)
#undef CHOICE_TEXT

/* And back: false, `*value` untouched, where the text is none of them. */
#define CHOICE_FROM(KIND, tag, LIST) bool tag##_from_text(const char *text, enum tag *value);
JOBSPEC_CHOICES(CHOICE_FROM)
#undef CHOICE_FROM

#ifdef __cplusplus
}
#endif

#endif
