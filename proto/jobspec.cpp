// The job file as TOML. The one file that knows toml++; no exception leaves it.

#define TOML_EXCEPTIONS        0
#define TOML_ENABLE_FORMATTERS 0
#define TOML_MAX_NESTED_VALUES 16
// toml++ 3.3 asserts some of what it goes on to report as an error: `[(]` would end the process.
#define TOML_ASSERT(condition) static_assert(true)
#include <toml++/toml.h>

#include <cctype>
#include <cstdarg>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <unistd.h>
#include <vector>

#include "proto/durable.h"
#include "proto/jobspec.h"
#include "proto/jobspec_check.h"
#include "proto/utf8.h"

namespace
{

constexpr size_t file_bytes_max = JOBSPEC_BYTES_MAX;

// toml++ makes a table inside a table for each dot of a name and frees them by recursion; no line of a
// job file has more dots than this.
constexpr int line_dots_max = 64;

std::string format(const char *pattern, ...) __attribute__((format(printf, 1, 2)));

std::string format(const char *pattern, ...)
{
    char text[512];
    va_list args;
    va_start(args, pattern);
    vsnprintf(text, sizeof text, pattern, args);
    va_end(args);
    return text;
}

// A text that was parsed: the job file, or an override.
struct source {
    std::string name;
    std::string text;
    std::vector<size_t> lines; // where each begins
    bool bare = false;         // an override whose value is no TOML value and was taken as a text
    size_t bare_begin = 0, bare_end = 0;
    toml::table table;

    source(std::string name_, std::string text_) : name(std::move(name_)), text(std::move(text_))
    {
        lines.push_back(0);
        for (size_t i = 0; i < text.size(); i++)
            if (text[i] == '\n') lines.push_back(i + 1);
    }

    std::string_view line(size_t number) const
    {
        if (number < 1 || number > lines.size()) return {};
        size_t begin = lines[number - 1];
        size_t end = number < lines.size() ? lines[number] - 1 : text.size();
        std::string_view found = std::string_view(text).substr(begin, end - begin);
        if (!found.empty() && found.back() == '\r') found.remove_suffix(1);
        return found;
    }

    // Bytes of `count` letters; toml++ counts columns in letters, and a byte-order mark as none.
    static size_t letters(std::string_view line, size_t count)
    {
        size_t bytes = 0;
        for (; count > 0 && bytes < line.size(); count--)
            for (bytes++; bytes < line.size() && (line[bytes] & 0xc0) == 0x80;) bytes++;
        return bytes;
    }

    jobspec_place at(size_t number, size_t begin, size_t end) const
    {
        std::string_view whole = line(number);
        jobspec_place place = {};
        place.source = name.c_str();
        place.line_text = whole.data();
        place.line_length = whole.size();
        place.line = (int)number;
        place.column = (int)begin + 1;
        place.length = end > begin ? (int)(end - begin) : 1;
        return place;
    }

    jobspec_place place(const toml::source_region &region) const
    {
        size_t number = region.begin.line;
        std::string_view whole = line(number);
        size_t mark = number == 1 && whole.substr(0, 3) == "\xef\xbb\xbf" ? 3 : 0;
        std::string_view counted = whole.substr(mark);
        size_t begin = region.begin.column > 0 ? letters(counted, region.begin.column - 1) : 0;
        size_t end = region.end.line == region.begin.line && region.end.column > 0
                         ? letters(counted, region.end.column - 1)
                         : counted.size();
        return at(number, mark + begin, mark + end);
    }

    jobspec_place value_place(const toml::node &node) const
    {
        return bare ? at(1, bare_begin, bare_end) : place(node.source());
    }
};

const char *kind_words(jobspec_kind kind)
{
    switch (kind) {
    case KIND_TEXTS:
        return "an array of strings";
    case KIND_INT:
        return "an integer";
    case KIND_REAL:
        return "a number";
    case KIND_FLAG:
        return "true or false";
    default:
        return "a string";
    }
}

const char *type_words(const toml::node &node)
{
    switch (node.type()) {
    case toml::node_type::string:
        return "a string";
    case toml::node_type::integer:
        return "an integer";
    case toml::node_type::floating_point:
        return "a number with a fraction or exponent";
    case toml::node_type::boolean:
        return "true or false";
    case toml::node_type::array:
        return "an array";
    case toml::node_type::table:
        return "a table";
    default:
        return "a date or time";
    }
}

const char *type_cure(jobspec_kind kind, const toml::node &node)
{
    bool wants_text = kind == KIND_TEXT || kind == KIND_PATH || kind > KIND_FLAG;
    if (node.is_string() && (kind == KIND_INT || kind == KIND_REAL || kind == KIND_FLAG))
        return "write it without quotes";
    if (kind == KIND_INT && node.is_floating_point())
        return "write it without fraction and exponent";
    if (wants_text && node.is_value()) return "put it in quotes";
    return "";
}

double number(const toml::node &node)
{
    return node.is_integer() ? (double)node.as_integer()->get() : node.as_floating_point()->get();
}

char *copy_text(std::string_view text)
{
    char *copy = (char *)malloc(text.size() + 1);
    if (!copy) throw std::bad_alloc();
    memcpy(copy, text.data(), text.size());
    copy[text.size()] = '\0';
    return copy;
}

void replace_text(char **slot, std::string_view text)
{
    char *copy = copy_text(text);
    free(*slot);
    *slot = copy;
}

std::string directory_of(const char *path)
{
    std::string directory(path);
    size_t slash = directory.rfind('/');
    directory = slash == std::string::npos ? "" : directory.substr(0, slash + 1);
    if (!directory.empty() && directory[0] == '/') return directory;
    std::unique_ptr<char, void (*)(void *)> current(getcwd(nullptr, 0), free);
    return std::string(current ? current.get() : "") + "/" + directory;
}

class reader
{
  public:
    reader(jobspec_reading &reading_) : reading(reading_), directory(directory_of(reading_.path))
    {
    }

    void report_too_large(size_t bytes);
    bool read_file(std::string_view text); // false: it is no TOML
    void read_override(const char *text);
    void fill();

  private:
    // A misspelled name and what it was meant to be: a section, or a key of it.
    struct guess {
        const source *from;
        const toml::key *key;
        const toml::node *node;
        int section;
        int id;
    };

    bool check_line(const source &from, size_t number);
    bool check_lines(const source &from);
    bool parse(source &from, std::string_view text, bool report);
    void walk(const source &from, const toml::table &table, int section);
    void walk_entry(const source &from, const toml::key &key, const toml::node &node, int section);
    void walk_section(const source &from, const toml::key &key, const toml::node &node,
                      int section);
    void give(jobspec_key_id id, const source &from, const toml::key &key, const toml::node &node);
    void follow_guesses();
    void report_unknown(const source &from, const toml::key &key, const toml::node &node,
                        int section);
    void report_missing(jobspec_key_id id);
    void set_default(jobspec_key_id id);
    void set_value(jobspec_key_id id, const toml::node &node);
    bool set_text(jobspec_key_id id, std::string_view text);
    bool set_choice(jobspec_key_id id, const std::string &text);
    bool set_texts(jobspec_key_id id, const toml::array &array);
    void report_type(jobspec_key_id id, const toml::node &node);
    template <class T> T &slot(jobspec_key_id id)
    {
        return *(T *)((char *)reading.spec + jobspec_keys[id].offset);
    }

    jobspec_reading &reading;
    std::string directory; // ends in '/'
    std::deque<source> sources;
    std::vector<guess> guesses;
    const toml::node *nodes[KEY_COUNT] = {};
};

/* ---- texts to tables ---- */

bool reader::check_line(const source &from, size_t number)
{
    std::string_view line = from.line(number);
    int dots = 0;
    for (size_t i = 0; i < line.size();) {
        // The text ends in NUL, so that a sequence cut off at its end is seen.
        size_t length = utf8_length(line.data() + i);
        if (length == 0) {
            jobspec_place place = from.at(number, i, i + 1);
            jobspec_report(&reading, MISTAKE_SYNTAX, &place, "here", "save the file as UTF-8",
                           "not TOML: a byte that is no text");
            return false;
        }
        if (line[i] == '.' && ++dots > line_dots_max) {
            jobspec_place place = from.at(number, i, i + 1);
            jobspec_report(&reading, MISTAKE_TOO_DEEP, &place, "one dot too many", "",
                           "more than %d dots in one line", line_dots_max);
            return false;
        }
        i += length;
    }
    return true;
}

bool reader::check_lines(const source &from)
{
    for (size_t number = 1; number <= from.lines.size(); number++)
        if (!check_line(from, number)) return false;
    return true;
}

// The word around or just before a place that toml++ names, which may be its first letter or its last.
jobspec_place word_at(const source &from, const toml::source_region &region)
{
    jobspec_place place = from.place(region);
    std::string_view line(place.line_text, place.line_length);
    auto in_word = [&](size_t i) {
        return i < line.size() && (isalnum((unsigned char)line[i]) || strchr("_-+.", line[i]));
    };
    size_t begin = (size_t)place.column - 1, end = begin;
    while (begin > 0 && in_word(begin - 1)) begin--;
    while (in_word(end)) end++;
    return from.at((size_t)place.line, begin, end);
}

// A text without quotes is the most common mistake.
const char *syntax_cure(const jobspec_place &place)
{
    std::string_view before(place.line_text, (size_t)place.column - 1);
    size_t last = before.find_last_not_of(" \t");
    bool value = last != std::string_view::npos && before[last] == '=';
    bool word = place.column <= (int)place.line_length &&
                isalpha((unsigned char)place.line_text[place.column - 1]);
    return value && word ? "texts stand in quotes" : "";
}

bool reader::parse(source &from, std::string_view text, bool report)
{
    toml::parse_result result = toml::parse(text);
    if (result) {
        from.table = std::move(result).table();
        return true;
    }
    if (!report) return false;
    const toml::parse_error &error = result.error();
    jobspec_place place = word_at(from, error.source());
    std::string words(error.description());
    jobspec_report(&reading, MISTAKE_SYNTAX, &place, "here", syntax_cure(place), "not TOML: %s",
                   words.c_str());
    return false;
}

void reader::report_too_large(size_t bytes)
{
    jobspec_place nowhere = {};
    jobspec_report(&reading, MISTAKE_TOO_LARGE, &nowhere, "", "is this the job file?",
                   "a job file of %zu bytes; the limit is %zu", bytes, file_bytes_max);
}

bool reader::read_file(std::string_view text)
{
    source &from = sources.emplace_back(reading.path, std::string(text));
    if (!check_lines(from) || !parse(from, from.text, true)) return false;
    walk(from, from.table, SECTION_COUNT);
    return true;
}

// `key = "value"` for an override whose value is no TOML: a word without quotes.
static std::string quote_value(std::string_view key, std::string_view value)
{
    std::string quoted(key);
    quoted += "= \"";
    for (char c : value) {
        if (c == '"' || c == '\\') quoted += '\\';
        quoted += c;
    }
    return quoted + "\"";
}

void reader::read_override(const char *text)
{
    source &from = sources.emplace_back("--set", text);
    size_t equals = from.text.find('=');
    size_t newline = from.text.find('\n');
    if (equals == std::string::npos || newline != std::string::npos) {
        jobspec_place place = from.at(1, 0, from.line(1).size());
        jobspec_report(&reading, MISTAKE_OVERRIDE, &place, "not of the form section.key=value",
                       "for example --set train.steps=100", "an override that sets no key");
        return;
    }
    if (!check_lines(from)) return;
    if (parse(from, from.text, false)) return walk(from, from.table, SECTION_COUNT);

    std::string_view whole(from.text);
    size_t begin = whole.find_first_not_of(" \t", equals + 1);
    if (begin == std::string_view::npos || strchr("\"'[{", whole[begin])) {
        parse(from, from.text, true);
        return;
    }
    from.bare = true;
    from.bare_begin = begin;
    from.bare_end = whole.find_last_not_of(" \t") + 1;
    std::string quoted =
        quote_value(whole.substr(0, equals), whole.substr(begin, from.bare_end - begin));
    if (parse(from, quoted, true)) walk(from, from.table, SECTION_COUNT);
}

/* ---- tables to keys ---- */

int section_named(const std::string &title)
{
    for (int i = 0; i < SECTION_COUNT; i++)
        if (title == jobspec_section_titles[i]) return i;
    return SECTION_COUNT;
}

int key_named(int section, std::string_view name)
{
    for (int i = 0; i < KEY_COUNT; i++)
        if (jobspec_keys[i].section == section && name == jobspec_keys[i].name) return i;
    return KEY_COUNT;
}

void reader::walk(const source &from, const toml::table &table, int section)
{
    for (auto &&[key, node] : table) walk_entry(from, key, node, section);
}

// `section` is SECTION_COUNT at the top of the file.
void reader::walk_entry(const source &from, const toml::key &key, const toml::node &node,
                        int section)
{
    bool top = section == SECTION_COUNT;
    std::string title = (top ? "" : std::string(jobspec_section_titles[section]) + ".");
    title += key.str();
    int inner = section_named(title);
    if (inner != SECTION_COUNT) {
        walk_section(from, key, node, inner);
        return;
    }
    int id = top ? KEY_COUNT : key_named(section, key.str());
    if (id == KEY_COUNT) {
        report_unknown(from, key, node, section);
        return;
    }
    give((jobspec_key_id)id, from, key, node);
}

void reader::give(jobspec_key_id id, const source &from, const toml::key &key,
                  const toml::node &node)
{
    reading.given[id] = true;
    reading.key[id] = from.place(key.source());
    reading.value[id] = from.value_place(node);
    nodes[id] = &node;
}

void reader::walk_section(const source &from, const toml::key &key, const toml::node &node,
                          int section)
{
    jobspec_place place = from.place(key.source());
    const char *title = jobspec_section_titles[section];
    const toml::table *table = node.as_table();
    if (!table) {
        jobspec_report(&reading, MISTAKE_NOT_A_SECTION, &place, "this is a section",
                       format("write [%s] on a line of its own", title).c_str(),
                       "`%s` is a section, not a key", title);
        return;
    }
    if (reading.section[section].line == 0) reading.section[section] = place;
    walk(from, *table, section);
}

// A key or section name near to `name` where it stands; KEY_COUNT or SECTION_COUNT where none is.
int near_section(const std::string &name)
{
    const char *near = nearest_word(name.c_str(), jobspec_section_titles, SECTION_COUNT);
    return near ? section_named(near) : SECTION_COUNT;
}

int near_key(const std::string &name, int section)
{
    std::vector<const char *> here;
    for (const jobspec_key &key : jobspec_keys)
        if (key.section == section) here.push_back(key.name);
    const char *near = nearest_word(name.c_str(), here.data(), here.size());
    return near ? key_named(section, near) : KEY_COUNT;
}

// Where else a key of that name is.
std::string elsewhere(const std::string &name)
{
    for (const jobspec_key &key : jobspec_keys)
        if (name == key.name)
            return format("`%s` is a key of [%s]", key.name, jobspec_section_titles[key.section]);
    return "";
}

// A misspelled name is taken for the one that was meant, so that one mistake is told once and what is
// inside a misspelled section is looked at.
void reader::report_unknown(const source &from, const toml::key &key, const toml::node &node,
                            int section)
{
    jobspec_place place = from.place(key.source());
    std::string name(key.str());
    if (section == SECTION_COUNT && !node.is_table() && !node.is_array_of_tables()) {
        jobspec_report(&reading, MISTAKE_NO_SECTION, &place, "stands before every section",
                       elsewhere(name).c_str(), "the key `%s` is in no section", name.c_str());
        return;
    }
    if (section == SECTION_COUNT || node.is_table()) {
        std::string prefix =
            section == SECTION_COUNT ? "" : std::string(jobspec_section_titles[section]) + ".";
        std::string title = prefix + name;
        int near = near_section(title);
        bool found = near != SECTION_COUNT;
        jobspec_report(&reading, MISTAKE_SECTION, &place, "not a section of a job file",
                       found ? format("did you mean [%s]?", jobspec_section_titles[near]).c_str()
                             : "",
                       "unknown section [%s]", title.c_str());
        if (found && node.is_table()) guesses.push_back({&from, &key, &node, near, KEY_COUNT});
        return;
    }
    int near = near_key(name, section);
    bool found = near != KEY_COUNT;
    const char *title = jobspec_section_titles[section];
    jobspec_report(&reading, MISTAKE_KEY, &place, format("not a key of [%s]", title).c_str(),
                   found ? format("did you mean `%s`?", jobspec_keys[near].name).c_str()
                         : elsewhere(name).c_str(),
                   "unknown key `%s` in [%s]", name.c_str(), title);
    if (found) guesses.push_back({&from, &key, &node, section, near});
}

void reader::follow_guesses()
{
    // Following one may add others: a misspelled key in a misspelled section.
    for (size_t i = 0; i < guesses.size(); i++) {
        const guess meant = guesses[i];
        if (meant.id == KEY_COUNT) {
            if (reading.section[meant.section].line == 0)
                walk_section(*meant.from, *meant.key, *meant.node, meant.section);
        } else if (!reading.given[meant.id]) {
            give((jobspec_key_id)meant.id, *meant.from, *meant.key, *meant.node);
        }
    }
}

/* ---- keys to values ---- */

void reader::report_type(jobspec_key_id id, const toml::node &node)
{
    const jobspec_key &key = jobspec_keys[id];
    jobspec_report(&reading, MISTAKE_TYPE, &reading.value[id],
                   format("expected %s, found %s", kind_words(key.kind), type_words(node)).c_str(),
                   type_cure(key.kind, node), "`%s` in [%s] is not %s", key.name,
                   jobspec_section_titles[key.section], kind_words(key.kind));
}

bool reader::set_text(jobspec_key_id id, std::string_view text)
{
    const jobspec_key &key = jobspec_keys[id];
    if (text.find('\0') != std::string_view::npos) {
        jobspec_report(&reading, MISTAKE_TEXT, &reading.value[id], "holds a NUL", "",
                       "`%s` in [%s] cannot be used", key.name,
                       jobspec_section_titles[key.section]);
        return false;
    }
    if (key.kind == KIND_PATH && !text.empty() && text[0] != '/')
        replace_text(&slot<char *>(id), directory + std::string(text));
    else
        replace_text(&slot<char *>(id), text);
    return true;
}

bool reader::set_texts(jobspec_key_id id, const toml::array &array)
{
    for (const toml::node &item : array)
        if (!item.is_string()) return false;
    text_list &list = slot<text_list>(id);
    list.items = (char **)calloc(array.size() + 1, sizeof *list.items);
    if (!list.items) throw std::bad_alloc();
    for (const toml::node &item : array)
        list.items[list.count++] = copy_text(item.as_string()->get());
    return true;
}

// "favor, softmax, identity": those that work.
std::string built_choices(jobspec_kind kind)
{
    jobspec_choices choices = jobspec_kind_choices(kind);
    std::string list;
    for (size_t i = 0; i < choices.count; i++)
        if (choices.items[i].built)
            list += (list.empty() ? "" : ", ") + std::string(choices.items[i].text);
    return list;
}

std::string choice_cure(jobspec_kind kind, const std::string &text)
{
    jobspec_choices choices = jobspec_kind_choices(kind);
    std::vector<const char *> texts;
    for (size_t i = 0; i < choices.count; i++) texts.push_back(choices.items[i].text);
    const char *near = nearest_word(text.c_str(), texts.data(), texts.size());
    std::string cure = near ? format("did you mean \"%s\"? Use one of: ", near) : "use one of: ";
    return cure + built_choices(kind);
}

bool reader::set_choice(jobspec_key_id id, const std::string &text)
{
    const jobspec_key &key = jobspec_keys[id];
    const char *title = jobspec_section_titles[key.section];
    jobspec_choices choices = jobspec_kind_choices(key.kind);
    for (size_t i = 0; i < choices.count; i++) {
        const jobspec_choice &choice = choices.items[i];
        if (text != choice.text) continue;
        if (!choice.built)
            jobspec_report(&reading, MISTAKE_CHOICE_LATER, &reading.value[id], "not built yet",
                           ("works so far: " + built_choices(key.kind)).c_str(),
                           "%s = \"%s\" in [%s] is not built yet", key.name, choice.text, title);
        memcpy(&slot<char>(id), &choice.value, sizeof choice.value);
        return true;
    }
    jobspec_report(&reading, MISTAKE_CHOICE, &reading.value[id], "not one of its values",
                   choice_cure(key.kind, text).c_str(), "\"%.60s\" is no value of `%s` in [%s]",
                   text.c_str(), key.name, title);
    return false;
}

void reader::set_value(jobspec_key_id id, const toml::node &node)
{
    const jobspec_key &key = jobspec_keys[id];
    bool typed = true;
    switch (key.kind) {
    case KIND_TEXT:
    case KIND_PATH:
        typed = node.is_string();
        if (typed) reading.good[id] = set_text(id, node.as_string()->get());
        break;
    case KIND_TEXTS:
        typed = node.is_array() && set_texts(id, *node.as_array());
        reading.good[id] = typed;
        break;
    case KIND_INT:
        typed = node.is_integer();
        if (typed) slot<int64_t>(id) = node.as_integer()->get();
        reading.good[id] = typed;
        break;
    case KIND_REAL:
        typed = node.is_number();
        if (typed) slot<double>(id) = number(node);
        reading.good[id] = typed;
        break;
    case KIND_FLAG:
        typed = node.is_boolean();
        if (typed) slot<bool>(id) = node.as_boolean()->get();
        reading.good[id] = typed;
        break;
    default:
        typed = node.is_string();
        if (typed) reading.good[id] = set_choice(id, node.as_string()->get());
        break;
    }
    if (!typed) report_type(id, node);
}

void reader::set_default(jobspec_key_id id)
{
    const jobspec_key &key = jobspec_keys[id];
    bool none = key.default_text == jobspec_required || key.default_text == jobspec_derived;
    const char *text = none ? "" : key.default_text;
    switch (key.kind) {
    case KIND_TEXT:
    case KIND_PATH:
        replace_text(&slot<char *>(id), text);
        break;
    case KIND_TEXTS:
        break;
    case KIND_INT:
        slot<int64_t>(id) = strtoll(text, nullptr, 10);
        break;
    case KIND_REAL:
        slot<double>(id) = strtod(text, nullptr);
        break;
    case KIND_FLAG:
        slot<bool>(id) = strcmp(text, "true") == 0;
        break;
    default:
        if (!none) set_choice(id, text);
        break;
    }
}

void reader::report_missing(jobspec_key_id id)
{
    const jobspec_key &key = jobspec_keys[id];
    const char *title = jobspec_section_titles[key.section];
    bool quoted = key.kind != KIND_INT && key.kind != KIND_REAL;
    jobspec_report(&reading, MISTAKE_MISSING, &reading.section[key.section],
                   format("`%s` is missing here", key.name).c_str(),
                   format("add `%s = %s` to [%s]: %s", key.name, quoted ? "\"...\"" : "...", title,
                          key.meaning)
                       .c_str(),
                   "[%s] needs the key `%s`", title, key.name);
}

void reader::fill()
{
    follow_guesses();
    for (int i = 0; i < KEY_COUNT; i++) {
        jobspec_key_id id = (jobspec_key_id)i;
        bool required = jobspec_keys[i].default_text == jobspec_required;
        set_default(id);
        reading.good[i] = !reading.given[i] && !required;
        if (reading.given[i])
            set_value(id, *nodes[i]);
        else if (required)
            report_missing(id);
    }
    jobspec_check(&reading);
}

} // namespace

static enum status parse_all(std::string_view text, const jobspec_override *overrides,
                             size_t override_count, jobspec_reading &reading)
{
    reader reader(reading);
    if (text.size() > file_bytes_max) {
        reader.report_too_large(text.size());
        return ST_TOO_LARGE;
    }
    // A file that is no TOML does not say which keys are missing.
    bool readable = reader.read_file(text);
    for (size_t i = 0; i < override_count; i++) reader.read_override(overrides[i].text);
    if (readable) reader.fill();
    diagnostics_sort(reading.diagnostics, reading.path);
    return reading.diagnostics->errors > 0 ? ST_INVALID : ST_OK;
}

enum status jobspec_parse(const char *text, size_t length, const char *path,
                          const struct jobspec_override *overrides, size_t override_count,
                          struct diagnostics *diagnostics, struct jobspec *spec)
{
    enum status status = ST_NO_MEMORY;
    jobspec parsed = {};
    try {
        auto reading = std::make_unique<jobspec_reading>();
        reading->path = path;
        reading->diagnostics = diagnostics;
        reading->spec = &parsed;
        status = parse_all(std::string_view(text, length), overrides, override_count, *reading);
    } catch (const std::bad_alloc &) {
        status = ST_NO_MEMORY;
    } catch (...) {
        status = ST_INTERNAL;
    }
    if (status == ST_OK)
        *spec = parsed;
    else
        jobspec_free(&parsed);
    return status;
}

enum status jobspec_load(const char *path, const struct jobspec_override *overrides,
                         size_t override_count, struct diagnostics *diagnostics,
                         struct jobspec *spec, struct fault *fault)
{
    char *text;
    size_t length;
    enum status status = file_read(path, file_bytes_max, &text, &length, fault);
    if (status != ST_OK) return status;
    status = jobspec_parse(text, length, path, overrides, override_count, diagnostics, spec);
    free(text);
    if (status == ST_OK) return ST_OK;
    if (status == ST_INVALID)
        return fault_set(fault, status, "%s has %zu mistake%s", path, diagnostics->errors,
                         diagnostics->errors == 1 ? "" : "s");
    return fault_set(fault, status, "could not read %s: %s", path, status_text(status));
}

void jobspec_free(struct jobspec *spec)
{
    for (const jobspec_key &key : jobspec_keys) {
        void *slot = (char *)spec + key.offset;
        if (key.kind == KIND_TEXT || key.kind == KIND_PATH) free(*(char **)slot);
        if (key.kind != KIND_TEXTS) continue;
        text_list *list = (text_list *)slot;
        for (size_t i = 0; i < list->count; i++) free(list->items[i]);
        free(list->items);
    }
    *spec = {};
}
