#include "daemon/slurm_script.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NONCE_SHOWN = 16 };

void slurm_job_name(const char *run_id, uint32_t attempt, const char *nonce,
                    char name[SLURM_NAME_SIZE])
{
    snprintf(name, SLURM_NAME_SIZE, "%s-a%" PRIu32 "-%.*s", run_id, attempt, NONCE_SHOWN, nonce);
}

/* As sbatch reads its lines: in double quotes nothing has a meaning but those and the backslash. */
static void put_escaped(FILE *out, const char *text)
{
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\') fputc('\\', out);
        fputc(*text, out);
    }
}

static void put_option(FILE *out, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void put_option(FILE *out, const char *format, ...)
{
    char option[2 * LAUNCHER_PATH_MAX];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(option, sizeof option, format, arguments);
    va_end(arguments);
    fputs("#SBATCH \"", out);
    put_escaped(out, option);
    fputs("\"\n", out);
}

/* A word of a shell, whatever is in it. */
static void put_quoted(FILE *out, const char *text)
{
    fputc('\'', out);
    for (; *text != '\0'; text++)
        if (*text == '\'')
            fputs("'\\''", out);
        else
            fputc(*text, out);
    fputc('\'', out);
}

/* In names of output files % begins a pattern. */
static void put_output(FILE *out, const char *directory)
{
    fputs("#SBATCH \"--output=", out);
    for (; *directory != '\0'; directory++) {
        const char one[2] = {*directory, '\0'};
        put_escaped(out, *directory == '%' ? "%%" : one);
    }
    fputs("/slurm.log\"\n", out);
}

/*
 * Of an option that is given twice sbatch takes the last, so that what stands in `extra` changes none of ours.
 * --no-requeue: a job that Slurm starts again has the nonce of its first start, and what lives on of that one could write
 * beside it. To go on after a lost node or a preemption is the daemon's part, with an attempt of its own.
 */
static void put_options(FILE *out, const struct slurm_script *script)
{
    const struct jobspec *spec = script->spec;
    for (size_t i = 0; i < spec->slurm.extra.count; i++)
        put_option(out, "%s", spec->slurm.extra.items[i]);
    put_option(out, "--job-name=%s", script->name);
    put_option(out, "--nodes=%" PRId64, spec->slurm.nodes);
    put_option(out, "--ntasks=%" PRIu32, script->order->ranks);
    put_option(out, "--cpus-per-task=%" PRId64, spec->resources.threads);
    if (spec->slurm.gpus_per_rank > 0)
        put_option(out, "--gpus-per-task=%" PRId64, spec->slurm.gpus_per_rank);
    if (spec->slurm.partition[0] != '\0') put_option(out, "--partition=%s", spec->slurm.partition);
    if (spec->slurm.account[0] != '\0') put_option(out, "--account=%s", spec->slurm.account);
    if (spec->slurm.time[0] != '\0') put_option(out, "--time=%s", spec->slurm.time);
    put_option(out, "--signal=B:USR2@%" PRId64, spec->slurm.grace);
    put_option(out, "--no-requeue");
    put_option(out, "--open-mode=append");
    put_option(out, "--chdir=%s", script->order->run_directory);
    put_output(out, script->order->attempt_directory);
}

/* performer-launch takes the place of the shell: it is who gets the signal before the time limit, and passes it on. */
static void put_command(FILE *out, const struct slurm_script *script)
{
    const struct launch_order *order = script->order;
    fprintf(
        out,
        "\nif srun --mpi=list 2>&1 | grep -qw pmix; then\n"
        "    set -- srun --mpi=pmix --kill-on-bad-exit=1 --cpu-bind=none --cpus-per-task=%" PRId64
        "\n"
        "else\n"
        "    set -- mpirun --bind-to none\n"
        "fi\n"
        "exec ",
        script->spec->resources.threads);
    put_quoted(out, script->programs->launch);
    fputc(' ', out);
    put_quoted(out, order->attempt_directory);
    fprintf(out, " %s -- \"$@\" ", order->nonce);
    put_quoted(out, script->programs->worker);
    fputs(" --plan ", out);
    char plan[LAUNCHER_PATH_MAX + 16];
    snprintf(plan, sizeof plan, "%s/plan", order->attempt_directory);
    put_quoted(out, plan);
    fputc('\n', out);
}

enum status slurm_script_make(const struct slurm_script *script, char **text)
{
    char *made = NULL;
    size_t size;
    FILE *out = open_memstream(&made, &size);
    if (!out) return ST_NO_MEMORY;
    fputs("#!/bin/bash\n# Made by performerd: sbatch took it as it is here.\n", out);
    put_options(out, script);
    put_command(out, script);
    if (fclose(out) != 0) {
        free(made);
        return ST_NO_MEMORY;
    }
    *text = made;
    return ST_OK;
}
