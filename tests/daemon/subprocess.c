#include <criterion/criterion.h>
#include <string.h>

#include <uv.h>

#include "daemon/subprocess.h"

static uv_loop_t loop;

static void setup(void)
{
    cr_assert_eq(uv_loop_init(&loop), 0);
}

static void teardown(void)
{
    cr_assert_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
    cr_assert_eq(uv_loop_close(&loop), 0, "a handle was left open");
}

TestSuite(subprocess, .init = setup, .fini = teardown, .timeout = 60);

struct told {
    int times, exit_code;
    size_t output_length;
    char output[64], errors[64];
};

static void tell(void *context, const struct subprocess_end *end)
{
    struct told *told = context;
    told->times++;
    told->exit_code = end->exit_code;
    told->output_length = strlen(end->output);
    snprintf(told->output, sizeof told->output, "%s", end->output);
    snprintf(told->errors, sizeof told->errors, "%s", end->errors);
}

/* Runs a shell's script until the loop has nothing more to do. */
static struct told told_of(const char *script, uint64_t limit_ms)
{
    struct told told = {0};
    struct subprocess *subprocess;
    struct fault fault;
    const char *const argv[] = {"sh", "-c", script, NULL};
    cr_assert_eq(subprocess_start(&loop, argv, limit_ms, tell, &told, &subprocess, &fault), ST_OK,
                 "%s", fault.text);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_eq(told.times, 1);
    return told;
}

Test(subprocess, both_texts_and_the_exit_code_are_told)
{
    struct told told = told_of("echo out; echo err >&2; exit 7", 30000);
    cr_assert_eq(told.exit_code, 7);
    cr_assert_str_eq(told.output, "out\n");
    cr_assert_str_eq(told.errors, "err\n");
}

Test(subprocess, a_long_text_comes_whole)
{
    struct told told = told_of("head -c 1000000 /dev/zero | tr '\\0' x", 30000);
    cr_assert_eq(told.exit_code, 0);
    cr_assert_eq(told.output_length, 1000000);
}

Test(subprocess, who_says_too_much_is_ended)
{
    cr_assert_eq(told_of("yes", 30000).exit_code, -1);
}

Test(subprocess, who_takes_too_long_is_ended)
{
    struct told told = told_of("echo before; exec sleep 1000", 200);
    cr_assert_eq(told.exit_code, -1);
    cr_assert_str_eq(told.output, "before\n");
}

Test(subprocess, a_child_that_keeps_the_pipes_is_not_waited_for)
{
    cr_assert_eq(told_of("sleep 1000 & exit 0", 200).exit_code, -1);
}

Test(subprocess, a_signal_is_no_exit_code)
{
    cr_assert_eq(told_of("kill -9 $$", 30000).exit_code, -1);
}

Test(subprocess, a_program_that_is_not_there)
{
    struct subprocess *subprocess;
    struct fault fault;
    const char *const argv[] = {"no-such-program", NULL};
    cr_assert_eq(subprocess_start(&loop, argv, 1000, tell, NULL, &subprocess, &fault),
                 ST_NOT_FOUND);
    cr_assert_not_null(strstr(fault.text, "no-such-program"));
}

Test(subprocess, one_that_is_forgotten_tells_nothing)
{
    struct told told = {0};
    struct subprocess *subprocess;
    struct fault fault;
    const char *const argv[] = {"true", NULL};
    cr_assert_eq(subprocess_start(&loop, argv, 1000, tell, &told, &subprocess, &fault), ST_OK);
    subprocess_forget(subprocess);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_eq(told.times, 0);
}
