/*
 * sim: histories of a simulated world, each from its seed.
 *
 *   sim --seed N [--trace]         one of them; --trace tells what happens
 *   sim --seeds FROM..TO [--jobs J]  all of them, or up to the first that finds something
 *
 * Where it was built with planted defects (SIM_PLANTED), besides:
 *
 *   --plant NAME                   with that defect
 *   --plants                       --seeds for each defect; every one must be found
 */

#include <errno.h>
#include <ftw.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proto/logline.h"
#include "tests/sim/history.h"
#include "tests/sim/plant.h"
#include "tests/sim/world.h"

enum { JOBS_MAX = 64, ROOT_SIZE = 64, EXIT_USAGE = 2 };

struct arguments {
    uint64_t from, to;
    int jobs;
    bool all_plants;
};

/* What the processes that share the work have found; in memory that they share. */
struct findings {
    _Atomic uint64_t first_seed; /* the smallest that found something; UINT64_MAX: none */
    struct finding {
        _Atomic uint64_t seed; /* the one under way */
        char words[400];
    } jobs[JOBS_MAX];
};

static struct findings *findings;
static struct finding *mine;

static void note_first(uint64_t seed)
{
    uint64_t first = atomic_load(&findings->first_seed);
    while (seed < first && !atomic_compare_exchange_weak(&findings->first_seed, &first, seed))
        continue;
}

static void say_violation(const char *words)
{
    if (mine)
        snprintf(mine->words, sizeof mine->words, "%s", words);
    else
        printf("seed %" PRIu64 ": %s\n", world.seed, words);
    fflush(stdout);
}

/* Files are many, small and soon gone: in memory, where there is a file system for that. */
static void make_root(char *root)
{
    const char *place = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(root, ROOT_SIZE, "%s/performerd-sim.XXXXXX", place);
    if (mkdtemp(root)) return;
    fprintf(stderr, "sim: could not make %s: %s\n", root, strerror(errno));
    exit(EXIT_FAILURE);
}

static int remove_one(const char *path, const struct stat *stat, int kind, struct FTW *place)
{
    (void)stat, (void)kind, (void)place;
    return remove(path);
}

/* By who made it: a violation ends the process where it stands. */
static void remove_root(const char *root)
{
    nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void enter_root(const char *root)
{
    if (chdir(root) != 0) exit(EXIT_FAILURE);
    histories_begin();
}

static void tell_share(const struct arguments *arguments, int job, const char *root)
{
    mine = &findings->jobs[job];
    enter_root(root);
    for (uint64_t seed = arguments->from + (uint64_t)job; seed <= arguments->to;
         seed += (uint64_t)arguments->jobs) {
        if (seed > atomic_load(&findings->first_seed)) break;
        atomic_store(&mine->seed, seed);
        history_tell(seed);
    }
    atomic_store(&mine->seed, UINT64_MAX);
    histories_end();
}

/* The seed under way of a process that did not end well is what it found. */
static void note_end(struct finding *finding, int status)
{
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
    if (WIFSIGNALED(status))
        snprintf(finding->words, sizeof finding->words, "%s, see above",
                 strsignal(WTERMSIG(status)));
    note_first(atomic_load(&finding->seed));
}

/* In the order in which they end, so that the others need not look further than the first that found something. */
static void await_all(const pid_t *pids, int jobs)
{
    for (int left = jobs; left > 0; left--) {
        int status, job = 0;
        pid_t pid = wait(&status);
        while (job < jobs && pids[job] != pid) job++;
        if (job < jobs) note_end(&findings->jobs[job], status);
    }
}

/* Whatever the number of jobs, it is the smallest seed that finds something. NULL: none did. */
static const struct finding *search(const struct arguments *arguments)
{
    char roots[JOBS_MAX][ROOT_SIZE];
    pid_t pids[JOBS_MAX];
    memset(findings, 0, sizeof *findings);
    atomic_store(&findings->first_seed, UINT64_MAX);
    fflush(stdout);
    for (int job = 0; job < arguments->jobs; job++) {
        make_root(roots[job]);
        pids[job] = fork();
        if (pids[job] != 0) continue;
        tell_share(arguments, job, roots[job]);
        exit(EXIT_SUCCESS);
    }
    await_all(pids, arguments->jobs);
    for (int job = 0; job < arguments->jobs; job++) remove_root(roots[job]);
    uint64_t first = atomic_load(&findings->first_seed);
    for (int job = 0; job < arguments->jobs; job++)
        if (first != UINT64_MAX && atomic_load(&findings->jobs[job].seed) == first)
            return &findings->jobs[job];
    return NULL;
}

/* ---- what is asked for ---- */

static int tell_one(const struct arguments *arguments)
{
    char root[ROOT_SIZE];
    make_root(root);
    pid_t pid = fork();
    if (pid == 0) {
        enter_root(root);
        history_tell(arguments->from);
        histories_end();
        printf("seed %" PRIu64 ": all holds\n", arguments->from);
        exit(EXIT_SUCCESS);
    }
    int status = 0;
    bool ended = waitpid(pid, &status, 0) == pid && WIFEXITED(status);
    remove_root(root);
    return ended ? WEXITSTATUS(status) : EXIT_FAILURE;
}

static int tell_all(const struct arguments *arguments)
{
    const struct finding *found = search(arguments);
    if (found)
        printf("seed %" PRIu64 ": %s\nthe same again: sim --seed %" PRIu64 " --trace\n",
               atomic_load(&found->seed), found->words, atomic_load(&found->seed));
    else
        printf("seeds %" PRIu64 " to %" PRIu64 ": all holds\n", arguments->from, arguments->to);
    return found ? EXIT_FAILURE : EXIT_SUCCESS;
}

#ifdef SIM_PLANTED
static int find_all_plants(const struct arguments *arguments)
{
    int missed = 0;
    for (int i = PLANT_NONE + 1; i < PLANT_COUNT; i++) {
        planted = (enum plant)i;
        const struct finding *found = search(arguments);
        printf("%-9s %s\n", plant_name(planted), plant_words(planted));
        if (found)
            printf("          seed %" PRIu64 ": %s\n", atomic_load(&found->seed), found->words);
        else
            printf("          not found\n");
        missed += found == NULL;
    }
    return missed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
#endif

static int usage(void)
{
    fputs("usage: sim --seed N [--trace] | --seeds FROM..TO [--jobs J]"
#ifdef SIM_PLANTED
          " [--plant NAME | --plants]"
#endif
          "\n",
          stderr);
    return EXIT_USAGE;
}

static bool parse(int argc, char **argv, struct arguments *arguments)
{
    enum { SEED = 256, SEEDS, JOBS, TRACE, PLANT, PLANTS_ALL };
    static const struct option options[] = {
        {"seed", required_argument, NULL, SEED},
        {"seeds", required_argument, NULL, SEEDS},
        {"jobs", required_argument, NULL, JOBS},
        {"trace", no_argument, NULL, TRACE},
#ifdef SIM_PLANTED
        {"plant", required_argument, NULL, PLANT},
        {"plants", no_argument, NULL, PLANTS_ALL},
#endif
        {NULL, 0, NULL, 0},
    };
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case SEED:
            arguments->from = arguments->to = strtoull(optarg, NULL, 10);
            break;
        case SEEDS:
            if (sscanf(optarg, "%" SCNu64 "..%" SCNu64, &arguments->from, &arguments->to) != 2)
                return false;
            break;
        case JOBS:
            arguments->jobs = atoi(optarg);
            break;
        case TRACE:
            world.trace = true;
            break;
#ifdef SIM_PLANTED
        case PLANT:
            if (!plant_from_name(optarg, &planted)) return false;
            break;
        case PLANTS_ALL:
            arguments->all_plants = true;
            break;
#endif
        default:
            return false;
        }
    }
    return optind == argc && arguments->from > 0 && arguments->from <= arguments->to &&
           arguments->jobs >= 1 && arguments->jobs <= JOBS_MAX;
}

int main(int argc, char **argv)
{
    struct arguments arguments = {.jobs = 2};
    if (!parse(argc, argv, &arguments)) return usage();
    world_violated = say_violation;
    findings =
        mmap(NULL, sizeof *findings, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (findings == MAP_FAILED) return EXIT_FAILURE;
#ifdef SIM_PLANTED
    if (arguments.all_plants) return find_all_plants(&arguments);
#endif
    return arguments.from == arguments.to ? tell_one(&arguments) : tell_all(&arguments);
}
