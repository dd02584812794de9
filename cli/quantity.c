#include "cli/quantity.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

struct quantity duration_text(int64_t ms)
{
    struct quantity out;
    long long s = ms > 0 ? (long long)(ms / 1000) : 0;

    if (s < 60)
        snprintf(out.text, sizeof out.text, "%llds", s);
    else if (s < 3600)
        snprintf(out.text, sizeof out.text, "%lldm %llds", s / 60, s % 60);
    else if (s < 86400)
        snprintf(out.text, sizeof out.text, "%lldh %lldm", s / 3600, s / 60 % 60);
    else
        snprintf(out.text, sizeof out.text, "%lldd %lldh", s / 86400, s / 3600 % 24);
    return out;
}

struct quantity age_text(int64_t ms)
{
    struct quantity out = duration_text(ms);

    out.text[strcspn(out.text, " ")] = '\0';
    return out;
}

struct quantity span_text(double ms)
{
    struct quantity out;

    if (!isfinite(ms))
        snprintf(out.text, sizeof out.text, "-");
    else if (ms < 1000)
        snprintf(out.text, sizeof out.text, ms < 10 ? "%.1f ms" : "%.0f ms", ms);
    else if (ms < 60000)
        snprintf(out.text, sizeof out.text, ms < 10000 ? "%.2f s" : "%.1f s", ms / 1000);
    else
        out = duration_text((int64_t)fmin(ms, 1e18));
    return out;
}

/* Three digits before or after the point, and a unit of 1000^i. */
static struct quantity scaled(double value, const char *space, const char *const *units)
{
    struct quantity out;
    int unit = 0;

    if (!isfinite(value)) {
        snprintf(out.text, sizeof out.text, "-");
        return out;
    }
    while (fabs(value) >= 999.5 && units[unit + 1]) {
        value /= 1000;
        unit++;
    }
    int decimals = unit == 0 && value == floor(value) ? 0
                   : fabs(value) < 9.995              ? 2
                   : fabs(value) < 99.95              ? 1
                                                      : 0;
    snprintf(out.text, sizeof out.text, "%.*f%s%s", decimals, value, space, units[unit]);
    return out;
}

struct quantity count_text(double value)
{
    static const char *const units[] = {"", "k", "M", "G", "T", "P", "E", NULL};
    return scaled(value, "", units);
}

struct quantity bytes_text(double bytes)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB", NULL};
    return scaled(bytes, " ", units);
}

struct quantity value_text(double value)
{
    struct quantity out;

    bool whole = fabs(value) >= 1e4 && fabs(value) < 1e9; /* no exponent yet */
    snprintf(out.text, sizeof out.text, whole ? "%.0f" : "%.4g", value);
    return out;
}

static struct quantity local_time(uint64_t time_ms, const char *format)
{
    struct quantity out = {"-"};
    time_t seconds = (time_t)(time_ms / 1000);
    struct tm fields;

    if (time_ms == 0 || !localtime_r(&seconds, &fields)) return out;
    if (strftime(out.text, sizeof out.text, format, &fields) == 0) strcpy(out.text, "-");
    return out;
}

struct quantity clock_text(uint64_t time_ms)
{
    return local_time(time_ms, "%H:%M:%S");
}

struct quantity date_text(uint64_t time_ms)
{
    return local_time(time_ms, "%Y-%m-%d %H:%M:%S");
}

static uint64_t read_clock(clockid_t id)
{
    struct timespec now;

    clock_gettime(id, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

uint64_t clock_now_ms(void)
{
    return read_clock(CLOCK_REALTIME);
}

uint64_t clock_monotonic_ms(void)
{
    return read_clock(CLOCK_MONOTONIC);
}
