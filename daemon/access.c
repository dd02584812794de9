#include "daemon/access.h"

#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "daemon/memory.h"
#include "proto/secret.h"

enum { FILE_BYTES_MAX = 1 << 20, TOKEN_BYTES_MIN = 16, TOKEN_BYTES_MAX = 1024 };

#define A_LINE "a line is a user, a token and, if it shall end, its last day"

struct key {
    struct caller caller;
    char *token;
    time_t until; /* 0: for ever */
};

struct access {
    uid_t owner;
    char owner_name[USER_SIZE], root_name[USER_SIZE];
    char *text; /* of the token file, whose tokens the keys borrow */
    struct key *keys;
    size_t key_count;
};

static void name_of_uid(uid_t uid, char name[USER_SIZE])
{
    const struct passwd *entry = getpwuid(uid);
    if (entry)
        text_copy(name, USER_SIZE, entry->pw_name);
    else
        snprintf(name, USER_SIZE, "uid-%u", (unsigned)uid);
}

/* ---- the token file ---- */

static bool is_member(const struct group *group, const char *user)
{
    for (char **member = group->gr_mem; *member; member++)
        if (strcmp(*member, user) == 0) return true;
    const struct passwd *entry = getpwnam(user);
    return entry && entry->pw_gid == group->gr_gid;
}

enum { WORD_USER, WORD_TOKEN, WORD_LAST_DAY, WORDS };

/* Words of a line, split in place; NULL behind the last. Returns how many there are, which may be more. */
static int split(char *line, char *words[WORDS])
{
    int count = 0;
    char *rest = NULL;
    memset(words, 0, WORDS * sizeof *words);
    for (char *word = strtok_r(line, " \t\r", &rest); word; word = strtok_r(NULL, " \t\r", &rest)) {
        if (count == 0 && word[0] == '#') return 0;
        if (count < WORDS) words[count] = word;
        count++;
    }
    return count;
}

/* The first second, by UTC, after the day that the text names. */
static bool end_of_day(const char *text, time_t *end)
{
    struct tm day = {0};
    const char *rest = strptime(text, "%Y-%m-%d", &day);
    if (!rest || *rest != '\0') return false;
    const int told = day.tm_mday;
    *end = timegm(&day) + 24 * 60 * 60;
    return day.tm_mday == told; /* the 31st of a shorter month is another day */
}

static enum status take_line(struct access *access, const char *path, int number, char *line,
                             struct fault *fault)
{
    char *words[WORDS];
    int count = split(line, words);
    if (count == 0) return ST_OK;
    if (count < 2 || count > WORDS)
        return fault_set(fault, ST_INVALID, "%s:%d: " A_LINE, path, number);
    struct key key = {.token = words[WORD_TOKEN]};
    size_t length = strlen(key.token);
    if (length < TOKEN_BYTES_MIN || length > TOKEN_BYTES_MAX)
        return fault_set(fault, ST_INVALID,
                         "%s:%d: the token of %.40s has %zu bytes: %d to %d are taken; "
                         "openssl rand -hex 16 makes a good one",
                         path, number, words[WORD_USER], length, TOKEN_BYTES_MIN, TOKEN_BYTES_MAX);
    if (strlen(words[WORD_USER]) >= USER_SIZE)
        return fault_set(fault, ST_INVALID, "%s:%d: a user's name has at most %d bytes", path,
                         number, USER_SIZE - 1);
    if (words[WORD_LAST_DAY] && !end_of_day(words[WORD_LAST_DAY], &key.until))
        return fault_set(fault, ST_INVALID, "%s:%d: %.40s is no day such as 2027-12-31", path,
                         number, words[WORD_LAST_DAY]);
    text_copy(key.caller.user, sizeof key.caller.user, words[WORD_USER]);
    access->keys = memory_grow(access->keys, (access->key_count + 1) * sizeof key);
    access->keys[access->key_count++] = key;
    return ST_OK;
}

static enum status read_tokens(struct access *access, const char *path, struct fault *fault)
{
    enum status status = secret_read(path, FILE_BYTES_MAX, &access->text, fault);
    if (status != ST_OK) return fault_wrap(fault, "--token-file");
    char *rest = access->text, *line;
    for (int number = 1; status == ST_OK && (line = strsep(&rest, "\n")); number++)
        status = take_line(access, path, number, line, fault);
    if (status == ST_OK && access->key_count == 0)
        status = fault_set(fault, ST_INVALID, "%s names no user: " A_LINE, path);
    return status == ST_OK ? ST_OK : fault_wrap(fault, "--token-file");
}

static enum status find_admins(struct access *access, const char *name, struct fault *fault)
{
    const struct group *group = getgrnam(name);
    if (!group)
        return fault_set(fault, ST_INVALID, "--admin-group %s: there is no such group here", name);
    for (size_t i = 0; i < access->key_count; i++)
        access->keys[i].caller.admin = is_member(group, access->keys[i].caller.user);
    return ST_OK;
}

enum status access_open(const char *token_file, const char *admin_group, struct access **access,
                        struct fault *fault)
{
    struct access *opened = memory_zeroed(1, sizeof *opened);
    opened->owner = geteuid();
    name_of_uid(opened->owner, opened->owner_name);
    name_of_uid(0, opened->root_name);
    enum status status = token_file ? read_tokens(opened, token_file, fault) : ST_OK;
    if (status == ST_OK && admin_group) status = find_admins(opened, admin_group, fault);
    if (status != ST_OK) {
        access_close(opened);
        return status;
    }
    *access = opened;
    return ST_OK;
}

void access_close(struct access *access)
{
    if (!access) return;
    free(access->keys);
    free(access->text);
    free(access);
}

/* ---- questions ---- */

/* All keys are looked at, whichever fits. */
static const struct key *find_key(const struct access *access, const char *token)
{
    const struct key *found = NULL;
    for (size_t i = 0; i < access->key_count; i++)
        if (secret_equal(access->keys[i].token, token)) found = &access->keys[i];
    return found;
}

enum status access_identify(const struct access *access, const struct peer *peer, const char *token,
                            struct caller *caller)
{
    if (token[0] != '\0') {
        const struct key *key = find_key(access, token);
        if (!key || (key->until != 0 && time(NULL) >= key->until)) return ST_NOT_PERMITTED;
        *caller = key->caller;
        return ST_OK;
    }
    if (!peer->local || (peer->uid != access->owner && peer->uid != 0)) return ST_NOT_PERMITTED;
    struct caller owner = {.admin = true};
    text_copy(owner.user, sizeof owner.user,
              peer->uid == access->owner ? access->owner_name : access->root_name);
    *caller = owner;
    return ST_OK;
}
