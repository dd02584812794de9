#include "daemon/access.h"

#include <grp.h>
#include <pwd.h>
#include <time.h>

#include "tests/daemon/scratch.h"

static struct scratch scratch;
static struct fault fault;
static struct access *opened;
static const struct peer network = {.name = "10.0.0.7"};

static void setup(void)
{
    scratch = scratch_new();
    umask(077);
}

static void teardown(void)
{
    access_close(opened);
    scratch_remove(&scratch);
}

TestSuite(access, .init = setup, .fini = teardown);

static enum status open_tokens(const char *text, const char *group)
{
    scratch_write(&scratch, "tokens", text);
    cr_assert_eq(chmod(scratch_path(&scratch, "tokens"), 0600), 0);
    return access_open(scratch_path(&scratch, "tokens"), group, &opened, &fault);
}

/* "" where nobody is known by it. */
static const char *user_of(const struct peer *peer, const char *token)
{
    static struct caller caller;
    if (access_identify(opened, peer, token, &caller) != ST_OK) return "";
    return caller.user;
}

Test(access, users_are_known_by_their_tokens)
{
    cr_assert_eq(open_tokens("# who  what\n\nalice 0123456789abcdef\n\tbob\t fedcba9876543210\r\n"
                             "alice another-token-of-hers",
                             NULL),
                 ST_OK, "%s", fault.text);
    cr_assert_str_eq(user_of(&network, "0123456789abcdef"), "alice");
    cr_assert_str_eq(user_of(&network, "another-token-of-hers"), "alice");
    cr_assert_str_eq(user_of(&network, "fedcba9876543210"), "bob");
    static const char *const wrong[] = {"",      "0123456789abcdeg",  "0123456789abcde",
                                        "alice", "0123456789abcdef0", "what"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        cr_assert_str_eq(user_of(&network, wrong[i]), "", "%s", wrong[i]);
}

static const char *day_text(int days_from_now)
{
    static char text[16];
    const time_t at = time(NULL) + days_from_now * 86400;
    strftime(text, sizeof text, "%Y-%m-%d", gmtime(&at));
    return text;
}

Test(access, a_token_is_good_through_its_last_day)
{
    static const struct {
        int days;
        const char *user;
    } cases[] = {{-2, ""}, {-1, ""}, {0, "alice"}, {1, "alice"}, {400, "alice"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char line[100], day[16];
        const char *user;
        do { /* again where a day has ended meanwhile */
            access_close(opened);
            opened = NULL;
            snprintf(day, sizeof day, "%s", day_text(cases[i].days));
            snprintf(line, sizeof line, "alice 0123456789abcdef %s\nbob fedcba9876543210\n", day);
            cr_assert_eq(open_tokens(line, NULL), ST_OK, "%s", fault.text);
            user = user_of(&network, "0123456789abcdef");
        } while (strcmp(day, day_text(cases[i].days)) != 0);
        cr_assert_str_eq(user, cases[i].user, "%d", cases[i].days);
        cr_assert_str_eq(user_of(&network, "fedcba9876543210"), "bob");
    }
}

Test(access, a_socket_proves_the_daemons_user_and_root)
{
    cr_assert_eq(access_open(NULL, NULL, &opened, &fault), ST_OK);
    struct peer peer = {.name = "uid", .local = true, .uid = geteuid()};
    struct caller caller;
    cr_assert_eq(access_identify(opened, &peer, "", &caller), ST_OK);
    cr_assert(caller.admin);
    cr_assert_str_eq(caller.user, getpwuid(geteuid())->pw_name);
    peer.uid = 0;
    cr_assert_str_eq(user_of(&peer, ""), getpwuid(0)->pw_name);
    peer.uid = geteuid() + 12345;
    cr_assert_str_eq(user_of(&peer, ""), "", "another user of this machine");
    peer.uid = geteuid();
    peer.local = false;
    cr_assert_str_eq(user_of(&peer, ""), "", "no uid crosses a network");
}

Test(access, a_token_counts_for_more_than_a_socket)
{
    cr_assert_eq(open_tokens("alice 0123456789abcdef\n", NULL), ST_OK);
    const struct peer peer = {.name = "uid", .local = true, .uid = geteuid()};
    struct caller caller;
    cr_assert_eq(access_identify(opened, &peer, "0123456789abcdef", &caller), ST_OK);
    cr_assert_str_eq(caller.user, "alice");
    cr_assert_not(caller.admin);
    cr_assert_str_eq(user_of(&peer, "a-wrong-one-is-not-passed-over"), "");
}

Test(access, members_of_the_group_are_admins)
{
    const char *self = getpwuid(geteuid())->pw_name;
    char tokens[200];
    snprintf(tokens, sizeof tokens, "%s 0123456789abcdef\nnobody-here fedcba9876543210\n", self);
    cr_assert_eq(open_tokens(tokens, getgrgid(getegid())->gr_name), ST_OK, "%s", fault.text);
    struct caller caller;
    cr_assert_eq(access_identify(opened, &network, "0123456789abcdef", &caller), ST_OK);
    cr_assert(caller.admin);
    cr_assert_eq(access_identify(opened, &network, "fedcba9876543210", &caller), ST_OK);
    cr_assert_not(caller.admin);
}

Test(access, what_will_not_do_is_refused_with_place_and_cure)
{
    static const struct {
        const char *text;
        const char *word;
    } rows[] = {
        {"alice 0123456789abcdef\nbob\n", "tokens:2:"},
        {"alice 0123456789abcdef extra\n", "tokens:1: extra is no day"},
        {"alice 0123456789abcdef 2027-02-30\n", "no day such as"},
        {"alice 0123456789abcdef 2027-12-31x\n", "no day such as"},
        {"alice 0123456789abcdef 2027-12-31 more\n", "tokens:1: a line is"},
        {"\nalice short\n", "tokens:2:"},
        {"alice short\n", "openssl rand"},
        {"# nobody\n", "names no user"},
        {"", "names no user"},
        {"a-name-of-more-bytes-than-any-user-of-any-system-may-have-in-its-name 0123456789abcdef\n",
         "at most"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        cr_assert_eq(open_tokens(rows[i].text, NULL), ST_INVALID, "%s", rows[i].text);
        cr_assert(strstr(fault.text, rows[i].word), "%s", fault.text);
        cr_assert(strstr(fault.text, "--token-file"), "%s", fault.text);
        cr_assert_null(strstr(fault.text, "0123456789abcdef"), "a secret is said: %s", fault.text);
    }
    cr_assert_eq(open_tokens("alice 0123456789abcdef\n", "no-such-group"), ST_INVALID);
    cr_assert(strstr(fault.text, "--admin-group no-such-group"), "%s", fault.text);
    chmod(scratch_path(&scratch, "tokens"), 0640);
    cr_assert_eq(access_open(scratch_path(&scratch, "tokens"), NULL, &opened, &fault),
                 ST_NOT_PERMITTED);
    cr_assert(strstr(fault.text, "chmod 600"), "%s", fault.text);
    cr_assert_eq(access_open("/nowhere/tokens", NULL, &opened, &fault), ST_NOT_FOUND);
    cr_assert_null(opened);
}
