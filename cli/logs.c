#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/report.h"
#include "cli/verbs.h"
#include "cli/waiting.h"

enum { FOLLOW_MS = 500, LAUNCHER = -1 };

struct reading {
    int32_t rank;
    uint32_t attempt; /* 0: the newest */
    uint64_t offset;
    uint32_t tail_lines; /* of the first answer */
    char *line;          /* --json: the beginning of a line whose end has not come yet */
    size_t line_length;
};

static enum status parse_rank(const char *text, int32_t *rank, struct fault *fault)
{
    char *end;

    if (strcmp(text, "launcher") == 0) {
        *rank = LAUNCHER;
        return ST_OK;
    }
    errno = 0;
    long value = strtol(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || value > INT32_MAX)
        return fault_set(fault, ST_INVALID, "--rank takes a number or `launcher`, not `%s`", text);
    *rank = (int32_t)value;
    return ST_OK;
}

static enum status ask(struct remote *remote, const char *run, const struct reading *reading,
                       Performer__Response **response, struct fault *fault)
{
    Performer__ReadLog read = PERFORMER__READ_LOG__INIT;
    Performer__Request request = PERFORMER__REQUEST__INIT;

    read.run = (char *)run;
    read.attempt = reading->attempt;
    read.rank = reading->rank;
    read.offset = reading->offset;
    read.tail_lines = reading->tail_lines;
    request.body_case = PERFORMER__REQUEST__BODY_READ_LOG;
    request.read_log = &read;
    return remote_call(remote, &request, PERFORMER__RESPONSE__BODY_LOG_CHUNK, response, fault);
}

/* ---- output ---- */

static void put_line_json(struct reading *reading)
{
    json_t *rank = reading->rank == LAUNCHER ? json_null() : json_integer(reading->rank);
    json_t *line = json_stringn(reading->line ? reading->line : "", reading->line_length);

    report_json(json_pack("{s:i,s:o,s:o}", "attempt", (int)reading->attempt, "rank", rank, "line",
                          line ? line : json_null()));
    reading->line_length = 0;
}

static void take_json(struct reading *reading, const char *data, size_t length)
{
    char *grown = realloc(reading->line, reading->line_length + length + 1);

    if (!grown) return;
    reading->line = grown;
    for (size_t i = 0; i < length; i++) {
        if (data[i] == '\n')
            put_line_json(reading);
        else
            reading->line[reading->line_length++] = data[i];
    }
}

static void take(const struct invocation *invocation, struct reading *reading,
                 const Performer__LogChunk *chunk)
{
    reading->attempt = chunk->attempt;
    reading->offset = chunk->next_offset;
    reading->tail_lines = 0;
    if (invocation_json(invocation))
        take_json(reading, (const char *)chunk->data.data, chunk->data.len);
    else if (chunk->data.len > 0)
        fwrite(chunk->data.data, 1, chunk->data.len, stdout);
    fflush(stdout);
}

/* ---- once ---- */

/* A log may be larger than an answer: on until one comes empty. */
static enum exit_code read_once(const struct invocation *invocation, struct reading *reading)
{
    struct remote remote;
    struct fault fault;
    size_t length, total = 0;

    enum status status = remote_open(invocation, REMOTE_ANSWER_MS, &remote, &fault);
    if (status != ST_OK) return report_fault(invocation, &fault);
    do {
        Performer__Response *response;
        status = ask(&remote, invocation->argument, reading, &response, &fault);
        if (status != ST_OK) break;
        length = response->log_chunk->data.len;
        total += length;
        take(invocation, reading, response->log_chunk);
        response_free(response);
    } while (length > 0);
    if (status == ST_OK && reading->line_length > 0) put_line_json(reading);
    if (status == ST_OK && total == 0 && reading->rank != LAUNCHER)
        report_words(invocation,
                     "performerctl: rank %d has written nothing; what the launcher wrote: "
                     "performerctl logs %s --rank launcher",
                     reading->rank, invocation->argument);
    remote_close(&remote);
    return status == ST_OK ? EXIT_CODE_OK : report_fault(invocation, &fault);
}

/* ---- following ---- */

enum followed { FOLLOWED_MORE, FOLLOWED_PAUSE, FOLLOWED_END };

/* This attempt's log has ended. A newer attempt is followed in its turn unless one was asked for by number. */
static enum status next_attempt(const struct invocation *invocation, struct remote *remote,
                                struct reading *reading, enum followed *followed,
                                struct fault *fault)
{
    Performer__Response *response;

    if (invocation->options[OPTION_ATTEMPT].given) {
        *followed = FOLLOWED_END;
        return ST_OK;
    }
    enum status status = remote_describe(remote, invocation->argument, &response, fault);
    if (status != ST_OK) return status;
    *followed = FOLLOWED_END;
    if (response->run_detail->summary->attempt > reading->attempt) {
        reading->attempt++;
        reading->offset = 0;
        report_words(invocation, "performerctl: attempt %u", reading->attempt);
        *followed = FOLLOWED_MORE;
    }
    response_free(response);
    return ST_OK;
}

/* No log yet is nothing wrong while the run may still write one. */
static enum status not_there_yet(const struct invocation *invocation, struct remote *remote,
                                 enum followed *followed, struct fault *fault)
{
    Performer__Response *response;
    struct fault asked;
    enum run_state state;

    if (remote_describe(remote, invocation->argument, &response, &asked) != ST_OK)
        return fault->status;
    bool final = summary_is_final(response->run_detail->summary, &state);
    response_free(response);
    if (final) return fault->status;
    *followed = FOLLOWED_PAUSE;
    return ST_OK;
}

static enum status follow(const struct invocation *invocation, struct remote *remote,
                          struct reading *reading, enum followed *followed, struct fault *fault)
{
    Performer__Response *response;

    enum status status = ask(remote, invocation->argument, reading, &response, fault);
    if (status == ST_NOT_FOUND) return not_there_yet(invocation, remote, followed, fault);
    if (status != ST_OK) return status;
    bool final = response->log_chunk->final;
    *followed = response->log_chunk->data.len > 0 ? FOLLOWED_MORE : FOLLOWED_PAUSE;
    take(invocation, reading, response->log_chunk);
    response_free(response);
    return final ? next_attempt(invocation, remote, reading, followed, fault) : ST_OK;
}

static enum exit_code read_on(const struct invocation *invocation, struct reading *reading)
{
    enum exit_code code = EXIT_CODE_OK;
    enum followed followed = FOLLOWED_MORE;
    struct waiting waiting;
    struct fault fault;
    int signal;

    enum status status = waiting_open(invocation, &waiting, &fault);
    if (status != ST_OK) return report_fault(invocation, &fault);
    for (bool first = true; followed != FOLLOWED_END; first = false) {
        status = follow(invocation, &waiting.remote, reading, &followed, &fault);
        if (status != ST_OK && (first || !remote_is_away(status))) {
            code = report_fault(invocation, &fault);
            break;
        }
        waiting_tell(invocation, &waiting, status, &fault);
        if (status != ST_OK) followed = FOLLOWED_PAUSE;
        int pause_ms = followed == FOLLOWED_PAUSE ? FOLLOW_MS : 0;
        if (followed != FOLLOWED_END && waiting_pause(&waiting, pause_ms, &signal)) {
            code = waiting_interrupted(invocation, invocation->argument, signal);
            break;
        }
    }
    if (reading->line_length > 0) put_line_json(reading);
    waiting_close(&waiting);
    return code;
}

/* What is larger than any attempt or log is the largest number that can be asked for. */
static uint32_t count_u32(const struct invocation *invocation, enum option option)
{
    uint64_t count = invocation_count(invocation, option, 0);
    return count < UINT32_MAX ? (uint32_t)count : UINT32_MAX;
}

enum exit_code verb_logs(const struct invocation *invocation)
{
    struct reading reading = {
        .attempt = count_u32(invocation, OPTION_ATTEMPT),
        .tail_lines = count_u32(invocation, OPTION_LINES), /* 0: all */
    };
    struct fault fault;

    if (invocation->options[OPTION_RANK].given &&
        parse_rank(invocation->options[OPTION_RANK].text, &reading.rank, &fault) != ST_OK)
        return report_usage(invocation_json(invocation), &fault);
    if (invocation->options[OPTION_LINES].given && reading.tail_lines == 0) {
        fault_set(&fault, ST_INVALID, "--lines takes 1 or more");
        return report_usage(invocation_json(invocation), &fault);
    }
    enum exit_code code = invocation->options[OPTION_FOLLOW].given
                              ? read_on(invocation, &reading)
                              : read_once(invocation, &reading);
    free(reading.line);
    return code;
}
