#ifndef CLI_QUANTITY_H
#define CLI_QUANTITY_H

/* Times and numbers for people, with no more digits than they use. */

#include <stdint.h>

struct quantity {
    char text[32];
};

/* "0s" "45s" "3m 12s" "2h 5m" "3d 4h"; negative is "0s". */
struct quantity duration_text(int64_t ms);

/* One unit only, for columns: "45s" "3m" "2h" "3d". */
struct quantity age_text(int64_t ms);

/* "412 ms" "1.28 s" "3m 12s" */
struct quantity span_text(double ms);

/* "950" "12.3k" "4.21M" "1.20T" */
struct quantity count_text(double value);

/* "512 B" "13.2 MB" "1.04 GB", powers of 1000 */
struct quantity bytes_text(double bytes);

/* Four significant digits, more for whole numbers: "2.841" "0.001" "1.5e-05" "18900" "nan". */
struct quantity value_text(double value);

/* Local time: "14:03:12"; "-" for 0. */
struct quantity clock_text(uint64_t time_ms);

/* Local date and time: "2026-01-31 14:03:12"; "-" for 0. */
struct quantity date_text(uint64_t time_ms);

/* Milliseconds since 1970. */
uint64_t clock_now_ms(void);

/* Milliseconds of a clock that never jumps. */
uint64_t clock_monotonic_ms(void);

#endif
