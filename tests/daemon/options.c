#include "daemon/options.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static struct options options;
static struct fault fault;

static enum status parse(int argc, char **argv)
{
    options = (struct options){0};
    return options_parse(argc, argv, &options, &fault);
}

#define PARSE(...)                                                        \
    parse(sizeof((char *[]){"performerd", __VA_ARGS__}) / sizeof(char *), \
          (char *[]){"performerd", __VA_ARGS__, NULL})

Test(options, all_that_are_built)
{
    cr_assert_eq(PARSE("--state", "/s", "--runs=/r", "--listen", "ipc:///a", "--listen", "ipc:///b",
                       "--max-ranks", "6", "--foreground"),
                 ST_OK);
    cr_assert_str_eq(options.state, "/s");
    cr_assert_str_eq(options.runs, "/r");
    cr_assert_eq(options.listen_count, 2);
    cr_assert_str_eq(options.listen[1], "ipc:///b");
    cr_assert_eq(options.ranks_max, 6);
    cr_assert(options.foreground);
}

Test(options, defaults)
{
    setenv("XDG_STATE_HOME", "/x", 1);
    cr_assert_eq(parse(1, (char *[]){"performerd", NULL}), ST_OK);
    cr_assert_str_eq(options.state, "/x/performerd");
    cr_assert_null(options.runs);
    cr_assert_eq(options.listen_count, 0);
    cr_assert_geq(options.ranks_max, 4);
    cr_assert_eq(options.ranks_max % 4, 0);

    char url[100];
    setenv("XDG_RUNTIME_DIR", "/run/user/7", 1);
    options_default_url("/x/performerd", url, sizeof url);
    cr_assert_str_eq(url, "ipc:///run/user/7/performerd.sock");
    unsetenv("XDG_RUNTIME_DIR");
    options_default_url("/x/performerd", url, sizeof url);
    cr_assert_str_eq(url, "ipc:///x/performerd/performerd.sock");
}

Test(options, a_later_one_is_refused_by_name)
{
    cr_assert_eq(PARSE("--http", "x"), ST_UNSUPPORTED);
    cr_assert_not_null(strstr(fault.text, "--http is not built yet"));
}

Test(options, of_the_network)
{
    cr_assert_eq(PARSE("--tls-cert", "c", "--tls-key", "k", "--token-file", "t", "--admin-group",
                       "g", "--advertise", "tls+tcp://h:1"),
                 ST_OK);
    cr_assert_str_eq(options.tls_cert, "c");
    cr_assert_str_eq(options.tls_key, "k");
    cr_assert_str_eq(options.token_file, "t");
    cr_assert_str_eq(options.admin_group, "g");
    cr_assert_str_eq(options.advertise, "tls+tcp://h:1");
}

Test(options, mistakes_are_named)
{
    cr_assert_eq(PARSE("--bogus"), ST_INVALID);
    cr_assert_not_null(strstr(fault.text, "--bogus"));
    cr_assert_eq(PARSE("--max-ranks"), ST_INVALID);
    cr_assert_not_null(strstr(fault.text, "--max-ranks"));
    cr_assert_eq(PARSE("--state", ""), ST_INVALID);
    cr_assert_eq(PARSE("word"), ST_INVALID);
    cr_assert_not_null(strstr(fault.text, "word"));
    cr_assert_eq(PARSE("--foreground=yes"), ST_INVALID);
    cr_assert_eq(options.foreground, false, "outputs stay untouched");
    static char *const numbers[] = {"0", "-1", "1.5", "x", "4097", "99999999999999999999"};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        cr_assert_eq(PARSE("--max-ranks", numbers[i]), ST_INVALID, "%s", numbers[i]);
}

Test(options, too_many_listeners)
{
    char *argv[1 + 2 * (LISTEN_MAX + 1) + 1] = {"performerd"};
    int argc = 1;
    for (int i = 0; i <= LISTEN_MAX; i++) {
        argv[argc++] = "--listen";
        argv[argc++] = "ipc:///a";
    }
    cr_assert_eq(parse(argc, argv), ST_INVALID);
    cr_assert_eq(parse(argc - 2, argv), ST_OK);
}

Test(options, help_names_what_works_and_nothing_else)
{
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    options_help(out);
    fclose(out);
    cr_assert_not_null(strstr(text, "--max-ranks N"));
    cr_assert_null(strstr(text, "--http"));
    free(text);
}
