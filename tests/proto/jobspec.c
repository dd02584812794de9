#include <criterion/criterion.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/jobspec_key.h"

/* ---- parsing ---- */

static struct diagnostics diagnostics;
static struct jobspec spec;

static enum status parse_with(const char *text, const char *const *sets, size_t count)
{
    struct jobspec_override overrides[8];
    for (size_t i = 0; i < count; i++) overrides[i].text = sets[i];
    diagnostics_free(&diagnostics);
    jobspec_free(&spec);
    return jobspec_parse(text, strlen(text), "/jobs/job.toml", overrides, count, &diagnostics,
                         &spec);
}

static enum status parse(const char *text)
{
    return parse_with(text, NULL, 0);
}

static void clean_up(void)
{
    diagnostics_free(&diagnostics);
    jobspec_free(&spec);
}

TestSuite(jobspec, .fini = clean_up);

/* The words of all diagnostics, for the message of a failed assertion. */
static const char *words(void)
{
    static char text[20000];
    FILE *out = fmemopen(text, sizeof text - 1, "w");
    diagnostics_print(&diagnostics, out, false);
    fclose(out);
    return text;
}

static bool reported(const char *code)
{
    for (size_t i = 0; i < diagnostics.count; i++)
        if (strcmp(diagnostics.items[i].code, code) == 0) return true;
    return false;
}

static const char *const good_lines[] = {
    "[job]",                   /* 1 */
    "name = \"test\"",         /* 2 */
    "seed = 7",                /* 3 */
    "[resources]",             /* 4 */
    "ranks = 2",               /* 5 */
    "threads = 1",             /* 6 */
    "[data]",                  /* 7 */
    "format = \"fasta\"",      /* 8 */
    "train = \"DB.fasta.gz\"", /* 9 */
    "length = 128",            /* 10 */
    "[model]",                 /* 11 */
    "layers = 2",              /* 12 */
    "heads = 4",               /* 13 */
    "width = 64",              /* 14 */
    "mlp = 128",               /* 15 */
    "causal = true",           /* 16 */
    "[attention]",             /* 17 */
    "kind = \"favor\"",        /* 18 */
    "[train]",                 /* 19 */
    "batch = 32",              /* 20 */
    "micro_batch = 4",         /* 21 */
};
enum { GOOD_LINES = sizeof good_lines / sizeof good_lines[0] };

/* The good file with line `number` replaced; 0: as it is. */
static const char *file_with(int number, const char *line)
{
    static char text[4000];
    size_t length = 0;
    for (int i = 1; i <= GOOD_LINES; i++)
        length += (size_t)snprintf(text + length, sizeof text - length, "%s\n",
                                   i == number ? line : good_lines[i - 1]);
    return text;
}

/* ---- what is right ---- */

Test(jobspec, defaults_stand_where_nothing_is_said)
{
    cr_assert_eq(parse(file_with(0, "")), ST_OK, "%s", words());
    cr_assert_eq(diagnostics.count, 0);
    cr_assert_str_eq(spec.job.name, "test");
    cr_assert_eq(spec.job.seed, 7);
    cr_assert_eq(spec.resources.launcher, LAUNCHER_LOCAL);
    cr_assert_eq(spec.resources.device, DEVICE_AUTO);
    cr_assert_eq(spec.data.packing, PACKING_CONCAT);
    cr_assert_str_eq(spec.data.valid, "");
    cr_assert_eq(spec.data.vocab, 0);
    cr_assert_eq(spec.model.objective, OBJECTIVE_NEXT_TOKEN);
    cr_assert_eq(spec.attention.features, 256);
    cr_assert_eq(spec.attention.epsilon, 1e-6);
    cr_assert(spec.attention.orthogonal);
    cr_assert(!spec.attention.regularized);
    cr_assert_eq(spec.redraw.every, 1000);
    cr_assert_eq(spec.optimizer.lr, 1e-3);
    cr_assert_eq(spec.optimizer.beta2, 0.98);
    cr_assert_eq(spec.optimizer.epsilon, 1e-9);
    cr_assert_eq(spec.train.steps, 2000);
    cr_assert_eq(spec.checkpoint.keep, 3);
    cr_assert_eq(spec.queue.after.count, 0);
    cr_assert_eq(jobspec_head_dim(&spec), 16);
    cr_assert_eq(jobspec_vocab(&spec), 29);
}

Test(jobspec, some_defaults_follow_from_other_keys)
{
    cr_assert_eq(parse(file_with(16, "causal = false")), ST_OK);
    cr_assert_eq(spec.model.objective, OBJECTIVE_MASKED);
    cr_assert_eq(parse(file_with(18, "kernel = \"relu\"")), ST_OK);
    cr_assert_eq(spec.attention.epsilon, 1e-3);

    cpu_set_t cores, one;
    cr_assert_eq(sched_getaffinity(0, sizeof cores, &cores), 0);
    cr_assert_eq(parse(file_with(6, "")), ST_OK);
    int share = CPU_COUNT(&cores) / 2;
    cr_assert_eq(spec.resources.threads, share > 0 ? share : 1);
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; i++)
        if (CPU_ISSET(i, &cores)) CPU_SET(i, &one);
    cr_assert_eq(sched_setaffinity(0, sizeof one, &one), 0);
    cr_assert_eq(parse(file_with(6, "")), ST_OK);
    cr_assert_eq(spec.resources.threads, 1);
}

Test(jobspec, the_vocabulary_follows_from_the_format)
{
    cr_assert_eq(parse(file_with(8, "format = \"text\"")), ST_OK);
    cr_assert_eq(jobspec_vocab(&spec), 259);
    cr_assert_eq(parse(file_with(8, "format = \"tokens\"\nvocab = 500")), ST_OK, "%s", words());
    cr_assert_eq(jobspec_vocab(&spec), 500);
    const char *masked[] = {"model.causal=false"};
    cr_assert_eq(parse_with(file_with(8, "format = \"tokens\"\nvocab = 500"), masked, 1), ST_OK);
    cr_assert_eq(jobspec_vocab(&spec), 501);
}

Test(jobspec, paths_are_taken_against_the_directory_of_the_file)
{
    cr_assert_eq(parse(file_with(0, "")), ST_OK);
    cr_assert_str_eq(spec.data.train, "/jobs/DB.fasta.gz");
    cr_assert_eq(parse(file_with(9, "train = \"/data/x\"\nvalid = \"../v\"")), ST_OK);
    cr_assert_str_eq(spec.data.train, "/data/x");
    cr_assert_str_eq(spec.data.valid, "/jobs/../v");

    const char *text = file_with(0, "");
    char expected[4200], directory[4096];
    cr_assert_not_null(getcwd(directory, sizeof directory));
    jobspec_free(&spec);
    cr_assert_eq(jobspec_parse(text, strlen(text), "sub/job.toml", NULL, 0, &diagnostics, &spec),
                 ST_OK);
    snprintf(expected, sizeof expected, "%s/sub/DB.fasta.gz", directory);
    cr_assert_str_eq(spec.data.train, expected);
    jobspec_free(&spec);
    cr_assert_eq(jobspec_parse(text, strlen(text), "job.toml", NULL, 0, &diagnostics, &spec),
                 ST_OK);
    snprintf(expected, sizeof expected, "%s/DB.fasta.gz", directory);
    cr_assert_str_eq(spec.data.train, expected);
}

Test(jobspec, line_ends_byte_order_mark_and_dotted_keys_are_all_toml)
{
    char text[8000] = "\xef\xbb\xbf";
    size_t length = 3;
    for (const char *from = file_with(0, ""); *from; from++) {
        if (*from == '\n') text[length++] = '\r';
        text[length++] = *from;
    }
    text[length] = '\0';
    cr_assert_eq(parse(text), ST_OK, "%s", words());
    cr_assert_str_eq(spec.job.name, "test");
    cr_assert_eq(parse("job.name = \"a\"\ndata = {format = \"text\", train = \"t\", length = 8}\n"
                       "[model]\nlayers = 1\nheads = 1\nwidth = 8\nmlp = 8\n"),
                 ST_OK, "%s", words());
    cr_assert_eq(spec.data.length, 8);
}

Test(jobspec, an_integer_is_a_number_too)
{
    const char *sets[] = {"optimizer.lr=1", "optimizer.clip=0"};
    cr_assert_eq(parse_with(file_with(0, ""), sets, 2), ST_OK, "%s", words());
    cr_assert_eq(spec.optimizer.lr, 1.0);
    cr_assert_eq(spec.optimizer.clip, 0.0);
}

/* ---- what is wrong ---- */

struct bad {
    int replaced; /* line of the good file */
    const char *by;
    const char *code;
    int line, column, length;
    const char *in_words; /* somewhere in message, label or help */
};

#define R16 "'r','r','r','r','r','r','r','r','r','r','r','r','r','r','r','r',"

static const struct bad bad_files[] = {
    /* names */
    {11, "[modle]", "E0201", 11, 2, 5, "did you mean [model]?"},
    {4, "[[resourcez]]", "E0201", 4, 3, 9, "did you mean [resources]?"},
    {4, "[xyzzy]\n[resources]", "E0201", 4, 2, 5, "unknown section [xyzzy]"},
    {1, "x = 1\n[job]", "E0202", 1, 1, 1, "no section"},
    {1, "layers = 1\n[job]", "E0202", 1, 1, 6, "`layers` is a key of [model]"},
    {12, "layers = 2\nlayres = 6", "E0203", 13, 1, 6, "did you mean `layers`?"},
    {12, "layers = 2\n  \"lay\\u0065rz\" = 6", "E0203", 13, 3, 13, "did you mean `layers`?"},
    {12, "layers = 2\nlr = 6", "E0203", 13, 1, 2, "`lr` is a key of [optimizer]"},
    {4, "[resources.slurn]\nnodes = 1\n[resources]", "E0201", 4, 12, 5,
     "did you mean [resources.slurm]?"},
    {4, "[resources]\nslurm.partitoin = \"\"", "E0203", 5, 7, 9, "`partition`"},
    {4, "[resources]\nslurm = 3", "E0204", 5, 1, 5, "is a section"},
    {1, "queue = 1\n[job]", "E0204", 1, 1, 5, "[queue]"},
    {2, "", "E0205", 1, 2, 3, "needs the key `name`"},
    {8, "", "E0205", 7, 2, 4, "needs the key `format`"},
    {9, "", "E0205", 7, 2, 4, "needs the key `train`"},
    {10, "", "E0205", 7, 2, 4, "needs the key `length`"},
    {12, "", "E0205", 11, 2, 5, "needs the key `layers`"},
    {13, "", "E0205", 11, 2, 5, "needs the key `heads`"},
    {14, "", "E0205", 11, 2, 5, "needs the key `width`"},
    {15, "", "E0205", 11, 2, 5, "needs the key `mlp`"},
    /* types */
    {3, "seed = \"7\"", "E0301", 3, 8, 3, "without quotes"},
    {3, "seed = 7.0", "E0301", 3, 8, 3, "without fraction"},
    {3, "seed = true", "E0301", 3, 8, 4, "expected an integer"},
    {2, "name = 7", "E0301", 2, 8, 1, "put it in quotes"},
    {2, "name = [\"a\", \"b\"]", "E0301", 2, 8, 10, "found an array"},
    {2, "name = 2020-01-01", "E0301", 2, 8, 10, "found a date or time"},
    {9, "train = {a = 1}", "E0301", 9, 9, 7, "found a table"},
    {16, "causal = \"true\"", "E0301", 16, 10, 6, "without quotes"},
    {16, "causal = 1", "E0301", 16, 10, 1, "expected true or false"},
    {18, "kind = favor", "E0101", 18, 8, 5, "in quotes"},
    {18, "kind = 1", "E0301", 18, 8, 1, "put it in quotes"},
    {18, "dropout = 1", "E0203", 18, 1, 7, "[model]"},
    {21, "[queue]\nafter = [1]", "E0301", 22, 9, 3, "array of strings"},
    {21, "[queue]\nafter = \"r1\"", "E0301", 22, 9, 4, "array of strings"},
    {21, "[optimizer]\nlr = \"high\"", "E0301", 22, 6, 6, "expected a number"},
    /* choices */
    {8, "format = \"fastq\"", "E0302", 8, 10, 7, "did you mean \"fasta\"?"},
    {8, "format = \"parquet\"", "E0302", 8, 10, 9, "fasta, text, tokens"},
    {18, "kind = \"Favor\"", "E0302", 18, 8, 7, "did you mean \"favor\"?"},
    {18, "kind = \"\"", "E0302", 18, 8, 2, "favor, softmax, linformer, reformer"},
    /* ranges */
    {3, "seed = -1", "E0303", 3, 8, 2, "at least 0"},
    {6, "[resources.slurm]\nnodes = 0", "E0303", 7, 9, 1, "at least 1"},
    {6, "[resources.slurm]\ngrace = 0", "E0303", 7, 9, 1, "at least 1"},
    {6, "[resources.slurm]\npartition = \"a\\nrm x\"", "E0304", 7, 13, 9, "control character"},
    {6, "[resources.slurm]\nextra = [\"--x\\ny\"]", "E0304", 7, 9, 10, "control character"},
    {6, "[resources.slurm]\nextra = [\"-N2\"]", "E0304", 7, 9, 7, "long option"},
    {6, "[resources.slurm]\nextra = [\"--array=1-2\"]", "E0304", 7, 9, 15, "may add"},
    {6, "[resources.slurm]\nextra = [\"--export=ALL\"]", "E0304", 7, 9, 16, "may add"},
    {6, "[resources.slurm]\nextra = [\"--mem-per=1\"]", "E0304", 7, 9, 15, "may add"},
    {6, "launcher = \"slurm\"\n[resources.slurm]\nnodes = 99", "E0515", 8, 9, 2, "than ranks"},
    {5, "ranks = 0", "E0303", 5, 9, 1, "at least 1"},
    {5, "ranks = -2", "E0303", 5, 9, 2, "at least 1"},
    {5, "ranks = 9223372036854775807", "E0303", 5, 9, 19, "at most 65536"},
    {6, "threads = 0", "E0303", 6, 11, 1, "at least 1"},
    {10, "length = 0", "E0303", 10, 10, 1, "at least 1"},
    {10, "length = 9223372036854775807", "E0303", 10, 10, 19, "at most"},
    {12, "layers = 1_000_000", "E0303", 12, 10, 9, "at most 512"},
    {13, "heads = 0", "E0303", 13, 9, 1, "at least 1"},
    {14, "width = 0x7fffffffffffffff", "E0303", 14, 9, 18, "at most 65536"},
    {15, "mlp = 0", "E0303", 15, 7, 1, "at least 1"},
    {18, "features = 0", "E0303", 18, 12, 1, "at least 1"},
    {18, "rank = 0", "E0303", 18, 8, 1, "at least 1"},
    {18, "rank = 16385", "E0303", 18, 8, 5, "at most 16384"},
    {18, "buckets = 1", "E0303", 18, 11, 1, "at least 2"},
    {18, "rounds = 65", "E0303", 18, 10, 2, "at most 64"},
    {18, "chunk = 0", "E0303", 18, 9, 1, "at least 1"},
    {18, "epsilon = -1e-9", "E0303", 18, 11, 5, "at least 0"},
    {16, "dropout = 1.0", "E0303", 16, 11, 3, "below 1"},
    {16, "dropout = -0.1", "E0303", 16, 11, 4, "at least 0"},
    {16, "dropout = nan", "E0303", 16, 11, 3, "finite"},
    {9, "train = \"t\"\nvalid_fraction = 1.0", "E0303", 10, 18, 3, "below 1"},
    {20, "steps = 0", "E0303", 20, 9, 1, "at least 1"},
    {20, "batch = 0", "E0303", 20, 9, 1, "at least 1"},
    {21, "micro_batch = 0", "E0303", 21, 15, 1, "at least 1"},
    {21, "[optimizer]\nlr = 0.0", "E0303", 22, 6, 3, "above 0"},
    {21, "[optimizer]\nlr = -1e-3", "E0303", 22, 6, 5, "above 0"},
    {21, "[optimizer]\nlr = inf", "E0303", 22, 6, 3, "finite"},
    {21, "[optimizer]\nlr = -nan", "E0303", 22, 6, 4, "finite"},
    {21, "[optimizer]\nlr = 1e300", "E0303", 22, 6, 5, "at most 1000"},
    {21, "[optimizer]\nbeta1 = 1.0", "E0303", 22, 9, 3, "below 1"},
    {21, "[optimizer]\nbeta2 = -0.5", "E0303", 22, 9, 4, "at least 0"},
    {21, "[optimizer]\nepsilon = 0.0", "E0303", 22, 11, 3, "at least 1e-30"},
    {21, "[optimizer]\nfinal = 1.5", "E0303", 22, 9, 3, "at most 1"},
    {21, "[optimizer]\nclip = -1", "E0303", 22, 8, 2, "at least 0"},
    {21, "[optimizer]\nweight_decay = -1", "E0303", 22, 16, 2, "at least 0"},
    {21, "[optimizer]\nwarmup = -1", "E0303", 22, 10, 2, "at least 0"},
    {21, "[redraw]\nevery = 0", "E0303", 22, 9, 1, "at least 1"},
    {21, "[redraw]\nthreshold = 0.0", "E0303", 22, 13, 3, "above 0"},
    {21, "[redraw]\nthreshold = nan", "E0303", 22, 13, 3, "finite"},
    {21, "[evaluate]\nevery = 0", "E0303", 22, 9, 1, "at least 1"},
    {21, "[evaluate]\nbatches = 0", "E0303", 22, 11, 1, "at least 1"},
    {21, "[checkpoint]\nevery = 0", "E0303", 22, 9, 1, "at least 1"},
    {21, "[checkpoint]\nkeep = 0", "E0303", 22, 8, 1, "at least 1"},
    {21, "[restart]\nmax = -1", "E0303", 22, 7, 2, "at least 0"},
    {21, "[restart]\nstall_seconds = -1.0", "E0303", 22, 17, 4, "at least 0"},
    {21, "[queue]\npriority = 1000001", "E0303", 22, 12, 7, "at most 1000000"},
    {21, "[queue]\nafter = [" R16 R16 R16 R16 "'r']", "E0303", 22, 9, 261, "at most 64"},
    /* texts */
    {2, "name = \"a b\"", "E0304", 2, 8, 5, "letters, digits"},
    {2, "name = \"\"", "E0304", 2, 8, 2, "1 to 100"},
    {2, "name = \"\xc3\xa9\"", "E0304", 2, 8, 4, "letters, digits"},
    {9, "train = \"\"", "E0304", 9, 9, 2, "names no file"},
    {9, "train = \"a\\u0000b\"", "E0304", 9, 9, 10, "NUL"},
    /* keys that do not agree */
    {13, "heads = 6", "E0501", 13, 9, 1, "`heads = 4` would do"},
    {21, "micro_batch = 5", "E0502", 21, 15, 1, "`micro_batch = 4` would do"},
    {21, "micro_batch = 9", "E0502", 21, 15, 1, "`micro_batch = 8` would do"},
    {21, "micro_batch = 64", "E0502", 21, 15, 2, "`micro_batch = 32` would do"},
    {5, "ranks = 3", "E0503", 5, 9, 1, "`ranks = 2` would do"},
    {5, "ranks = 16", "E0503", 5, 9, 2, "`ranks = 8` would do"},
    {20, "batch = 4", "E0503", 5, 9, 1, "`ranks = 1` would do"},
    {9, "train = \"t\"\nvalid = \"v\"\nvalid_fraction = 0.1", "E0504", 11, 1, 14, "keep one"},
    {8, "format = \"tokens\"", "E0505", 8, 10, 8, "vocab = N"},
    {8, "format = \"tokens\"\nvocab = 1", "E0505", 9, 9, 1, "2 or more"},
    {8, "format = \"tokens\"\nvocab = 65537", "E0303", 9, 9, 5, "at most 65536"},
    {8, "format = \"fasta\"\nvocab = 29", "E0505", 9, 1, 5, "leave it out"},
    {18, "kind = \"linformer\"\nrank = 128", "E0508", 18, 8, 11, "causal = false"},
    {18, "kind = \"reformer\"\nbuckets = 7", "E0510", 19, 11, 1, "even"},
    {13, "heads = 64\npositions = \"rotary\"", "E0511", 14, 13, 8, "fewer heads"},
    {16, "objective = \"masked\"", "E0506", 16, 13, 8, "causal = false"},
    {16, "causal = false\nobjective = \"next-token\"", "W0601", 17, 13, 12, "learns to copy"},
    {21, "[optimizer]\nwarmup = 2001", "W0602", 22, 10, 4, "never reached"},
    {18, "kernel = \"elu1\"\nfeatures = 64", "W0604", 19, 12, 2, "no random features"},
    {21, "[redraw]\nthreshold = 0.3", "W0604", 22, 13, 3, "policy = \"adaptive\""},
    {21, "[redraw]\npolicy = \"adaptive\"", "E0513", 22, 10, 10, "`valid_fraction` to [data]"},
    /* no TOML */
    {12, "layers = ", "E0101", 12, 10, 1, "not TOML"},
    {12, "layers = 2\nlayers = 3", "E0101", 13, 10, 1, "not TOML"},
    {12, "layers = 9223372036854775808", "E0101", 12, 10, 19, "not representable"},
    {2, "name = \"open", "E0101", 2, 9, 4, "not TOML"},
    {11, "[model", "E0101", 11, 2, 5, "not TOML"},
    {2, "name = \"\xff\xfe\"", "E0101", 2, 9, 1, "UTF-8"},
};

static bool says(const struct diagnostic *item, const char *text)
{
    return strstr(item->message, text) || strstr(item->label, text) || strstr(item->help, text);
}

Test(jobspec, each_mistake_has_its_code_place_and_cure)
{
    for (size_t i = 0; i < sizeof bad_files / sizeof bad_files[0]; i++) {
        const struct bad *bad = &bad_files[i];
        bool warning = bad->code[0] == 'W';
        cr_expect_eq(parse(file_with(bad->replaced, bad->by)), warning ? ST_OK : ST_INVALID, "%s",
                     bad->by);
        cr_expect_eq(diagnostics.count, 1, "%s:\n%s", bad->by, words());
        if (diagnostics.count == 0) continue;
        const struct diagnostic *item = &diagnostics.items[0];
        cr_expect_str_eq(item->code, bad->code, "%s:\n%s", bad->by, words());
        cr_expect_eq(item->severity, warning ? SEVERITY_WARNING : SEVERITY_ERROR);
        cr_expect_str_eq(item->source, "/jobs/job.toml");
        cr_expect(item->line == bad->line && item->column == bad->column &&
                      item->length == bad->length,
                  "%s: %d:%d+%d, expected %d:%d+%d\n%s", bad->by, item->line, item->column,
                  item->length, bad->line, bad->column, bad->length, words());
        cr_expect(says(item, bad->in_words), "%s: \"%s\" is not in\n%s", bad->by, bad->in_words,
                  words());
    }
}

Test(jobspec, a_forward_pass_has_a_limit)
{
    const char *sets[] = {"data.length=16777216", "train.batch=1024", "train.micro_batch=32"};
    cr_assert_eq(parse_with(file_with(0, ""), sets, 3), ST_INVALID);
    cr_assert_eq(diagnostics.count, 1, "%s", words());
    cr_assert_str_eq(diagnostics.items[0].code, "E0507");
}

/* Petabytes: more than any machine has. Each cure is offered as long as it is not taken. */
Test(jobspec, a_job_larger_than_the_machine_is_warned_of)
{
    const char *sets[] = {"data.length=16777216", "model.mlp=262144", "train.recompute=layer",
                          "train.micro_batch=1"};
    static const char *const cures[] = {"`recompute = \"layer\"` in [train]",
                                        "`micro_batch = 1` in [train]", "a smaller `length`"};
    static const int lines[] = {19, 21, 0};
    for (size_t taken = 0; taken < 3; taken++) {
        cr_assert_eq(parse_with(file_with(0, ""), sets, 2 + taken), ST_OK, "%s", words());
        cr_assert_eq(diagnostics.count, 1, "%s", words());
        const struct diagnostic *item = &diagnostics.items[0];
        cr_expect_str_eq(item->code, "W0603");
        cr_expect(says(item, "does not fit") && says(item, cures[taken]), "%s", words());
        cr_expect(taken == 2 || item->line == lines[taken], "%s", words());
    }
    cr_assert_eq(parse(file_with(0, "")), ST_OK);
    cr_assert_eq(diagnostics.count, 0, "%s", words());
}

Test(jobspec, linformer_has_no_more_rows_than_positions)
{
    const char *sets[] = {"model.causal=false", "attention.kind=linformer", "attention.rank=129"};
    cr_assert_eq(parse_with(file_with(0, ""), sets, 3), ST_INVALID);
    cr_assert_eq(diagnostics.count, 1, "%s", words());
    const struct diagnostic *item = &diagnostics.items[0];
    cr_expect_str_eq(item->code, "E0509");
    cr_expect_str_eq(item->source, "--set");
    cr_expect(item->column == 16 && item->length == 3, "%s", words());
    cr_expect(says(item, "`rank = 128` in [attention] or less"), "%s", words());
    cr_assert_eq(parse_with(file_with(0, ""), sets, 2), ST_INVALID, "the default, 256");
    sets[2] = "attention.rank=128";
    cr_assert_eq(parse_with(file_with(0, ""), sets, 3), ST_OK, "%s", words());
}

/* Adaptive, validated, and so many settings more: the code of the one thing to say, "" for nothing. */
static void adaptive_says(const char *code, const char *in_words, const char *one, const char *two)
{
    const char *sets[] = {"redraw.policy=adaptive", "data.valid_fraction=0.1", one, two};
    const enum status status = parse_with(file_with(0, ""), sets, two ? 4 : one ? 3 : 2);
    cr_assert_eq(status, code[0] == 'E' ? ST_INVALID : ST_OK, "%s", words());
    cr_assert_eq(diagnostics.count, code[0] != '\0', "%s", words());
    if (code[0] == '\0') return;
    cr_expect_str_eq(diagnostics.items[0].code, code, "%s", words());
    cr_expect(says(&diagnostics.items[0], in_words), "%s", words());
}

Test(jobspec, adaptive_redraws_need_an_error_that_is_measured_in_time)
{
    adaptive_says("", "", NULL, NULL);
    adaptive_says("", "", "attention.kernel=softmax-trig", NULL);
    adaptive_says("", "", "redraw.threshold=0.25", "redraw.every=1000");
    adaptive_says("E0512", "kernel = \"relu\" does not", "attention.kernel=relu", NULL);
    adaptive_says("E0512", "begins with softmax-", "attention.kernel=elu1", NULL);
    adaptive_says("E0512", "kind = \"reformer\"", "attention.kind=reformer", NULL);
    adaptive_says("E0512", "kind = \"softmax\"", "attention.kind=softmax", NULL);
    adaptive_says("E0512", "kind = \"identity\"", "attention.kind=identity", NULL);
    adaptive_says("W0604", "[evaluate]", "redraw.every=20", NULL);
    adaptive_says("W0605", "evaluate more often", "evaluate.every=2000", NULL);
    adaptive_says("W0605", "never redraw", "evaluate.every=20", "train.steps=20");
}

Test(jobspec, the_resolved_file_warns_of_nothing_that_the_user_did_not_write)
{
    static const char *const kernels[] = {"attention.kernel=elu1", "attention.kernel=relu"};
    for (size_t i = 0; i < 2; i++) {
        char *resolved;
        cr_assert_eq(parse_with(file_with(0, ""), &kernels[i], 1), ST_OK);
        cr_assert_eq(diagnostics.count, 0, "%s", words());
        cr_assert_eq(jobspec_print(&spec, &resolved), ST_OK);
        cr_assert_eq(parse(resolved), ST_OK);
        cr_assert_eq(diagnostics.count, 0, "%s", words());
        free(resolved);
    }
}

Test(jobspec, five_mistakes_are_five_diagnostics_in_order)
{
    const char *text = "[job]\n"
                       "name = \"my run\"\n"
                       "[data]\n"
                       "format = \"fastq\"\n"
                       "train = \"DB.fasta.gz\"\n"
                       "length = 1024\n"
                       "[model]\n"
                       "layres = 6\n"
                       "layers = 6\n"
                       "heads = 7\n"
                       "width = 512\n"
                       "mlp = 1024\n"
                       "[optimizer]\n"
                       "lr = -1e-3\n";
    static const struct {
        const char *code;
        int line, column;
    } expected[] = {
        {"E0304", 2, 8}, {"E0302", 4, 10}, {"E0203", 8, 1}, {"E0501", 10, 9}, {"E0303", 14, 6},
    };
    cr_assert_eq(parse(text), ST_INVALID);
    cr_assert_eq(diagnostics.count, 5, "%s", words());
    cr_assert_eq(diagnostics.errors, 5);
    for (size_t i = 0; i < 5; i++) {
        cr_expect_str_eq(diagnostics.items[i].code, expected[i].code);
        cr_expect_eq(diagnostics.items[i].line, expected[i].line);
        cr_expect_eq(diagnostics.items[i].column, expected[i].column);
    }
}

Test(jobspec, a_misspelled_name_is_one_mistake_and_what_is_in_it_is_seen)
{
    cr_assert_eq(parse(file_with(12, "layres = 0")), ST_INVALID);
    cr_assert_eq(diagnostics.count, 2, "%s", words());
    cr_expect_str_eq(diagnostics.items[0].code, "E0203");
    cr_expect_str_eq(diagnostics.items[1].code, "E0303");
    cr_assert_eq(parse(file_with(11, "[modle]\nlayres = 2\nheadz = 5")), ST_INVALID);
    cr_assert_eq(diagnostics.count, 3, "a section and two keys: %s", words());
}

Test(jobspec, an_empty_file_misses_every_required_key)
{
    int required = 0;
    for (int i = 0; i < KEY_COUNT; i++)
        required += jobspec_keys[i].default_text == jobspec_required;
    cr_assert_eq(parse(""), ST_INVALID);
    cr_assert_eq(diagnostics.count, (size_t)required + 1, "and data.train: %s", words());
    for (size_t i = 0; i < diagnostics.count; i++) {
        cr_expect_str_eq(diagnostics.items[i].code, "E0205");
        cr_expect_eq(diagnostics.items[i].line, 0);
    }
}

/* ---- what is not built yet ---- */

static void set_text(char *text, size_t size, const struct jobspec_key *key, const char *value)
{
    snprintf(text, size, "%s.%s=%s", jobspec_section_titles[key->section], key->name, value);
}

Test(jobspec, each_choice_works_or_is_refused_by_name)
{
    for (int id = 0; id < KEY_COUNT; id++) {
        const struct jobspec_key *key = &jobspec_keys[id];
        struct jobspec_choices choices = jobspec_kind_choices(key->kind);
        for (size_t i = 0; i < choices.count; i++) {
            char set[100];
            set_text(set, sizeof set, key, choices.items[i].text);
            bool tokens = strcmp(set, "data.format=tokens") == 0;
            const char *sets[] = {set, tokens ? "data.vocab=30" : "model.causal=false",
                                  "attention.rank=8", "data.valid_fraction=0.1"};
            enum status status = parse_with(file_with(0, ""), sets, 4);
            if (choices.items[i].built) {
                cr_expect_eq(status, ST_OK, "%s:\n%s", set, words());
                int value = -1;
                memcpy(&value, (char *)&spec + key->offset, sizeof value);
                cr_expect_eq(value, choices.items[i].value, "%s", set);
                continue;
            }
            cr_expect_eq(status, ST_INVALID, "%s", set);
            cr_expect_eq(diagnostics.items[0].column, (int)(strchr(set, '=') - set) + 2);
            cr_expect_str_eq(diagnostics.items[0].code, "E0401", "%s:\n%s", set, words());
            cr_expect(strstr(diagnostics.items[0].message, choices.items[i].text), "%s", set);
            cr_expect(strstr(diagnostics.items[0].help, choices.items[0].text), "%s", set);
        }
    }
}

Test(jobspec, each_key_that_is_not_built_is_refused_by_name)
{
    static const char *const other[KIND_COUNT] = {
        [KIND_TEXT] = "\"x\"", [KIND_TEXTS] = "[\"x\"]", [KIND_INT] = "17", [KIND_REAL] = "17.5"};
    int seen = 0;
    for (int id = 0; id < KEY_COUNT; id++) {
        const struct jobspec_key *key = &jobspec_keys[id];
        if (!key->only_default) continue;
        seen++;
        char set[100], quoted[20];
        set_text(set, sizeof set, key, other[key->kind]);
        const char *sets[] = {set};
        cr_expect_eq(parse_with(file_with(0, ""), sets, 1), ST_INVALID, "%s", set);
        cr_expect_eq(diagnostics.count, 1);
        cr_expect_str_eq(diagnostics.items[0].code, "E0402", "%s:\n%s", set, words());
        cr_expect(strstr(diagnostics.items[0].message, key->name));

        snprintf(quoted, sizeof quoted, "\"%s\"", key->default_text);
        set_text(set, sizeof set, key, key->kind == KIND_TEXT ? quoted : key->default_text);
        cr_expect_eq(parse_with(file_with(0, ""), sets, 1), ST_OK, "%s:\n%s", set, words());
    }
    cr_assert_gt(seen, 0);
}

/* ---- overrides ---- */

Test(jobspec, an_override_wins_and_may_be_a_bare_word)
{
    const char *sets[] = {"train.steps = 5", "attention.kind=softmax", "job.name=\"other\"",
                          "train.steps=6", "data.valid=with \"quotes\" and \\"};
    cr_assert_eq(parse_with(file_with(0, ""), sets, 5), ST_OK, "%s", words());
    cr_assert_eq(spec.train.steps, 6);
    cr_assert_eq(spec.attention.kind, ATTENTION_SOFTMAX);
    cr_assert_str_eq(spec.job.name, "other");
    cr_assert_str_eq(spec.data.valid, "/jobs/with \"quotes\" and \\");
}

/* It would come the same way to the same divergence. */
Test(jobspec, going_back_needs_features_that_can_be_others)
{
    const char *sets[] = {"train.on_divergence=back", "attention.kind=softmax"};
    cr_assert_eq(parse_with(file_with(0, ""), sets, 1), ST_OK, "%s", words());
    cr_assert_eq(spec.train.on_divergence, DIVERGENCE_BACK);
    cr_assert_eq(parse_with(file_with(0, ""), sets, 2), ST_INVALID);
    cr_assert_eq(diagnostics.count, 1, "%s", words());
    cr_assert_str_eq(diagnostics.items[0].code, "E0516");
    cr_assert_not_null(strstr(diagnostics.items[0].help, "\"skip\""), "%s", words());
    sets[1] = "attention.kernel=elu1";
    cr_assert_eq(parse_with(file_with(0, ""), sets, 2), ST_INVALID);
    cr_assert(reported("E0516"), "%s", words());
}

Test(jobspec, an_override_may_give_what_the_file_misses_or_cure_it)
{
    const char *sets[] = {"model.layers=3"};
    cr_assert_eq(parse_with(file_with(12, ""), sets, 1), ST_OK, "%s", words());
    cr_assert_eq(parse_with(file_with(12, "layers = \"x\""), sets, 1), ST_OK, "%s", words());
    cr_assert_eq(spec.model.layers, 3);
}

Test(jobspec, a_wrong_override_is_pointed_at)
{
    static const struct {
        const char *set, *code;
        int column, length;
    } rows[] = {
        {"train.stepz=1", "E0203", 7, 5},
        {"trian.steps=1", "E0201", 1, 5},
        {"train.steps=many", "E0301", 13, 4},
        {"train.steps= \t many \t", "E0301", 16, 4},
        {"attention.kind = fvaor", "E0302", 18, 5},
        {"model.objective=classify", "E0401", 17, 8},
        {"steps=3", "E0202", 1, 5},
        {"train=3", "E0204", 1, 5},
        {"train.steps", "E0104", 1, 11},
        {"", "E0104", 1, 1},
        {"train.steps=", "E0101", 13, 1},
        {"=3", "E0101", 1, 1},
        {"job.name=\"open", "E0101", 11, 4},
        {"train.steps=1\ntrain.batch=2", "E0104", 1, 13},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        cr_expect_eq(parse_with(file_with(0, ""), &rows[i].set, 1), ST_INVALID, "%s", rows[i].set);
        cr_expect_eq(diagnostics.count, 1, "%s:\n%s", rows[i].set, words());
        const struct diagnostic *item = &diagnostics.items[0];
        cr_expect_str_eq(item->code, rows[i].code, "%s:\n%s", rows[i].set, words());
        cr_expect_str_eq(item->source, "--set");
        cr_expect_eq(item->line, 1);
        cr_expect(item->column == rows[i].column && item->length == rows[i].length, "%s: %d+%d",
                  rows[i].set, item->column, item->length);
    }
}

/* ---- print and parse again ---- */

static void expect_equal(const struct jobspec *a, const struct jobspec *b)
{
    for (int id = 0; id < KEY_COUNT; id++) {
        const struct jobspec_key *key = &jobspec_keys[id];
        const void *left = (const char *)a + key->offset, *right = (const char *)b + key->offset;
        bool equal;
        switch (key->kind) {
        case KIND_TEXT:
        case KIND_PATH:
            equal = strcmp(*(char *const *)left, *(char *const *)right) == 0;
            break;
        case KIND_TEXTS:
            equal =
                ((const struct text_list *)left)->count == ((const struct text_list *)right)->count;
            break;
        case KIND_INT:
        case KIND_REAL:
            equal = memcmp(left, right, 8) == 0;
            break;
        case KIND_FLAG:
            equal = *(const bool *)left == *(const bool *)right;
            break;
        default:
            equal = memcmp(left, right, sizeof(int)) == 0;
        }
        cr_expect(equal, "%s.%s", jobspec_section_titles[key->section], key->name);
    }
}

static void expect_round_trip(void)
{
    char *first, *second;
    struct jobspec again = {0};
    cr_assert_eq(jobspec_print(&spec, &first), ST_OK);
    cr_assert_eq(jobspec_parse(first, strlen(first), "/elsewhere/resolved.toml", NULL, 0,
                               &diagnostics, &again),
                 ST_OK, "%s\n%s", words(), first);
    expect_equal(&spec, &again);
    cr_assert_eq(jobspec_print(&again, &second), ST_OK);
    cr_assert_str_eq(first, second);
    jobspec_free(&again);
    free(first);
    free(second);
}

/* Every key that may have another value than its default, with one. */
static const char every_key[] =
    "[job]\nname = \"a.b_c-D9\"\nseed = 9223372036854775807\n"
    "[resources]\nlauncher = \"slurm\"\nranks = 4\nthreads = 3\ndevice = \"cpu\"\n"
    "[resources.slurm]\npartition = \"long\"\naccount = \"me\"\ntime = \"2-00:00\"\ngrace = 600\n"
    "nodes = 2\ngpus_per_rank = 1\nextra = [\"--constraint=a&b\", \"--exclusive\"]\n"
    "[data]\nformat = \"tokens\"\ntrain = \"a \\\"b\\\" \\\\ \\t\\u007f \xc3\xa9.bin\"\n"
    "valid = \"v\"\nvalid_fraction = 0.0\nlength = 48\npacking = \"pad\"\nvocab = 777\n"
    "[model]\nlayers = 3\nheads = 2\nwidth = 40\nmlp = 50\ncausal = false\n"
    "objective = \"masked\"\npositions = \"none\"\ndropout = 0.1\ninit = \"i.safetensors\"\n"
    "[attention]\nkind = \"favor\"\nkernel = \"relu\"\nfeatures = 24\northogonal = false\n"
    "regularized = true\nepsilon = 0.012345678901234567\nrank = 256\nbuckets = 64\nrounds = 2\n"
    "chunk = 64\n"
    "[redraw]\npolicy = \"never\"\nevery = 12\nthreshold = 0.5\n"
    "[optimizer]\nlr = 3.0000000000000004e-4\nschedule = \"cosine\"\nwarmup = 5\nfinal = 1\n"
    "beta1 = 0.30000000000000004\nbeta2 = 0\nepsilon = 1e-30\nweight_decay = 0.0\n"
    "clip = 123456789.125\n"
    "[train]\nsteps = 1000000000\nbatch = 24\nmicro_batch = 3\non_divergence = \"stop\"\n"
    "precision = \"fp32\"\nrecompute = \"layer\"\n"
    "[evaluate]\nevery = 9\nbatches = 8\n"
    "[checkpoint]\nevery = 7\nevery_minutes = 0.0\nkeep = 6\n"
    "[restart]\nmax = 0\nstall_seconds = 0.5\n"
    "[queue]\npriority = 0\nafter = []\n";

Test(jobspec, every_key_is_read_and_printed_back)
{
    cr_assert_eq(parse(every_key), ST_OK, "%s", words());
    for (int id = 0; id < KEY_COUNT; id++) {
        char line[60];
        snprintf(line, sizeof line, "\n%s = ", jobspec_keys[id].name);
        cr_assert(strstr(every_key, line), "this test forgets %s", jobspec_keys[id].name);
    }
    expect_round_trip();
    cr_assert_eq(spec.job.seed, INT64_MAX);
    cr_assert_eq(spec.attention.epsilon, 0.012345678901234567);
    cr_assert_eq(spec.optimizer.beta1, 0.30000000000000004);
    cr_assert_str_eq(spec.data.train, "/jobs/a \"b\" \\ \t\x7f \xc3\xa9.bin");
    char *text;
    cr_assert_eq(jobspec_print(&spec, &text), ST_OK);
    cr_assert(strstr(text, "\nbeta1 = 0.30000000000000004 "), "%s", text);
    cr_assert(strstr(text, "\nlr = 0.00030000000000000003 "), "shortest digits:\n%s", text);
    cr_assert(strstr(text, "\nbeta2 = 0.0 "));
    cr_assert(strstr(text, "\ninit = \"/jobs/i.safetensors\""));
    free(text);
}

/* A key of its own: setting it changes its value and no other one, so none is lost or crossed. */
Test(jobspec, each_key_reaches_its_own_field)
{
    struct jobspec base = {0};
    const char *text = file_with(0, "");
    cr_assert_eq(jobspec_parse(text, strlen(text), "/jobs/job.toml", NULL, 0, &diagnostics, &base),
                 ST_OK);
    static const char *const sets[] = {
        "resources.threads=5",
        "data.packing=pad",
        "data.valid_fraction=0.25",
        "model.mlp=99",
        "model.dropout=0.5",
        "attention.features=17",
        "attention.epsilon=0.5",
        "attention.regularized=true",
        "redraw.every=17",
        "redraw.policy=never",
        "optimizer.lr=0.5",
        "optimizer.schedule=wsd",
        "optimizer.warmup=17",
        "optimizer.final=0.5",
        "optimizer.beta1=0.5",
        "optimizer.beta2=0.5",
        "optimizer.epsilon=0.5",
        "optimizer.weight_decay=0.5",
        "optimizer.clip=0.25",
        "train.steps=17",
        "evaluate.every=17",
        "evaluate.batches=17",
        "checkpoint.every=17",
        "checkpoint.keep=17",
        "restart.max=17",
        "job.seed=17",
        "restart.stall_seconds=17.5",
    };
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        cr_assert_eq(parse_with(text, &sets[i], 1), ST_OK, "%s:\n%s", sets[i], words());
        int changed = 0;
        for (int id = 0; id < KEY_COUNT; id++) {
            const struct jobspec_key *key = &jobspec_keys[id];
            size_t bytes = key->kind == KIND_FLAG ? 1 : key->kind > KIND_FLAG ? sizeof(int) : 8;
            if (key->kind <= KIND_TEXTS) continue;
            changed += memcmp((char *)&spec + key->offset, (char *)&base + key->offset, bytes) != 0;
        }
        cr_expect_eq(changed, 1, "%s changed %d fields", sets[i], changed);
    }
    jobspec_free(&base);
}

Test(jobspec, the_example_jobs_are_valid)
{
    static const char *const names[] = {"proteins-laptop", "proteins-softmax", "text-bible",
                                        "proteins-masked"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[4200];
        struct fault fault = {0};
        snprintf(path, sizeof path, "%s/%s.toml", JOBS_DIRECTORY, names[i]);
        clean_up();
        cr_assert_eq(jobspec_load(path, NULL, 0, &diagnostics, &spec, &fault), ST_OK, "%s\n%s",
                     fault.text, words());
        cr_assert_eq(diagnostics.count, 0, "%s", words());
        cr_assert_str_eq(spec.job.name, names[i]);
        expect_round_trip();
    }
}

/* ---- hostile files ---- */

static enum status parse_bytes(const char *bytes, size_t length)
{
    clean_up();
    return jobspec_parse(bytes, length, "job.toml", NULL, 0, &diagnostics, &spec);
}

/* An error points into the text that it is about. */
static void expect_places(const char *bytes, size_t length)
{
    int lines = 1;
    for (size_t i = 0; i < length; i++) lines += bytes[i] == '\n';
    for (size_t i = 0; i < diagnostics.count; i++) {
        const struct diagnostic *item = &diagnostics.items[i];
        cr_expect(item->line >= 0 && item->line <= lines);
        cr_expect(item->line == 0 || (item->column >= 1 && item->length >= 1));
    }
}

Test(jobspec, a_file_too_large_is_refused)
{
    size_t length = 10 << 20;
    char *bytes = malloc(length);
    memset(bytes, '#', length);
    cr_assert_eq(parse_bytes(bytes, length), ST_TOO_LARGE);
    cr_assert_str_eq(diagnostics.items[0].code, "E0102");
    memset(bytes, '\n', length);
    cr_assert_eq(parse_bytes(bytes, JOBSPEC_BYTES_MAX + 1), ST_TOO_LARGE);
    cr_assert_eq(parse_bytes(bytes, JOBSPEC_BYTES_MAX), ST_INVALID);
    cr_assert_str_eq(diagnostics.items[0].code, "E0205");
    free(bytes);
}

Test(jobspec, what_cannot_be_read_says_so)
{
    struct fault fault;
    cr_assert_eq(jobspec_load("/none/job.toml", NULL, 0, &diagnostics, &spec, &fault),
                 ST_NOT_FOUND);
    cr_assert(strstr(fault.text, "/none/job.toml"), "%s", fault.text);
    cr_assert_eq(jobspec_load("/dev/zero", NULL, 0, &diagnostics, &spec, &fault), ST_TOO_LARGE);
}

static void expect_repeated(const char *piece, const char *code)
{
    size_t length = strlen(piece), count = JOBSPEC_BYTES_MAX / length;
    char *bytes = malloc(length * count);
    for (size_t i = 0; i < count; i++) memcpy(bytes + i * length, piece, length);
    cr_expect_eq(parse_bytes(bytes, length * count), ST_INVALID, "%s", piece);
    cr_expect(reported(code), "%s:\n%s", piece, words());
    expect_places(bytes, length * count);
    free(bytes);
}

Test(jobspec, a_file_of_nonsense_costs_nothing)
{
    expect_repeated("[", "E0101");
    expect_repeated("a.", "E0103");
    expect_repeated("\"a\".", "E0103");
    expect_repeated("{a={", "E0101");
    expect_repeated("x=[[{y=[", "E0101");
    expect_repeated("[[a]]\n", "E0201");
    expect_repeated("[a.b.c]\n", "E0101");
    expect_repeated("\"", "E0101");
    expect_repeated("'''", "E0101");
    expect_repeated("9", "E0101");
    expect_repeated("\xe2\x80\xa8", "E0101");
}

Test(jobspec, nesting_is_limited_however_it_is_written)
{
    char text[20000] = "x = ";
    size_t length = strlen(text);
    for (int depth = 0; depth < 300; depth++) {
        memcpy(text + length, "[\n{a.a.a.a.a.a.a.a.a.a = ", 25);
        length += 25;
    }
    cr_assert_eq(parse_bytes(text, length), ST_INVALID);
    cr_assert(reported("E0101"), "%s", words());
}

Test(jobspec, a_thousand_unknown_keys_end_with_too_many)
{
    char text[20000] = "[job]\n";
    size_t length = strlen(text);
    for (int i = 0; i < 1000; i++)
        length += (size_t)snprintf(text + length, sizeof text - length, "k%d=1\n", i);
    cr_assert_eq(parse_bytes(text, length), ST_INVALID);
    cr_assert_eq(diagnostics.count, 100);
    cr_assert(reported("E0100"));
}

static uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

/* Bytes replaced, cut out or doubled, by a fixed sequence of chance. */
Test(jobspec, a_damaged_file_is_read_or_refused_with_a_place)
{
    uint32_t chance = 2463534242u;
    int refused = 0;
    for (int round = 0; round < 3000; round++) {
        char bytes[sizeof every_key + 64];
        size_t length = sizeof every_key - 1;
        memcpy(bytes, every_key, length);
        int edits = 1 + (int)(next_random(&chance) % 4);
        for (int i = 0; i < edits; i++) {
            size_t at = next_random(&chance) % length;
            switch (next_random(&chance) % 4) {
            case 0:
                bytes[at] = (char)next_random(&chance);
                break;
            case 1:
                bytes[at] = "\0\n.=[]{}\"'#\xef\\"[next_random(&chance) % 13];
                break;
            case 2:
                memmove(bytes + at, bytes + at + 1, --length - at);
                break;
            default:
                memmove(bytes + at + 1, bytes + at, length - at);
                length++;
            }
        }
        enum status status = parse_bytes(bytes, length);
        cr_assert(status == ST_OK || status == ST_INVALID);
        cr_assert_eq(status == ST_INVALID, diagnostics.errors > 0);
        expect_places(bytes, length);
        refused += status == ST_INVALID;
    }
    cr_assert_gt(refused, 1000);
    cr_assert_lt(refused, 3000);
}

Test(jobspec, a_file_cut_anywhere_is_read_or_refused)
{
    for (size_t length = 0; length < sizeof every_key; length++) {
        /* A copy of exactly that size, so that a byte read behind it is seen. */
        char *bytes = malloc(length + 1);
        memcpy(bytes, every_key, length);
        char *exact = realloc(bytes, length > 0 ? length : 1);
        enum status status = parse_bytes(exact, length);
        cr_assert(status == ST_OK || status == ST_INVALID);
        expect_places(exact, length);
        free(exact);
    }
}
