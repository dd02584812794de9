#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/logline.h"

static int capture[2];

static void redirect(void)
{
    unsetenv("PERFORMERD_LOG");
    cr_assert_eq(pipe(capture), 0);
    cr_assert_geq(dup2(capture[1], STDERR_FILENO), 0);
    close(capture[1]);
}

static const char *captured(void)
{
    static char text[4096];
    close(STDERR_FILENO);
    ssize_t length = read(capture[0], text, sizeof text - 1);
    text[length > 0 ? length : 0] = '\0';
    return text;
}

Test(logline, has_time_level_context_id_and_words, .init = redirect)
{
    log_context("run r7 rank 1");
    log_warn("run-stalled", "no heartbeat for %u ms", 5000u);
    const char *line = captured();
    int year, month, day, hour, minute, second, ms, end = 0;
    sscanf(line, "%4d-%2d-%2dT%2d:%2d:%2d.%3dZ%n", &year, &month, &day, &hour, &minute, &second,
           &ms, &end);
    cr_assert_eq(end, 24, "%s", line);
    cr_assert_str_eq(line + end, " warn run r7 rank 1 run-stalled: no heartbeat for 5000 ms\n");
}

Test(logline, drops_what_is_above_its_level, .init = redirect)
{
    log_debug("a", "not shown");
    log_info("b", "shown");
    log_set_level(LOG_ERROR);
    log_warn("c", "not shown");
    log_set_level(LOG_DEBUG);
    log_debug("d", "shown");
    const char *text = captured();
    cr_assert(!strstr(text, "not shown"), "%s", text);
    cr_assert(strstr(text, " b: shown\n"));
    cr_assert(strstr(text, " d: shown\n"));
}

Test(logline, takes_its_level_from_the_environment, .init = redirect)
{
    setenv("PERFORMERD_LOG", "error", 1);
    log_warn("a", "not shown");
    log_error("b", "shown");
    const char *text = captured();
    cr_assert(!strstr(text, "not shown"));
    cr_assert(strstr(text, " error b: shown\n"));
}

Test(logline, stays_one_line_whatever_it_is_told, .init = redirect)
{
    char words[3000];
    memset(words, 'w', sizeof words - 1);
    words[sizeof words - 1] = '\0';
    memcpy(words, "first\nsecond\033[31m", 17);
    log_error("long", "%s", words);
    const char *text = captured();
    size_t length = strlen(text);
    cr_assert_lt(length, 1100);
    cr_assert_eq(strchr(text, '\n'), text + length - 1);
    cr_assert_null(strchr(text, '\033'));
}
