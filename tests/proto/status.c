#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "proto/status.h"

/* The numbers cross the wire and lie in files. */
Test(status, numbers_and_names_are_fixed)
{
    cr_assert_eq(ST_OK, 0);
    cr_assert_eq(ST_UNREACHABLE, 8);
    cr_assert_eq(ST_CORRUPT, 23);
    cr_assert_eq(ST_COLLECTIVE, 42);
    cr_assert_str_eq(status_name(ST_OK), "ok");
    cr_assert_str_eq(status_name(ST_NOT_PERMITTED), "not_permitted");
    cr_assert_str_eq(status_text(ST_NO_SPACE), "no space left");
    cr_assert_str_eq(status_name((enum status)77), "unknown");
    cr_assert_str_eq(status_text((enum status)77), "unknown status");
}

Test(status, errno_is_translated)
{
    cr_assert_eq(status_from_errno(ENOENT), ST_NOT_FOUND);
    cr_assert_eq(status_from_errno(EACCES), ST_NOT_PERMITTED);
    cr_assert_eq(status_from_errno(ENOSPC), ST_NO_SPACE);
    cr_assert_eq(status_from_errno(EDQUOT), ST_NO_SPACE);
    cr_assert_eq(status_from_errno(ENOMEM), ST_NO_MEMORY);
    cr_assert_eq(status_from_errno(EIO), ST_IO);
    cr_assert_eq(status_from_errno(EXDEV), ST_SYSTEM);
}

Test(status, a_fault_knows_its_birth_and_is_wrapped_outward)
{
    struct fault fault;
    int line = __LINE__ + 1;
    cr_assert_eq(fault_errno(&fault, EACCES, "could not open %s", "/x/y"), ST_NOT_PERMITTED);
    cr_assert_eq(fault.line, line);
    cr_assert(strstr(fault.file, "status.c"));
    cr_assert_str_eq(fault.text, "could not open /x/y: Permission denied");
    cr_assert_eq(fault_wrap(&fault, "resume run %s", "r7"), ST_NOT_PERMITTED);
    cr_assert_str_eq(fault.text, "resume run r7: could not open /x/y: Permission denied");
    cr_assert_eq(fault.line, line);
}

Test(status, long_words_are_cut_and_none_are_needed)
{
    struct fault fault;
    char words[1000];
    memset(words, 'w', sizeof words - 1);
    words[sizeof words - 1] = '\0';
    fault_errno(&fault, EIO, "%s", words);
    cr_assert_lt(strlen(fault.text), sizeof fault.text);
    cr_assert(strstr(fault.text, "Input/output error"), "the cause is kept: %s", fault.text);
    fault_wrap(&fault, "%s", words);
    cr_assert_lt(strlen(fault.text), sizeof fault.text);
    cr_assert_eq(fault_set(NULL, ST_IO, "nobody listens"), ST_IO);
}
