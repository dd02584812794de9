#include "proto/diagnostic.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "proto/utf8.h"

/* More than anybody reads; a hostile file must not cost memory without bound. */
enum { DIAGNOSTICS_MAX = 100 };

/* What stands in a hostile file must not steer a terminal, nor make JSON that nobody can read. */
static void text_clean(char *text)
{
    utf8_repair(text);
    for (; *text != '\0'; text++)
        if (((unsigned char)*text < ' ' && *text != '\t') || *text == 0x7f) *text = '?';
}

static void say_too_many(struct diagnostics *diagnostics)
{
    struct diagnostic *last = &diagnostics->items[diagnostics->count - 1];
    *last = (struct diagnostic){.severity = SEVERITY_ERROR, .code = "E0100"};
    snprintf(last->message, sizeof last->message, "too many mistakes to list them all");
    snprintf(last->help, sizeof last->help, "cure these first");
}

static bool grow(struct diagnostics *diagnostics)
{
    if (diagnostics->count < diagnostics->capacity) return true;
    size_t capacity = diagnostics->capacity ? 2 * diagnostics->capacity : 8;
    if (capacity > DIAGNOSTICS_MAX) capacity = DIAGNOSTICS_MAX;
    if (capacity == diagnostics->capacity) return false;
    struct diagnostic *grown = realloc(diagnostics->items, capacity * sizeof *grown);
    if (!grown) return false;
    diagnostics->items = grown;
    diagnostics->capacity = capacity;
    return true;
}

void diagnostics_add(struct diagnostics *diagnostics, const struct diagnostic *diagnostic)
{
    if (diagnostic->severity == SEVERITY_ERROR) diagnostics->errors++;
    if (!grow(diagnostics)) {
        if (diagnostics->count > 0) say_too_many(diagnostics);
        return;
    }
    struct diagnostic *added = &diagnostics->items[diagnostics->count++];
    *added = *diagnostic;
    text_clean(added->message);
    text_clean(added->source);
    text_clean(added->excerpt);
    text_clean(added->label);
    text_clean(added->help);
}

/* What has no place comes last; then by source, `first` before the others; then by place. */
static bool comes_before(const struct diagnostic *a, const struct diagnostic *b, const char *first)
{
    bool a_placed = a->line > 0, b_placed = b->line > 0;
    if (a_placed != b_placed) return a_placed;
    if (!a_placed) return false;
    bool a_first = strcmp(a->source, first) == 0, b_first = strcmp(b->source, first) == 0;
    if (a_first != b_first) return a_first;
    int sources = strcmp(a->source, b->source);
    if (sources != 0) return sources < 0;
    if (a->line != b->line) return a->line < b->line;
    return a->column < b->column;
}

void diagnostics_sort(struct diagnostics *diagnostics, const char *first)
{
    for (size_t i = 1; i < diagnostics->count; i++) {
        struct diagnostic moved = diagnostics->items[i];
        size_t place = i;
        for (; place > 0 && comes_before(&moved, &diagnostics->items[place - 1], first); place--)
            diagnostics->items[place] = diagnostics->items[place - 1];
        diagnostics->items[place] = moved;
    }
}

static const struct {
    const char *name, *colour;
} severities[] = {
    [SEVERITY_ERROR] = {"error", "\033[1;31m"},
    [SEVERITY_WARNING] = {"warning", "\033[1;33m"},
};

struct style {
    const char *severity, *frame, *bold, *reset;
};

static int digits(int number)
{
    int count = 1;
    for (; number >= 10; number /= 10) count++;
    return count;
}

/* Spaces as wide as the bytes before the carets: a letter of several bytes is one wide, a tab stays. */
static void print_indent(FILE *out, const char *excerpt, int bytes)
{
    for (int i = 0; i < bytes && excerpt[i] != '\0'; i++) {
        if (excerpt[i] == '\t')
            fputc('\t', out);
        else if (((unsigned char)excerpt[i] & 0xc0) != 0x80)
            fputc(' ', out);
    }
}

static void print_carets(FILE *out, const char *marked, int bytes)
{
    fputc('^', out);
    for (int i = 1; i < bytes && marked[0] != '\0' && marked[i] != '\0'; i++)
        if (((unsigned char)marked[i] & 0xc0) != 0x80) fputc('^', out);
}

static void print_excerpt(FILE *out, const struct diagnostic *item, const struct style *style)
{
    int width = digits(item->line);
    int first = item->excerpt_column > 0 ? item->excerpt_column : 1;
    int before = item->column - first;
    int length = (int)strlen(item->excerpt);
    if (before < 0) before = 0;
    if (before > length) before = length;
    fprintf(out, "%s%*s--> %s%s:%d:%d\n", style->frame, width, "", style->reset, item->source,
            item->line, item->column);
    fprintf(out, "%s%*s |%s\n", style->frame, width, "", style->reset);
    fprintf(out, "%s%d |%s %s\n", style->frame, item->line, style->reset, item->excerpt);
    fprintf(out, "%s%*s |%s ", style->frame, width, "", style->reset);
    print_indent(out, item->excerpt, before);
    fputs(style->severity, out);
    print_carets(out, item->excerpt + before, item->length);
    fprintf(out, "%s%s%s\n", item->label[0] ? " " : "", item->label, style->reset);
    if (item->help[0])
        fprintf(out, "%s%*s |\n%*s =%s %shelp:%s %s\n", style->frame, width, "", width, "",
                style->reset, style->bold, style->reset, item->help);
}

static void print_placeless(FILE *out, const struct diagnostic *item, const struct style *style)
{
    if (item->source[0]) fprintf(out, "%s --> %s%s\n", style->frame, style->reset, item->source);
    if (item->help[0])
        fprintf(out, "%s  =%s %shelp:%s %s\n", style->frame, style->reset, style->bold,
                style->reset, item->help);
}

void diagnostics_print(const struct diagnostics *diagnostics, FILE *out, bool colour)
{
    for (size_t i = 0; i < diagnostics->count; i++) {
        const struct diagnostic *item = &diagnostics->items[i];
        const struct style style = {
            .severity = colour ? severities[item->severity].colour : "",
            .frame = colour ? "\033[1;34m" : "",
            .bold = colour ? "\033[1m" : "",
            .reset = colour ? "\033[0m" : "",
        };
        if (i > 0) fputc('\n', out);
        fprintf(out, "%s%s[%s]%s%s: %s%s\n", style.severity, severities[item->severity].name,
                item->code, style.reset, style.bold, item->message, style.reset);
        if (item->line > 0)
            print_excerpt(out, item, &style);
        else
            print_placeless(out, item, &style);
    }
}

char *diagnostics_json(const struct diagnostics *diagnostics)
{
    json_t *array = json_array();
    for (size_t i = 0; i < diagnostics->count; i++) {
        const struct diagnostic *item = &diagnostics->items[i];
        json_t *object =
            json_pack("{s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:s, s:s}", "severity",
                      severities[item->severity].name, "code", item->code, "message", item->message,
                      "file", item->source, "line", item->line, "column", item->column, "length",
                      item->length, "label", item->label, "help", item->help);
        if (json_array_append_new(array, object) != 0) {
            json_decref(array);
            return NULL;
        }
    }
    char *text = json_dumps(array, JSON_INDENT(2));
    json_decref(array);
    return text;
}

void diagnostics_free(struct diagnostics *diagnostics)
{
    free(diagnostics->items);
    *diagnostics = (struct diagnostics){0};
}

enum { WORD_BYTES_MAX = 63 };

static int smallest(int a, int b, int c)
{
    int least = a < b ? a : b;
    return least < c ? least : c;
}

/* Damerau-Levenshtein distance in its restricted form, where no part is edited twice: the number of
 * bytes to insert, delete, replace, or swap with a neighbour. Both at most WORD_BYTES_MAX long. */
static int word_distance(const char *a, size_t a_length, const char *b, size_t b_length)
{
    int rows[3][WORD_BYTES_MAX + 1];
    int *before_last = rows[0], *last = rows[1], *current = rows[2];
    for (size_t j = 0; j <= b_length; j++) last[j] = (int)j;
    for (size_t i = 1; i <= a_length; i++) {
        current[0] = (int)i;
        for (size_t j = 1; j <= b_length; j++) {
            int replaced = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
            current[j] = smallest(last[j] + 1, current[j - 1] + 1, replaced);
            bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped && before_last[j - 2] + 1 < current[j]) current[j] = before_last[j - 2] + 1;
        }
        int *oldest = before_last;
        before_last = last;
        last = current;
        current = oldest;
    }
    return last[b_length];
}

const char *nearest_word(const char *word, const char *const *candidates, size_t count)
{
    size_t length = strlen(word);
    if (length > WORD_BYTES_MAX) return NULL;
    int limit = (int)(length / 3);
    if (limit < 1) limit = 1;
    if (limit > 3) limit = 3;
    const char *nearest = NULL;
    for (size_t i = 0; i < count; i++) {
        size_t candidate_length = strlen(candidates[i]);
        if (candidate_length > WORD_BYTES_MAX) continue;
        int distance = word_distance(word, length, candidates[i], candidate_length);
        if (distance > limit) continue;
        limit = distance - 1;
        nearest = candidates[i];
    }
    return nearest;
}
