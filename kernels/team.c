#include "kernels/team.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

/*
 * One job at a time. It is open from its start until the caller finds no piece
 * left; a thread that wakes up later than that does not enter, so that a join
 * waits for pieces under way and never for a sleeper. What is under `mutex` is
 * atomic besides where somebody spins on it before taking the mutex.
 */

/* Looks before going to sleep: some microseconds,
 * about the gap between two operations of a step. */
enum { SPINS = 2000 };

struct job {
    team_body *body;
    void *context;
    int64_t pieces;
};

struct member {
    struct team *team;
    pthread_t handle;
    int thread;
};

struct team {
    int threads;
    struct member *members; /* [threads - 1] */
    pthread_mutex_t mutex;
    pthread_cond_t job_posted, job_left;
    struct job job;
    bool open, stopping;
    atomic_uint generation; /* one more with each job, and at the end */
    atomic_int inside;      /* members that have entered the job */
    _Atomic int64_t next;   /* the first piece that nobody has taken */
};

static void spin_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void pieces_run(struct team *team, const struct job *job, int thread)
{
    for (;;) {
        int64_t piece = atomic_fetch_add_explicit(&team->next, 1, memory_order_relaxed);
        if (piece >= job->pieces) return;
        job->body(job->context, piece, thread);
    }
}

/* Takes the mutex once there is a generation after `seen`. */
static unsigned generation_await(struct team *team, unsigned seen)
{
    for (int spin = 0; spin < SPINS && atomic_load(&team->generation) == seen; spin++) spin_pause();
    pthread_mutex_lock(&team->mutex);
    while (atomic_load(&team->generation) == seen)
        pthread_cond_wait(&team->job_posted, &team->mutex);
    return atomic_load(&team->generation);
}

static void *member_run(void *argument)
{
    struct member *member = argument;
    struct team *team = member->team;

    for (unsigned seen = 0;;) {
        seen = generation_await(team, seen);
        bool stopping = team->stopping, open = team->open;
        struct job job = team->job;
        if (open) atomic_fetch_add(&team->inside, 1);
        pthread_mutex_unlock(&team->mutex);
        if (stopping) return NULL;
        if (!open) continue;

        pieces_run(team, &job, member->thread);

        pthread_mutex_lock(&team->mutex);
        if (atomic_fetch_sub(&team->inside, 1) == 1) pthread_cond_signal(&team->job_left);
        pthread_mutex_unlock(&team->mutex);
    }
}

/* Ends and joins the first `started` members. */
static void members_stop(struct team *team, int started)
{
    pthread_mutex_lock(&team->mutex);
    team->stopping = true;
    atomic_fetch_add(&team->generation, 1);
    pthread_cond_broadcast(&team->job_posted);
    pthread_mutex_unlock(&team->mutex);
    for (int i = 0; i < started; i++) pthread_join(team->members[i].handle, NULL);
}

/* Members take no signals: those are for the threads of whoever made the team. */
static enum status members_start(struct team *team)
{
    sigset_t all, before;
    enum status status = ST_OK;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int i = 0; i < team->threads - 1 && status == ST_OK; i++) {
        struct member *member = &team->members[i];
        *member = (struct member){.team = team, .thread = i + 1};
        int error = pthread_create(&member->handle, NULL, member_run, member);
        if (error == 0) continue;
        members_stop(team, i);
        status = status_from_errno(error);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return status;
}

static void team_release(struct team *team)
{
    pthread_cond_destroy(&team->job_left);
    pthread_cond_destroy(&team->job_posted);
    pthread_mutex_destroy(&team->mutex);
    free(team->members);
    free(team);
}

enum status team_new(int threads, struct team **team)
{
    assert(threads >= 1);
    struct team *made = calloc(1, sizeof *made);
    if (!made) return ST_NO_MEMORY;
    made->threads = threads;
    made->members = calloc((size_t)threads, sizeof *made->members);
    if (!made->members) {
        free(made);
        return ST_NO_MEMORY;
    }
    pthread_mutex_init(&made->mutex, NULL);
    pthread_cond_init(&made->job_posted, NULL);
    pthread_cond_init(&made->job_left, NULL);

    enum status status = members_start(made);
    if (status != ST_OK) {
        team_release(made);
        return status;
    }
    *team = made;
    return ST_OK;
}

void team_free(struct team *team)
{
    if (!team) return;
    members_stop(team, team->threads - 1);
    team_release(team);
}

int team_threads(const struct team *team)
{
    return team->threads;
}

static void job_post(struct team *team, const struct job *job)
{
    pthread_mutex_lock(&team->mutex);
    assert(!team->open); /* nested, or from two threads */
    team->job = *job;
    team->open = true;
    atomic_store(&team->next, 0);
    atomic_fetch_add(&team->generation, 1);
    pthread_cond_broadcast(&team->job_posted);
    pthread_mutex_unlock(&team->mutex);
}

static void job_close(struct team *team)
{
    pthread_mutex_lock(&team->mutex);
    team->open = false;
    pthread_mutex_unlock(&team->mutex);

    for (int spin = 0; spin < SPINS && atomic_load(&team->inside) > 0; spin++) spin_pause();
    pthread_mutex_lock(&team->mutex);
    while (atomic_load(&team->inside) > 0) pthread_cond_wait(&team->job_left, &team->mutex);
    pthread_mutex_unlock(&team->mutex);
}

void team_run(struct team *team, int64_t pieces, team_body *body, void *context)
{
    if (team->threads == 1 || pieces <= 1) {
        for (int64_t piece = 0; piece < pieces; piece++) body(context, piece, 0);
        return;
    }
    struct job job = {.body = body, .context = context, .pieces = pieces};
    job_post(team, &job);
    pieces_run(team, &job, 0);
    job_close(team);
}
