#include "cli/approximation.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The value as one of the metric NAME.LAYER. */
static bool is_of(const Performer__NamedValue *value, const char *name, uint64_t *layer)
{
    const size_t length = strlen(name);
    if (strncmp(value->name, name, length) != 0 || value->name[length] != '.') return false;
    const char *digits = value->name + length + 1;
    if (*digits == '\0' || digits[strspn(digits, "0123456789")] != '\0') return false;
    *layer = strtoull(digits, NULL, 10);
    return true;
}

static void take(const Performer__NamedValue *value, struct approximation *worst)
{
    uint64_t layer;
    if (is_of(value, "denominator_min", &layer)) {
        worst->denominator_min = fmin(worst->denominator_min, value->value);
    } else if (is_of(value, "saturated", &layer)) {
        worst->saturated = fmax(worst->saturated, value->value);
    } else if (is_of(value, "kernel_error", &layer)) {
        if (worst->has_error && (isnan(worst->error) || value->value <= worst->error)) return;
        worst->has_error = true;
        worst->error = value->value;
        worst->layer = layer;
    }
}

bool approximation_newest(const Performer__RunSummary *summary, struct approximation *approximation)
{
    struct approximation worst = {.denominator_min = NAN, .saturated = NAN};
    bool measured = false;
    uint64_t layer;

    /* Each kernel tells of its denominators: their newest row is that of the newest evaluation. */
    for (size_t i = 0; i < summary->n_latest; i++) {
        const Performer__NamedValue *value = summary->latest[i];
        if (!is_of(value, "denominator_min", &layer)) continue;
        if (value->step > worst.step) worst.step = value->step;
        measured = true;
    }
    if (!measured) return false;
    for (size_t i = 0; i < summary->n_latest; i++)
        if (summary->latest[i]->step == worst.step) take(summary->latest[i], &worst);
    *approximation = worst;
    return true;
}
