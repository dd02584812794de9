/*
 * What a Criterion suite needs to run under ThreadSanitizer; part of every suite of the tsan preset.
 *
 * Criterion maps an arena at an address of chance between 0x200000000000 and 0x600000000000. Nearly all of
 * that is ThreadSanitizer's own, so that a suite would end before it begins. The chance comes from rand_r;
 * this one lets it fall where a program may map memory, 0x550000000000 ... 0x568000000000.
 *
 * nng is not built for ThreadSanitizer, which therefore does not see how its threads wait for each other.
 */

#include <stdlib.h>

#define EXPORTED __attribute__((visibility("default")))

EXPORTED int rand_r(unsigned *seed)
{
    enum { FIRST = 0x350000, COUNT = 0x18000 }; /* in units of 16 MiB behind 0x200000000000 */
    *seed = *seed * 1103515245u + 12345u;
    return FIRST + (int)((*seed >> 8) % COUNT);
}

/* Called by the sanitizer's runtime; a race ends the test, which would pass otherwise. */
EXPORTED const char *__tsan_default_options(void);
EXPORTED const char *__tsan_default_suppressions(void);

const char *__tsan_default_options(void)
{
    return "halt_on_error=1";
}

const char *__tsan_default_suppressions(void)
{
    return "race:libnng.so\n"
           "mutex:libnng.so\n"
           "called_from_lib:libnng.so\n";
}
