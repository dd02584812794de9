#include "daemon/slurm_queue.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/memory.h"
#include "daemon/slurm_state.def"

enum { COLUMNS = 6, LINE_BYTES_MAX = 4096 };

static const struct {
    const char *name;
    bool over;
    enum attempt_cause cause;
} states[] = {
#define SLURM_STATE_ROW(name, over, cause) {name, over, cause},
    SLURM_STATES(SLURM_STATE_ROW) SLURM_STATES_OF_OURS(SLURM_STATE_ROW)
#undef SLURM_STATE_ROW
};

bool slurm_state_is_over(const char *state)
{
    for (size_t i = 0; i < sizeof states / sizeof states[0]; i++)
        if (strcmp(states[i].name, state) == 0) return states[i].over;
    return false;
}

enum attempt_cause slurm_state_cause(const char *state)
{
    for (size_t i = 0; i < sizeof states / sizeof states[0]; i++)
        if (strcmp(states[i].name, state) == 0) return states[i].cause;
    return CAUSE_NONE;
}

/* Cuts a line at its bars, the last of which ends it; a name may have more of them. */
static bool split(char *line, char *columns[COLUMNS])
{
    size_t length = strlen(line);
    if (length == 0 || line[length - 1] != '|') return false;
    line[length - 1] = '\0';
    for (int i = 0; i < COLUMNS; i++) {
        columns[i] = line;
        char *bar = strchr(line, '|');
        if (i == COLUMNS - 1) break;
        if (!bar) return false;
        *bar = '\0';
        line = bar + 1;
    }
    return true;
}

static bool read_row(char *line, struct slurm_row *row)
{
    char *columns[COLUMNS], *end;
    if (!split(line, columns)) return false;
    *row = (struct slurm_row){.id = strtoll(columns[0], &end, 10)};
    if (end == columns[0]) return false;
    text_copy(row->state, sizeof row->state, columns[1]);
    row->restarts = (uint32_t)strtoul(columns[2], &end, 10);
    if (end == columns[2]) return false;
    text_copy(row->nodes, sizeof row->nodes, columns[3]);
    text_copy(row->reason, sizeof row->reason, columns[4]);
    text_copy(row->name, sizeof row->name, columns[5]);
    return true;
}

enum status slurm_queue_read(const char *answer, slurm_row_visitor *visit, void *context,
                             struct fault *fault)
{
    while (*answer != '\0') {
        char line[LINE_BYTES_MAX];
        struct slurm_row row;
        size_t length = strcspn(answer, "\n");
        if (length >= sizeof line)
            return fault_set(fault, ST_CORRUPT, "squeue gave a line of %zu bytes", length);
        memcpy(line, answer, length);
        line[length] = '\0';
        if (!read_row(line, &row))
            return fault_set(fault, ST_CORRUPT, "squeue gave a line that is no job: %.80s", line);
        visit(context, &row);
        answer += length + (answer[length] == '\n');
    }
    return ST_OK;
}
