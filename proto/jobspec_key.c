#include "proto/jobspec_key.h"

#include <stddef.h>

#define SECTION_TITLE(section, title, KEYS) [SECTION_##section] = title,
const char *const jobspec_section_titles[SECTION_COUNT] = {JOBSPEC_SECTIONS(SECTION_TITLE)};

const char jobspec_required[] = "required";
const char jobspec_derived[] = "derived";
#define REQUIRED jobspec_required
#define DERIVED  jobspec_derived

enum { ANY = false, ONLY_DEFAULT = true };

#define KEY_ROW(section_, key_, kind_, default_, support_, meaning_) \
    [KEY_##section_##_##key_] = {.section = SECTION_##section_,      \
                                 .name = #key_,                      \
                                 .kind = KIND_##kind_,               \
                                 .default_text = default_,           \
                                 .only_default = support_,           \
                                 .meaning = meaning_,                \
                                 .offset = offsetof(struct jobspec, section_.key_)},
#define KEY_ROWS(section, title, KEYS) KEYS(KEY_ROW)
const struct jobspec_key jobspec_keys[KEY_COUNT] = {JOBSPEC_SECTIONS(KEY_ROWS)};

enum { LATER = false, BUILT = true };

#define CHOICE_ROW(enumerator, text, support) {text, enumerator, support},
#define CHOICE_TABLE(KIND, tag, LIST) \
    static const struct jobspec_choice tag##_choices[] = {LIST(CHOICE_ROW)};
JOBSPEC_CHOICES(CHOICE_TABLE)

#define CHOICES_OF(KIND, tag, LIST) \
    [KIND_##KIND] = {sizeof tag##_choices / sizeof tag##_choices[0], tag##_choices},
static const struct jobspec_choices kind_choices[KIND_COUNT] = {JOBSPEC_CHOICES(CHOICES_OF)};

struct jobspec_choices jobspec_kind_choices(enum jobspec_kind kind)
{
    return kind_choices[kind];
}
