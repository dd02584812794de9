#include <criterion/criterion.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/diagnostic.h"

static struct diagnostic example(int line, int column)
{
    struct diagnostic item = {
        .code = "E0203",
        .message = "unknown key `layres` in [model]",
        .source = "job.toml",
        .line = line,
        .column = column,
        .length = 6,
        .excerpt = "layres = 6",
        .label = "not a key of [model]",
        .help = "did you mean `layers`?",
    };
    return item;
}

static char *printed(const struct diagnostics *diagnostics, bool colour)
{
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);
    diagnostics_print(diagnostics, out, colour);
    fclose(out);
    return text;
}

static char *printed_one(const struct diagnostic *item)
{
    struct diagnostics diagnostics = {0};
    diagnostics_add(&diagnostics, item);
    char *text = printed(&diagnostics, false);
    diagnostics_free(&diagnostics);
    return text;
}

Test(diagnostic, is_shown_with_place_line_carets_and_cure)
{
    struct diagnostic item = example(14, 1);
    char *text = printed_one(&item);
    cr_assert_str_eq(text, "error[E0203]: unknown key `layres` in [model]\n"
                           "  --> job.toml:14:1\n"
                           "   |\n"
                           "14 | layres = 6\n"
                           "   | ^^^^^^ not a key of [model]\n"
                           "   |\n"
                           "   = help: did you mean `layers`?\n");
    free(text);
}

Test(diagnostic, without_a_place_shows_the_file_and_the_cure)
{
    struct diagnostic item = example(0, 0);
    item.severity = SEVERITY_WARNING;
    char *text = printed_one(&item);
    cr_assert_str_eq(text, "warning[E0203]: unknown key `layres` in [model]\n"
                           " --> job.toml\n"
                           "  = help: did you mean `layers`?\n");
    free(text);
}

Test(diagnostic, carets_stand_under_letters_of_several_bytes_and_behind_tabs)
{
    struct diagnostic item = example(3, 10);
    snprintf(item.excerpt, sizeof item.excerpt, "\tn = \"\xc3\xa9\xc3\xa9\" x");
    item.column = 12;
    item.length = 1;
    char *text = printed_one(&item);
    cr_assert(strstr(text, "\n  | \t        ^ not"), "%s", text);
    free(text);
    item.column = 6;
    item.length = 6;
    text = printed_one(&item);
    cr_assert(strstr(text, "\n  | \t    ^^^^ not"), "%s", text);
    free(text);
}

Test(diagnostic, colour_is_asked_for)
{
    struct diagnostics diagnostics = {0};
    struct diagnostic item = example(14, 1);
    diagnostics_add(&diagnostics, &item);
    char *plain = printed(&diagnostics, false), *coloured = printed(&diagnostics, true);
    cr_assert_null(strchr(plain, '\033'));
    cr_assert_not_null(strchr(coloured, '\033'));
    free(plain);
    free(coloured);
    diagnostics_free(&diagnostics);
}

Test(diagnostic, hostile_bytes_reach_neither_terminal_nor_json)
{
    struct diagnostics diagnostics = {0};
    struct diagnostic item = example(1, 1);
    snprintf(item.excerpt, sizeof item.excerpt, "a\033[2Jb\xff\xc3(");
    snprintf(item.message, sizeof item.message, "\xe2\x82 cut");
    diagnostics_add(&diagnostics, &item);
    cr_assert_str_eq(diagnostics.items[0].excerpt, "a?[2Jb?\?(");
    char *text = diagnostics_json(&diagnostics);
    cr_assert_not_null(text);
    free(text);
    diagnostics_free(&diagnostics);
}

Test(diagnostic, as_json_has_stable_keys)
{
    struct diagnostics diagnostics = {0};
    struct diagnostic item = example(14, 1);
    diagnostics_add(&diagnostics, &item);
    item.severity = SEVERITY_WARNING;
    diagnostics_add(&diagnostics, &item);
    cr_assert_eq(diagnostics.errors, 1);
    char *text = diagnostics_json(&diagnostics);
    json_t *array = json_loads(text, 0, NULL), *first = json_array_get(array, 0);
    cr_assert_eq(json_array_size(array), 2);
    const char *severity, *code, *message, *file, *label, *help;
    int line, column, length;
    cr_assert_eq(json_unpack_ex(first, NULL, JSON_STRICT,
                                "{s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:s, s:s}", "severity",
                                &severity, "code", &code, "message", &message, "file", &file,
                                "line", &line, "column", &column, "length", &length, "label",
                                &label, "help", &help),
                 0);
    cr_assert_str_eq(severity, "error");
    cr_assert_str_eq(code, "E0203");
    cr_assert_str_eq(file, "job.toml");
    cr_assert_eq(line, 14);
    cr_assert_eq(column, 1);
    cr_assert_eq(length, 6);
    cr_assert_str_eq(help, "did you mean `layers`?");
    cr_assert_str_eq(json_string_value(json_object_get(json_array_get(array, 1), "severity")),
                     "warning");
    json_decref(array);
    free(text);
    diagnostics_free(&diagnostics);
}

Test(diagnostic, no_mistakes_are_an_empty_array)
{
    struct diagnostics diagnostics = {0};
    char *text = diagnostics_json(&diagnostics);
    cr_assert_str_eq(text, "[]");
    free(text);
}

Test(diagnostic, come_in_the_order_of_place)
{
    struct diagnostics diagnostics = {0};
    static const struct {
        const char *source, *message;
        int line, column;
    } rows[] = {
        {"--set", "5", 1, 9},    {"job.toml", "6", 0, 0}, {"job.toml", "3", 9, 2},
        {"--set", "4", 1, 2},    {"job.toml", "2", 9, 1}, {"job.toml", "1", 2, 5},
        {"job.toml", "7", 0, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct diagnostic item = example(rows[i].line, rows[i].column);
        snprintf(item.source, sizeof item.source, "%s", rows[i].source);
        snprintf(item.message, sizeof item.message, "%s", rows[i].message);
        diagnostics_add(&diagnostics, &item);
    }
    diagnostics_sort(&diagnostics, "job.toml");
    for (size_t i = 0; i < diagnostics.count; i++)
        cr_expect_eq(atoi(diagnostics.items[i].message), (int)i + 1);
    diagnostics_free(&diagnostics);
}

Test(diagnostic, a_flood_ends_with_too_many)
{
    struct diagnostics diagnostics = {0};
    for (int i = 1; i <= 5000; i++) {
        struct diagnostic item = example(i, 1);
        diagnostics_add(&diagnostics, &item);
    }
    cr_assert_eq(diagnostics.errors, 5000);
    cr_assert_eq(diagnostics.count, 100);
    cr_assert(strstr(diagnostics.items[99].message, "too many"));
    cr_assert_eq(diagnostics.items[98].line, 99);
    diagnostics_free(&diagnostics);
}

Test(diagnostic, the_nearest_word_is_near)
{
    static const char *const words[] = {"layers", "heads", "width", "mlp", "micro_batch"};
    static const struct {
        const char *word, *nearest;
    } rows[] = {
        {"layres", "layers"}, /* two letters swapped: one edit */
        {"layer", "layers"},  /* one is missing */
        {"headss", "heads"},  /* one too many */
        {"widht", "width"},
        {"mpl", "mlp"},
        {"micro_batches", "micro_batch"}, /* two too many of thirteen */
        {"mikro_bath", "micro_batch"},
        {"depth", NULL}, /* three of five */
        {"x", NULL},
        {"", NULL},
        {"MLP", NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const char *found = nearest_word(rows[i].word, words, sizeof words / sizeof words[0]);
        if (rows[i].nearest)
            cr_expect(found && strcmp(found, rows[i].nearest) == 0, "%s", rows[i].word);
        else
            cr_expect_null(found, "%s", rows[i].word);
    }
}

Test(diagnostic, the_nearest_of_several_wins_and_a_long_word_has_none)
{
    static const char *const words[] = {"batches", "batch"};
    cr_assert_str_eq(nearest_word("batc", words, 2), "batch");
    cr_assert_str_eq(nearest_word("batchs", words, 2), "batches"); /* both one away: the first */
    char word[10000];
    memset(word, 'b', sizeof word - 1);
    word[sizeof word - 1] = '\0';
    cr_assert_null(nearest_word(word, words, 2));
    cr_assert_null(nearest_word("batch", words, 0));
}
