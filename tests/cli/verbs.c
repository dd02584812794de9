/* performerctl as its users run it: a process, a scripted daemon at the other end, and what comes out. */

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/invocation.h"
#include "tests/cli/scripted_daemon.h"

enum { OUTPUT_MAX = 1 << 16, WORDS_MAX = 16 };

struct ran {
    int code;
    char out[OUTPUT_MAX], err[OUTPUT_MAX];
};

static void read_back(FILE *file, char text[OUTPUT_MAX])
{
    rewind(file);
    size_t length = fread(text, 1, OUTPUT_MAX - 1, file);
    text[length] = '\0';
    fclose(file);
}

static _Noreturn void exec_in_child(const char *url, const char *line)
{
    char text[512];
    char *argv[WORDS_MAX + 1] = {PERFORMERCTL};
    int argc = 1;

    snprintf(text, sizeof text, "%s", line);
    for (char *word = strtok(text, " "); word && argc < WORDS_MAX; word = strtok(NULL, " "))
        argv[argc++] = word;
    setenv("PERFORMERD_URL", url, 1);
    setenv("LC_ALL", "C.UTF-8", 1);
    execv(argv[0], argv);
    _exit(99);
}

static pid_t start(const char *url, const char *line, FILE *out, FILE *err)
{
    pid_t pid = fork();

    if (pid != 0) return pid;
    dup2(open("/dev/null", O_RDONLY), STDIN_FILENO);
    dup2(fileno(out), STDOUT_FILENO);
    dup2(fileno(err), STDERR_FILENO);
    exec_in_child(url, line);
}

static int exit_of(pid_t pid)
{
    int status;

    while (waitpid(pid, &status, 0) < 0) cr_assert_eq(errno, EINTR);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void run(const char *url, const char *line, struct ran *ran)
{
    FILE *out = tmpfile(), *err = tmpfile();

    ran->code = exit_of(start(url, line, out, err));
    read_back(out, ran->out);
    read_back(err, ran->err);
}

static struct ran *run_with(struct script script, const char *line)
{
    static struct ran ran;
    struct scripted_daemon *daemon = scripted_daemon_start(script);

    run(scripted_daemon_url(daemon), line, &ran);
    scripted_daemon_stop(daemon);
    return &ran;
}

static void must_say(const char *text, const char *part)
{
    cr_assert(strstr(text, part), "no \"%s\" in\n%s", part, text);
}

#define RUNS_ON ((struct script){.end_state = "RUNNING"})
#define NOWHERE "ipc:///tmp/test-performerctl-nobody.sock"

/* ---- job files ---- */

static char job_path[] = "/tmp/test-performerctl-XXXXXX";

static const char *job_file(const char *text)
{
    int fd = mkstemp(job_path);

    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    return job_path;
}

static void remove_job_file(void)
{
    unlink(job_path);
}

TestSuite(verbs, .fini = remove_job_file, .timeout = 60);

#define GOOD_JOB                                                                     \
    "[job]\nname = \"demo\"\n[data]\nformat = \"text\"\ntrain = \"/etc/hostname\"\n" \
    "length = 256\n[model]\nlayers = 2\nheads = 4\nwidth = 64\nmlp = 128\n"
#define FIVE_MISTAKES                                                                      \
    "[job]\nname = \"two words\"\n[data]\nformat = \"textt\"\ntrain = \"x\"\nlength = 0\n" \
    "[model]\nlayers = 2\nlayres = 2\nheads = 4\nwidth = 64\nmlp = \"128\"\n"

static const char *line_with(const char *verb, const char *path, const char *options)
{
    static char line[256];

    snprintf(line, sizeof line, "%s %s %s", verb, path, options);
    return line;
}

static size_t count_of(const char *text, const char *part)
{
    size_t count = 0;

    for (; (text = strstr(text, part)); text += strlen(part)) count++;
    return count;
}

Test(verbs, five_mistakes_get_five_diagnostics)
{
    static struct ran ran;
    const char *path = job_file(FIVE_MISTAKES);

    run(NOWHERE, line_with("submit", path, ""), &ran);
    cr_assert_eq(ran.code, 3);
    cr_assert_str_eq(ran.out, "");
    cr_assert_eq(count_of(ran.err, "error[E"), 5, "%s", ran.err);
    must_say(ran.err, "^");
    must_say(ran.err, "did you mean `layers`?");
    run(NOWHERE, line_with("validate", path, ""), &ran);
    cr_assert_eq(ran.code, 3);
    cr_assert_eq(count_of(ran.err, "error[E"), 5);
}

Test(verbs, five_mistakes_as_json)
{
    static struct ran ran;
    const char *path = job_file(FIVE_MISTAKES);

    run(NOWHERE, line_with("submit", path, "--json"), &ran);
    cr_assert_eq(ran.code, 3);
    json_t *error = json_loads(ran.err, 0, NULL);
    cr_assert_not_null(error, "%s", ran.err);
    cr_assert_str_eq(json_string_value(json_object_get(error, "status")), "invalid");
    cr_assert_eq(json_array_size(json_object_get(error, "diagnostics")), 5);
    json_decref(error);
    run(NOWHERE, line_with("validate", path, "--json"), &ran);
    json_t *verdict = json_loads(ran.out, 0, NULL);
    cr_assert(json_is_false(json_object_get(verdict, "valid")), "%s", ran.out);
    cr_assert_eq(json_array_size(json_object_get(verdict, "diagnostics")), 5);
    json_decref(verdict);
}

Test(verbs, validate_needs_no_daemon_and_says_what_a_job_takes)
{
    static struct ran ran;
    const char *path = job_file(GOOD_JOB);
    static const char *const parts[] = {": ok",   "parameters", "a rank",          "FLOPs",
                                        "tokens", "exact",      "precision   fp32"};

    run(NOWHERE, line_with("validate", path, ""), &ran);
    cr_assert_eq(ran.code, 0, "%s", ran.err);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) must_say(ran.out, parts[i]);
    run(NOWHERE, line_with("submit", path, "--dry-run"), &ran);
    cr_assert_eq(ran.code, 0, "%s", ran.err);
    must_say(ran.out, "parameters");
    run(NOWHERE, line_with("validate", path, "--set model.width=65"), &ran);
    cr_assert_eq(ran.code, 3, "an override is checked too");
}

Test(verbs, weights_that_are_not_there_are_a_mistake)
{
    static struct ran ran;
    const char *path = job_file(GOOD_JOB);
    static const struct {
        const char *options, *message, *help;
    } mistakes[] = {
        {"--set model.init=nowhere.safetensors", "nowhere.safetensors: No such file",
         "help: name the model.safetensors of a checkpoint"},
        {"--set model.init=/tmp", "/tmp: it is a directory", "help: add /model.safetensors"},
    };

    for (size_t i = 0; i < sizeof mistakes / sizeof mistakes[0]; i++) {
        run(NOWHERE, line_with("validate", path, mistakes[i].options), &ran);
        cr_assert_eq(ran.code, 3);
        must_say(ran.err, "error[E0514]: `init` in [model] cannot be read: /");
        must_say(ran.err, mistakes[i].message);
        must_say(ran.err, mistakes[i].help);
        run(NOWHERE, line_with("submit", path, mistakes[i].options), &ran);
        cr_assert_eq(ran.code, 3);
    }
    char options[128];
    snprintf(options, sizeof options, "--set model.init=%s", path);
    run(NOWHERE, line_with("validate", path, options), &ran);
    cr_assert_eq(ran.code, 0, "what is in the file is for the workers to say: %s", ran.err);
}

Test(verbs, a_job_file_that_is_not_there_is_invalid)
{
    static struct ran ran;

    run(NOWHERE, "submit /nonexistent/job.toml", &ran);
    cr_assert_eq(ran.code, 3);
    must_say(ran.err, "/nonexistent/job.toml");
}

/* ---- submit ---- */

Test(verbs, submit_says_what_to_type_next)
{
    const char *path = job_file(GOOD_JOB);
    struct ran *ran = run_with(RUNS_ON, line_with("submit", path, ""));

    cr_assert_eq(ran->code, 0, "%s", ran->err);
    must_say(ran->out, "r1");
    must_say(ran->err, "performerctl status r1 --watch");
    ran = run_with(RUNS_ON, line_with("submit", path, "--parsable"));
    cr_assert_str_eq(ran->out, "r1\n");
    cr_assert_str_eq(ran->err, "");
}

Test(verbs, a_submit_that_is_not_answered_goes_again_with_the_same_key)
{
    const char *path = job_file(GOOD_JOB);
    static struct ran ran;
    struct scripted_daemon *daemon =
        scripted_daemon_start((struct script){.end_state = "RUNNING", .silent = 1});

    run(scripted_daemon_url(daemon), line_with("submit", path, "--parsable"), &ran);
    cr_assert_eq(ran.code, 0, "%s", ran.err);
    cr_assert_str_eq(ran.out, "r1\n");
    cr_assert_eq(scripted_daemon_submits(daemon), 2);
    cr_assert(scripted_daemon_same_key(daemon));
    scripted_daemon_stop(daemon);
}

Test(verbs, submit_waits_on_demand)
{
    const char *path = job_file(GOOD_JOB);
    struct script script = {.end_state = "CANCELLED", .looks = 2};
    struct ran *ran = run_with(script, line_with("submit", path, "--wait --parsable"));

    cr_assert_eq(ran->code, 9, "%s", ran->err);
    cr_assert_str_eq(ran->out, "r1\n");
    must_say(ran->err, "cancelled");
}

/* ---- exit codes ---- */

Test(verbs, each_status_of_the_daemon_has_its_exit_code, .timeout = 250)
{
    static const struct {
        enum status status;
        int code;
    } cases[] = {{ST_NOT_FOUND, 4},   {ST_NOT_PERMITTED, 6}, {ST_REFUSED, 7}, {ST_INVALID, 3},
                 {ST_UNSUPPORTED, 7}, {ST_INTERNAL, 1},      {ST_NO_SPACE, 1}};
    static const char *const lines[] = {
        "describe r1", "status r1",     "logs r1",   "metrics r1",     "wait r1",   "cancel r1",
        "kill r1",     "checkpoint r1", "redraw r1", "checkpoints r1", "events r1", "list",
        "evaluate r1", "pause r1",      "resume r1", "requeue r1",     "fork r1"};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (size_t l = 0; l < sizeof lines / sizeof lines[0]; l++) {
            struct ran *ran = run_with((struct script){.status = cases[i].status}, lines[l]);
            cr_assert_eq(ran->code, cases[i].code, "%s after %s: %d", lines[l],
                         status_text(cases[i].status), ran->code);
            cr_assert_str_eq(ran->out, "", "%s", lines[l]);
            must_say(ran->err, "said the script");
        }
}

Test(verbs, no_daemon_is_said_in_words)
{
    static struct ran ran;

    run(NOWHERE, "list", &ran);
    cr_assert_eq(ran.code, 5);
    must_say(ran.err, NOWHERE);
    run(NOWHERE, "wait r1 --json", &ran);
    cr_assert_eq(ran.code, 5);
    json_t *error = json_loads(ran.err, 0, NULL);
    cr_assert_str_eq(json_string_value(json_object_get(error, "status")), "unreachable");
    json_decref(error);
    run("nonsense", "list", &ran);
    cr_assert_eq(ran.code, 5);
    must_say(ran.err, "nonsense");
}

Test(verbs, usage_is_exit_code_2)
{
    static const char *const lines[] = {
        "",          "frobnicate",      "drill",       "list --all --frob", "status --watch",
        "help frob", "completion tcsh", "logs r1 -n0", "logs r1 --rank x"};
    static struct ran ran;

    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        run(NOWHERE, lines[i], &ran);
        cr_assert_eq(ran.code, 2, "%s: %d", lines[i], ran.code);
        cr_assert_str_eq(ran.out, "", "%s", lines[i]);
        cr_assert_str_neq(ran.err, "", "%s", lines[i]);
    }
}

Test(verbs, an_answer_to_another_question_is_not_taken)
{
    struct ran *ran = run_with((struct script){.other_body = true}, "describe r1");

    cr_assert_eq(ran->code, 1);
    must_say(ran->err, "something else");
}

Test(verbs, a_full_disk_behind_stdout_is_not_success)
{
    static struct ran ran;
    FILE *out = fopen("/dev/full", "w"), *err = tmpfile();

    cr_assert_eq(exit_of(start(NOWHERE, "help", out, err)), 1);
    read_back(err, ran.err);
    must_say(ran.err, "could not write");
    fclose(out);
}

/* ---- waiting ---- */

Test(verbs, wait_ends_as_the_run_does)
{
    static const struct {
        const char *state;
        int code;
    } cases[] = {{"SUCCEEDED", 0}, {"FAILED", 1}, {"CANCELLED", 9}};

    for (size_t i = 0; i < 3; i++) {
        struct script script = {.end_state = cases[i].state, .looks = 1};
        struct ran *ran = run_with(script, "wait r1");
        cr_assert_eq(ran->code, cases[i].code, "%s: %d", cases[i].state, ran->code);
        cr_assert_str_eq(ran->out, "");
    }
}

Test(verbs, a_wait_has_its_limit)
{
    struct ran *ran = run_with(RUNS_ON, "wait r1 --timeout 0.2");

    cr_assert_eq(ran->code, 8);
    must_say(ran->err, "has not ended");
}

/* Ends `line` by SIGINT once it has asked at least twice, and so is waiting. */
static void interrupt(const char *line, const char *part)
{
    static struct ran ran;
    struct scripted_daemon *daemon = scripted_daemon_start(RUNS_ON);
    FILE *out = tmpfile(), *err = tmpfile();
    pid_t pid = start(scripted_daemon_url(daemon), line, out, err);

    while (scripted_daemon_looks(daemon) < 2) usleep(10000);
    kill(pid, SIGINT);
    cr_assert_eq(exit_of(pid), 130, "%s", line);
    read_back(err, ran.err);
    must_say(ran.err, part);
    fclose(out);
    scripted_daemon_stop(daemon);
}

Test(verbs, an_interrupted_wait_says_that_the_run_goes_on)
{
    interrupt("wait r1", "run r1 goes on");
    interrupt("status r1 --watch 0.1", "run r1 goes on");
}

Test(verbs, a_wait_outlives_the_daemon)
{
    static struct ran ran;
    struct script script = {.end_state = "SUCCEEDED", .looks = 1000};
    struct scripted_daemon *daemon = scripted_daemon_start(script);
    FILE *out = tmpfile(), *err = tmpfile();
    char url[128];
    snprintf(url, sizeof url, "%s", scripted_daemon_url(daemon));
    pid_t pid = start(url, "wait r1", out, err);

    while (scripted_daemon_looks(daemon) < 1) usleep(10000);
    scripted_daemon_stop(daemon);
    while (ftell(err) == 0) { /* until it has said that the daemon is away */
        usleep(10000);
        fseek(err, 0, SEEK_END);
    }
    script.looks = 0;
    daemon = scripted_daemon_start_at(script, url);
    cr_assert_eq(exit_of(pid), 0);
    read_back(err, ran.err);
    must_say(ran.err, "waiting for it to come back");
    must_say(ran.err, "the daemon is back");
    fclose(out);
    scripted_daemon_stop(daemon);
}

/* ---- watch ---- */

Test(verbs, a_piped_watch_prints_a_line_a_change_and_ends)
{
    struct script script = {.end_state = "SUCCEEDED", .looks = 3};
    struct ran *ran = run_with(script, "status r1 --watch 0.1");

    cr_assert_eq(ran->code, 0, "%s", ran->err);
    cr_assert_eq(count_of(ran->out, "\n"), 4, "%s", ran->out);
    cr_assert_eq(count_of(ran->out, "RUNNING"), 3);
    cr_assert_eq(count_of(ran->out, "SUCCEEDED"), 1);
    must_say(ran->out, "12.3k tok/s");
    must_say(ran->out, "valid_loss 2.901  error 0.6142");
    cr_assert_null(strchr(ran->out, '\033'));
}

/* Runs `line` in a terminal of 80 by 24 and gives all that it wrote there; types `keys` once the picture stands. */
static int run_in_terminal(const char *url, const char *line, const char *keys,
                           const char *no_color, char out[OUTPUT_MAX])
{
    struct winsize size = {.ws_col = 80, .ws_row = 24};
    int terminal;
    size_t used = 0;
    bool typed = keys == NULL;
    pid_t pid = forkpty(&terminal, NULL, NULL, &size);

    if (pid == 0) {
        setenv("TERM", "xterm", 1);
        setenv("NO_COLOR", no_color, 1);
        exec_in_child(url, line);
    }
    for (;;) {
        ssize_t count = read(terminal, out + used, OUTPUT_MAX - 1 - used);
        if (count <= 0) break; /* EIO: the other end is gone */
        used += (size_t)count;
        out[used] = '\0';
        if (typed || !strstr(out, "q leaves")) continue;
        cr_assert_eq(write(terminal, keys, strlen(keys)), (ssize_t)strlen(keys));
        typed = true;
    }
    close(terminal);
    return exit_of(pid);
}

#define SCREEN_TAKEN "\033[?1049h\033[?25l"
#define SCREEN_GIVEN "\033[?25h\033[?1049l"

Test(verbs, a_watch_in_a_terminal_gives_the_screen_back)
{
    static char out[OUTPUT_MAX];
    struct script script = {.end_state = "FAILED", .looks = 3};
    struct scripted_daemon *daemon = scripted_daemon_start(script);

    cr_assert_eq(run_in_terminal(scripted_daemon_url(daemon), "status r1 -w 0.1", NULL, "", out),
                 1);
    scripted_daemon_stop(daemon);
    must_say(out, SCREEN_TAKEN);
    must_say(out, "\033[32m  RUNNING");
    const char *given = strstr(out, SCREEN_GIVEN);
    cr_assert_not_null(given);
    must_say(given, "FAILED"); /* the summary stays on the screen */
    must_say(given, "run r1 failed");
}

Test(verbs, q_leaves_a_watch_and_no_color_is_heeded)
{
    static char out[OUTPUT_MAX];
    struct scripted_daemon *daemon = scripted_daemon_start(RUNS_ON);

    cr_assert_eq(run_in_terminal(scripted_daemon_url(daemon), "status r1 -w 5", "q", "1", out), 0);
    must_say(out, SCREEN_GIVEN);
    cr_assert_null(strstr(out, "\033[3"), "a colour");
    cr_assert_eq(run_in_terminal(scripted_daemon_url(daemon), "status r1 -w 5", "\003", "", out),
                 130);
    must_say(out, SCREEN_GIVEN);
    must_say(out, "run r1 goes on");
    scripted_daemon_stop(daemon);
}

/* ---- JSON ---- */

/* Every line of the text is a JSON document; the number of lines. */
static size_t must_be_json(const char *text, const char *what)
{
    size_t count = 0;

    while (*text) {
        size_t length = strcspn(text, "\n");
        json_error_t error;
        json_t *document = json_loadb(text, length, JSON_DECODE_ANY, &error);
        cr_assert_not_null(document, "%s: %s: %.*s", what, error.text, (int)length, text);
        json_decref(document);
        text += length + (text[length] == '\n');
        count++;
    }
    return count;
}

Test(verbs, every_verb_speaks_json)
{
    const char *path = job_file(GOOD_JOB);

    for (size_t i = 0; i < verb_count; i++) {
        char line[256];
        const char *argument = verbs[i].argument == ARGUMENT_FILE    ? path
                               : verbs[i].argument == ARGUMENT_RUN   ? "r1"
                               : verbs[i].argument == ARGUMENT_SHELL ? "bash"
                                                                     : "";
        snprintf(line, sizeof line, "%s %s --json", verbs[i].name, argument);
        struct ran *ran = run_with((struct script){.end_state = "SUCCEEDED"}, line);
        if (strcmp(verbs[i].name, "doctor") != 0)
            cr_assert_eq(ran->code, 0, "%s: %s", line, ran->err);
        cr_assert_gt(must_be_json(ran->out, line), 0, "%s", line);
        must_be_json(ran->err, line);
    }
    struct ran *ran = run_with((struct script){.end_state = "FAILED", .looks = 2},
                               "status r1 --watch 0.1 --json");
    cr_assert_eq(ran->code, 1);
    cr_assert_eq(must_be_json(ran->out, "watch"), 3);
}

Test(verbs, metrics_are_paged_to_the_end_in_a_stable_form)
{
    struct ran *ran = run_with(RUNS_ON, "metrics r1 --json");

    cr_assert_str_eq(
        ran->out,
        "{\"attempt\":1,\"step\":1,\"name\":\"loss\",\"value\":4.22,\"time_ms\":1790000000000}\n"
        "{\"attempt\":1,\"step\":1,\"name\":\"lr\",\"value\":0.001,\"time_ms\":1790000000001}\n"
        "{\"attempt\":1,\"step\":2,\"name\":\"loss\",\"value\":null,\"time_ms\":1790000000002}\n");
    ran = run_with(RUNS_ON, "metrics r1 --csv");
    cr_assert_eq(count_of(ran->out, "\n"), 4);
    must_say(ran->out, "attempt,step,name,value,time_ms\n1,1,loss,");
    ran = run_with(RUNS_ON, "metrics r1");
    must_say(ran->out, "step  attempt  loss     lr\n"
                       "   1        1  4.22  0.001\n"
                       "   2        1   nan\n");
}

Test(verbs, describe_json_holds_what_scripts_rely_on)
{
    struct ran *ran = run_with(RUNS_ON, "describe r1 --json");
    json_t *run = json_loads(ran->out, 0, NULL);

    cr_assert_not_null(run, "%s", ran->out);
    cr_assert_str_eq(json_string_value(json_object_get(run, "state")), "RUNNING");
    cr_assert_str_eq(json_string_value(json_object_get(run, "directory")), "/srv/runs/r1");
    cr_assert_eq(json_integer_value(json_object_get(run, "step")), 1240);
    json_t *attempts = json_object_get(run, "attempts");
    cr_assert_eq(json_array_size(attempts), 2);
    cr_assert_str_eq(json_string_value(json_object_get(json_array_get(attempts, 0), "cause")),
                     "CRASH");
    cr_assert(json_is_null(json_object_get(json_array_get(attempts, 1), "first_rank")));
    json_t *worst = json_object_get(run, "approximation");
    cr_assert_eq(json_integer_value(json_object_get(worst, "step")), 1200);
    cr_assert_eq(json_integer_value(json_object_get(worst, "layer")), 1);
    cr_assert_eq(json_real_value(json_object_get(worst, "error")), 0.61423);
    cr_assert_eq(json_real_value(json_object_get(worst, "denominator_min")), 0.013);
    cr_assert_eq(json_real_value(json_object_get(worst, "saturated")), 0.0021);
    cr_assert(json_is_null(json_object_get(run, "redraw_threshold")));
    json_decref(run);
    ran = run_with(RUNS_ON, "checkpoints r1 --json");
    json_t *list = json_loads(ran->out, 0, NULL);
    json_t *first = json_array_get(list, 0);
    cr_assert_eq(json_integer_value(json_object_get(first, "step")), 500);
    cr_assert_str_eq(json_string_value(json_object_get(first, "verdict")), "pruned");
    cr_assert_not_null(json_string_value(json_object_get(first, "path")));
    cr_assert(json_is_null(json_object_get(first, "valid_loss")));
    json_decref(list);
}

Test(verbs, describe_tells_everything)
{
    static const char *const parts[] = {
        "trembl-favor",        "/srv/runs/r1",  "CRASH",       "rank 1",  "node1",   "signal 9",
        "loss is 3.1",         "from step 500", "they DIFFER", "order 7", "applied", "pruned",
        "next after step 2000"};
    struct ran *ran = run_with(RUNS_ON, "describe r1");

    cr_assert_eq(ran->code, 0);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) must_say(ran->out, parts[i]);
    cr_assert_null(strchr(ran->out, '\033'), "a log line must not move the cursor");
    ran = run_with(RUNS_ON, "describe r1 --config");
    cr_assert_eq(strncmp(ran->out, "[job]\nname = \"trembl-favor\"\n", 28), 0, "%s", ran->out);
}

/* ---- the rest ---- */

Test(verbs, logs_go_on_from_attempt_to_attempt)
{
    struct ran *ran = run_with((struct script){.end_state = "SUCCEEDED"}, "logs r1");

    cr_assert_str_eq(ran->out, "three\n");
    ran = run_with((struct script){.end_state = "SUCCEEDED"}, "logs r1 --attempt 1");
    cr_assert_str_eq(ran->out, "one\ntwo\n");
    ran = run_with((struct script){.end_state = "SUCCEEDED"}, "logs r1 -f");
    cr_assert_eq(ran->code, 0, "%s", ran->err);
    cr_assert_str_eq(ran->out, "three\n");
    ran = run_with((struct script){.end_state = "SUCCEEDED"}, "logs r1 -f --attempt 1 --json");
    cr_assert_str_eq(ran->out, "{\"attempt\":1,\"rank\":0,\"line\":\"one\"}\n"
                               "{\"attempt\":1,\"rank\":0,\"line\":\"two\"}\n");
}

Test(verbs, events_are_paged)
{
    struct ran *ran = run_with(RUNS_ON, "events r1");

    cr_assert_eq(count_of(ran->out, "\n"), 3, "%s", ran->out);
    must_say(ran->out, "run-submitted");
    must_say(ran->out, "run-started");
}

Test(verbs, tables_and_orders_in_words)
{
    struct ran *ran = run_with(RUNS_ON, "list");
    must_say(ran->out, "ID  NAME          STATE");
    must_say(ran->out, "r1  trembl-favor  RUNNING  1240/2000");
    ran = run_with(RUNS_ON, "status");
    must_say(ran->out, "62%");
    must_say(ran->out, "12.3k");
    ran = run_with(RUNS_ON, "status r1");
    must_say(ran->out, "1240/2000  62%");
    must_say(ran->out, "run-started");
    ran = run_with(RUNS_ON, "cancel r1");
    must_say(ran->out, "r1  order 12: ");
    ran = run_with(RUNS_ON, "checkpoints r1");
    must_say(ran->out, "13.2 MB");
}

Test(verbs, doctor_says_what_fails_and_the_cure)
{
    static struct ran ran;

    run(NOWHERE, "doctor", &ran);
    cr_assert_eq(ran.code, 1);
    must_say(ran.out, "FAILS");
    must_say(ran.out, NOWHERE);
    must_say(ran.out, "cuda");
    must_say(ran.out, "slurm");
}

Test(verbs, doctor_looks_at_the_disk_of_the_runs_too)
{
    struct ran *ran = run_with((struct script){.end_state = "SUCCEEDED"}, "doctor");
    cr_assert_eq(ran->code, 1);
    must_say(ran->out, "free for /proc");
}
