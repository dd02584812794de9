#include "proto/lifecycle.h"

#include <string.h>

static const struct {
    const char *name;
    bool final;
} states[] = {
#define STATE_ROW(enumerator, name, final) [enumerator] = {name, final},
    RUN_STATES(STATE_ROW)
#undef STATE_ROW
};

static const struct {
    enum run_state from, to;
} moves[] = {
#define MOVE_ROW(from, to) {from, to},
    RUN_MOVES(MOVE_ROW)
#undef MOVE_ROW
};

static const struct {
    const char *name;
    enum restart_budget budget;
    const char *words;
} causes[] = {
#define CAUSE_ROW(enumerator, name, budget, words) [enumerator] = {name, budget, words},
    ATTEMPT_CAUSES(CAUSE_ROW)
#undef CAUSE_ROW
};

static const struct {
    const char *name;
    uint32_t attempts;
    bool loops;
} budgets[] = {
#define BUDGET_ROW(enumerator, name, attempts, loops) [enumerator] = {name, attempts, loops},
    RESTART_BUDGETS(BUDGET_ROW)
#undef BUDGET_ROW
};

enum {
    STATE_COUNT = sizeof states / sizeof states[0],
    MOVE_COUNT = sizeof moves / sizeof moves[0],
    CAUSE_COUNT = sizeof causes / sizeof causes[0],
};

const char *run_state_name(enum run_state state)
{
    return states[state].name;
}

bool run_state_from_name(const char *name, enum run_state *state)
{
    for (int i = 0; i < STATE_COUNT; i++) {
        if (strcmp(states[i].name, name) != 0) continue;
        *state = (enum run_state)i;
        return true;
    }
    return false;
}

bool run_state_is_final(enum run_state state)
{
    return states[state].final;
}

bool run_move_allowed(enum run_state from, enum run_state to)
{
    for (int i = 0; i < MOVE_COUNT; i++)
        if (moves[i].from == from && moves[i].to == to) return true;
    return false;
}

const char *attempt_cause_name(enum attempt_cause cause)
{
    return causes[cause].name;
}

bool attempt_cause_from_name(const char *name, enum attempt_cause *cause)
{
    for (int i = 0; i < CAUSE_COUNT; i++) {
        if (strcmp(causes[i].name, name) != 0) continue;
        *cause = (enum attempt_cause)i;
        return true;
    }
    return false;
}

bool attempt_cause_restarts(enum attempt_cause cause)
{
    return causes[cause].budget != BUDGET_NONE;
}

enum restart_budget attempt_cause_budget(enum attempt_cause cause)
{
    return causes[cause].budget;
}

const char *restart_budget_name(enum restart_budget budget)
{
    return budgets[budget].name;
}

uint32_t restart_budget_attempts(enum restart_budget budget)
{
    return budgets[budget].attempts;
}

bool restart_budget_loops(enum restart_budget budget)
{
    return budgets[budget].loops;
}

const char *attempt_cause_words(enum attempt_cause cause)
{
    return causes[cause].words;
}
