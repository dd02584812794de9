#include "proto/choice.h"

#include <string.h>

#define CHOICE_CASE(enumerator, text, support) \
    case enumerator:                           \
        return text;
#define CHOICE_TEXT(KIND, tag, LIST)       \
    const char *tag##_text(enum tag value) \
    {                                      \
        switch (value) {                   \
            LIST(CHOICE_CASE)              \
        }                                  \
        return "";                         \
    }
JOBSPEC_CHOICES(CHOICE_TEXT)

#define CHOICE_COMPARE(enumerator, choice, support) \
    if (strcmp(text, choice) == 0) {                \
        *value = enumerator;                        \
        return true;                                \
    }
#define CHOICE_FROM(KIND, tag, LIST)                        \
    bool tag##_from_text(const char *text, enum tag *value) \
    {                                                       \
        LIST(CHOICE_COMPARE)                                \
        return false;                                       \
    }
JOBSPEC_CHOICES(CHOICE_FROM)
