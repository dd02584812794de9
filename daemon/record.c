#include "daemon/record.h"

#include <string.h>

static const struct {
    const char *name;
    bool durable;
} kinds[] = {
#define RECORD_ROW(enumerator, tag, durable) [enumerator] = {#tag, durable},
    RECORDS(RECORD_ROW)
#undef RECORD_ROW
};

static const struct {
    const char *name;
    enum log_level level;
} notes[] = {
#define NOTE_ROW(enumerator, name, level) [enumerator] = {name, level},
    NOTES(NOTE_ROW)
#undef NOTE_ROW
};

static const char *const verdicts[] = {
#define VERDICT_ROW(enumerator, name) [enumerator] = name,
    VERDICTS(VERDICT_ROW)
#undef VERDICT_ROW
};

const char *record_kind_name(enum record_kind kind)
{
    return kinds[kind].name;
}

bool record_is_durable(enum record_kind kind)
{
    return kinds[kind].durable;
}

const char *note_name(enum note note)
{
    return notes[note].name;
}

enum log_level note_level(enum note note)
{
    return notes[note].level;
}

const char *verdict_name(enum verdict verdict)
{
    return verdicts[verdict];
}

bool verdict_from_name(const char *name, enum verdict *verdict)
{
    for (size_t i = 0; i < sizeof verdicts / sizeof verdicts[0]; i++) {
        if (strcmp(verdicts[i], name) != 0) continue;
        *verdict = (enum verdict)i;
        return true;
    }
    return false;
}
