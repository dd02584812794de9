#include "proto/phase.h"

#include <string.h>

static const struct {
    const char *name;
    uint32_t first_s;
} phases[] = {
#define PHASE_ROW(enumerator, name, first_s) [enumerator] = {name, first_s},
    PHASES(PHASE_ROW)
#undef PHASE_ROW
};

const char *phase_name(enum phase phase)
{
    return phases[phase].name;
}

bool phase_from_name(const char *name, enum phase *phase)
{
    for (int i = 0; i < PHASE_COUNT; i++) {
        if (strcmp(phases[i].name, name) != 0) continue;
        *phase = (enum phase)i;
        return true;
    }
    return false;
}

uint64_t phase_first_ms(enum phase phase)
{
    return phases[phase].first_s * UINT64_C(1000);
}
