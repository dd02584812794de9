#include "daemon/spool.h"

#include "tests/daemon/scratch.h"

static struct scratch scratch;
static uint64_t told[8];
static int told_count;

static void setup(void)
{
    scratch = scratch_new();
    told_count = 0;
}

static void teardown(void)
{
    scratch_remove(&scratch);
}

TestSuite(spool, .init = setup, .fini = teardown);

static enum status tell(void *context, const Performer__Report *report)
{
    uint64_t *refuse = context;
    if (refuse && *refuse == report->sequence) return ST_NO_SPACE;
    told[told_count++] = report->sequence;
    return ST_OK;
}

/* Appends report number `sequence`; returns the new length. */
static size_t add_report(uint8_t *bytes, size_t length, uint64_t sequence)
{
    Performer__Report report = PERFORMER__REPORT__INIT;
    report.run = "r1";
    report.sequence = sequence;
    size_t size = performer__report__pack(&report, bytes + length + 4);
    for (int i = 0; i < 4; i++) bytes[length + (size_t)i] = (uint8_t)(size >> 8 * i);
    return length + 4 + size;
}

static enum status read_it(uint64_t *refuse, struct fault *fault)
{
    return spool_read(scratch_path(&scratch, "spool"), tell, refuse, fault);
}

Test(spool, tells_reports_in_order)
{
    uint8_t bytes[512];
    size_t length = add_report(bytes, 0, 5);
    length = add_report(bytes, length, 6);
    length = add_report(bytes, length, 7);
    scratch_write_bytes(&scratch, "spool", bytes, length);
    struct fault fault;
    cr_assert_eq(read_it(NULL, &fault), ST_OK);
    cr_assert_eq(told_count, 3);
    cr_assert_eq(told[0], 5);
    cr_assert_eq(told[2], 7);
}

Test(spool, absent_and_empty_hold_nothing)
{
    struct fault fault;
    cr_assert_eq(read_it(NULL, &fault), ST_OK);
    scratch_write(&scratch, "spool", "");
    cr_assert_eq(read_it(NULL, &fault), ST_OK);
    cr_assert_eq(told_count, 0);
}

Test(spool, every_cut_is_named_and_what_is_whole_is_told)
{
    uint8_t bytes[512];
    size_t first = add_report(bytes, 0, 1), length = add_report(bytes, first, 2);
    for (size_t cut = 1; cut < length; cut++) {
        struct fault fault;
        if (cut == first) continue;
        told_count = 0;
        scratch_write_bytes(&scratch, "spool", bytes, cut);
        cr_assert_eq(read_it(NULL, &fault), ST_CORRUPT, "cut at %zu", cut);
        cr_assert_eq(told_count, cut > first ? 1 : 0);
    }
}

Test(spool, a_length_that_no_report_has)
{
    struct fault fault;
    scratch_write_bytes(&scratch, "spool", "\xff\xff\xff\xff....", 8);
    cr_assert_eq(read_it(NULL, &fault), ST_CORRUPT);
    scratch_write_bytes(&scratch, "spool", "\x04\0\0\0\xff\xff\xff\xff", 8);
    cr_assert_eq(read_it(NULL, &fault), ST_CORRUPT);
}

Test(spool, a_refusal_ends_the_reading)
{
    uint8_t bytes[512];
    uint64_t refuse = 2;
    size_t length = add_report(bytes, 0, 1);
    length = add_report(bytes, length, 2);
    length = add_report(bytes, length, 3);
    scratch_write_bytes(&scratch, "spool", bytes, length);
    struct fault fault;
    cr_assert_eq(read_it(&refuse, &fault), ST_NO_SPACE);
    cr_assert_eq(told_count, 1);
}
