#include "proto/secret.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/credentials.h"

static char path[] = "/tmp/secret-XXXXXX";
static struct fault fault;

static void setup(void)
{
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    close(fd);
    unsetenv("PERFORMERD_TOKEN");
    unsetenv("PERFORMERD_TOKEN_FILE");
}

static void teardown(void)
{
    unlink(path);
}

TestSuite(secret, .init = setup, .fini = teardown);

static void write_file(const char *text, mode_t mode)
{
    FILE *file = fopen(path, "w");
    cr_assert_not_null(file);
    fputs(text, file);
    fclose(file);
    cr_assert_eq(chmod(path, mode), 0);
}

Test(secret, equals_itself_alone)
{
    cr_assert(secret_equal("abc", "abc"));
    cr_assert_not(secret_equal("abc", "abd"));
    cr_assert_not(secret_equal("abc", "ab"));
    cr_assert_not(secret_equal("abc", "abcabc"));
    cr_assert_not(secret_equal("abc", ""));
    cr_assert_not(secret_equal("", "a"));
    cr_assert_not(secret_equal("", ""), "no secret is no way in");
}

Test(secret, file_of_ones_own_is_read)
{
    char *text;
    write_file("s3cret\n", 0600);
    cr_assert_eq(secret_read(path, 100, &text, &fault), ST_OK);
    cr_assert_str_eq(text, "s3cret\n");
    free(text);
    cr_assert_eq(secret_read(path, 3, &text, &fault), ST_TOO_LARGE);
}

Test(secret, file_that_others_can_read_is_refused_with_the_cure)
{
    char *text = NULL;
    for (mode_t bit = 1; bit <= 040; bit *= 2) {
        write_file("s3cret\n", 0600 | bit);
        cr_assert_eq(secret_read(path, 100, &text, &fault), ST_NOT_PERMITTED, "%o", bit);
        cr_assert(strstr(fault.text, "chmod 600 /tmp/secret-"), "%s", fault.text);
    }
    cr_assert_null(text);
}

Test(secret, file_of_another_user_is_refused)
{
    char *text;
    write_file("s3cret\n", 0600);
    if (chown(path, 12345, 12345) != 0) cr_skip_test("only root can give a file away");
    cr_assert_eq(secret_read(path, 100, &text, &fault), ST_NOT_PERMITTED);
    cr_assert(strstr(fault.text, "12345"), "%s", fault.text);
}

Test(secret, token_comes_from_the_environment_or_a_file_of_its)
{
    struct credentials credentials;
    cr_assert_eq(credentials_load(&credentials, &fault), ST_OK);
    cr_assert_str_eq(credentials.token, "");
    credentials_free(&credentials);

    setenv("PERFORMERD_TOKEN_FILE", path, 1);
    write_file("from-file\r\nmore\n", 0600);
    cr_assert_eq(credentials_load(&credentials, &fault), ST_OK);
    cr_assert_str_eq(credentials.token, "from-file");
    credentials_free(&credentials);

    setenv("PERFORMERD_TOKEN", "directly", 1);
    cr_assert_eq(credentials_load(&credentials, &fault), ST_OK);
    cr_assert_str_eq(credentials.token, "directly");
    credentials_free(&credentials);
}

Test(secret, token_files_that_will_not_do_are_named)
{
    struct credentials credentials;
    setenv("PERFORMERD_TOKEN_FILE", path, 1);
    write_file("from-file\n", 0644);
    cr_assert_eq(credentials_load(&credentials, &fault), ST_NOT_PERMITTED);
    cr_assert(strstr(fault.text, "PERFORMERD_TOKEN_FILE"), "%s", fault.text);
    write_file("\n", 0600);
    cr_assert_eq(credentials_load(&credentials, &fault), ST_INVALID);
    cr_assert(strstr(fault.text, path), "%s", fault.text);
    setenv("PERFORMERD_TOKEN_FILE", "/nowhere/token", 1);
    cr_assert_eq(credentials_load(&credentials, &fault), ST_NOT_FOUND);
    cr_assert(strstr(fault.text, "/nowhere/token"), "%s", fault.text);
}
