#include "worker/checkpoint_state.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

enum { HASH_DIGITS = 16, REAL_DIGITS = 17 };

static json_t *applied_print(const struct checkpoint_state *state)
{
    json_t *list = json_array();
    for (size_t i = 0; i < state->applied_count && list; i++) {
        const struct applied_order *order = &state->applied[i];
        const ProtobufCEnumValue *kind =
            protobuf_c_enum_descriptor_get_value(&performer__order__kind__descriptor, order->kind);
        assert(kind);
        json_t *item = json_pack("{s:I, s:s, s:I}", "id", (json_int_t)order->id, "kind", kind->name,
                                 "step", (json_int_t)order->step);
        if (json_array_append_new(list, item) == 0) continue;
        json_decref(list);
        list = NULL;
    }
    return list;
}

static json_t *losses_print(const struct loss_record *losses)
{
    return json_pack("{s:I, s:f, s:f, s:f, s:I, s:I}", "taken", (json_int_t)losses->taken, "newest",
                     losses->newest, "mean", losses->mean, "variance", losses->variance, "skipped",
                     (json_int_t)losses->skipped, "skipped_in_row",
                     (json_int_t)losses->skipped_in_row);
}

static json_t *hash_print(uint64_t hash)
{
    char text[HASH_DIGITS + 1];
    snprintf(text, sizeof text, "%016" PRIx64, hash);
    return json_string(text);
}

static json_t *data_print(const struct data_mark *data)
{
    return json_pack("{s:I, s:o}", "rows", (json_int_t)data->rows, "hash", hash_print(data->hash));
}

/* NULL: out of memory. The size is asked for first: jansson 2.14 may leave out a piece where json_dumps cannot grow its text. */
static char *json_print(const json_t *root)
{
    const size_t flags = JSON_INDENT(2) | JSON_REAL_PRECISION(REAL_DIGITS);
    size_t length = json_dumpb(root, NULL, 0, flags);
    char *text = length > 0 ? malloc(length + 1) : NULL;
    if (!text) return NULL;
    if (json_dumpb(root, text, length, flags) != length) {
        free(text);
        return NULL;
    }
    text[length] = '\0';
    return text;
}

enum status checkpoint_state_print(const struct checkpoint_state *state, char **text)
{
    assert(state->applied_count <= APPLIED_ORDERS_MAX);
    /* JSON has no NaN */
    json_t *loss =
        isfinite(state->best_valid_loss) ? json_real(state->best_valid_loss) : json_null();
    json_t *root = json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:I, s:o, s:o, s:o, s:I, s:o}", "step",
        (json_int_t)state->step, "seed", (json_int_t)state->seed, "epoch", (json_int_t)state->epoch,
        "epoch_row", (json_int_t)state->epoch_row, "draw", (json_int_t)state->draw, "redraw_every",
        (json_int_t)state->redraw_every, "data", data_print(&state->data), "rewind",
        (json_int_t)state->rewind, "losses", losses_print(&state->losses), "chain",
        hash_print(state->chain), "best_valid_loss", loss, "best_step",
        (json_int_t)state->best_step, "applied", applied_print(state));
    if (!root) return ST_NO_MEMORY;
    char *printed = json_print(root);
    json_decref(root);
    if (!printed) return ST_NO_MEMORY;
    *text = printed;
    return ST_OK;
}

/* What keeps counting: 0 ... 2^63 - 1, or up to `max`. */
static bool count_take(const json_t *object, const char *key, uint64_t max, uint64_t *value)
{
    const json_t *item = json_object_get(object, key);
    if (!json_is_integer(item) || json_integer_value(item) < 0) return false;
    if ((uint64_t)json_integer_value(item) > max) return false;
    *value = (uint64_t)json_integer_value(item);
    return true;
}

/* As in the job file, where it may be negative. */
static bool seed_take(const json_t *object, uint64_t *seed)
{
    const json_t *item = json_object_get(object, "seed");
    if (!json_is_integer(item)) return false;
    *seed = (uint64_t)json_integer_value(item);
    return true;
}

static bool hash_take(const json_t *object, const char *key, uint64_t *hash)
{
    const char *text = json_string_value(json_object_get(object, key));
    if (!text || strlen(text) != HASH_DIGITS) return false;
    if (strspn(text, "0123456789abcdef") != HASH_DIGITS) return false;
    *hash = strtoull(text, NULL, 16);
    return true;
}

static bool loss_take(const json_t *object, double *loss)
{
    const json_t *item = json_object_get(object, "best_valid_loss");
    if (!json_is_number(item) && !json_is_null(item)) return false;
    *loss = json_is_number(item) ? json_number_value(item) : NAN;
    return true;
}

static bool real_take(const json_t *object, const char *key, double *value)
{
    const json_t *item = json_object_get(object, key);
    if (!json_is_number(item)) return false;
    *value = json_number_value(item);
    return true;
}

/* A checkpoint of an older worker has none. */
static bool data_take(const json_t *root, struct data_mark *data)
{
    const json_t *object = json_object_get(root, "data");
    if (!object) return true;
    return count_take(object, "rows", UINT64_MAX, &data->rows) &&
           hash_take(object, "hash", &data->hash);
}

/* A checkpoint of an older worker has none, and its run has never gone back. */
static bool rewind_take(const json_t *root, uint64_t *number)
{
    return !json_object_get(root, "rewind") || count_take(root, "rewind", UINT64_MAX, number);
}

/* A checkpoint of an older worker has none, and its run has skipped nothing. */
static bool losses_take(const json_t *root, struct loss_record *losses)
{
    const json_t *object = json_object_get(root, "losses");
    if (!object) return true;
    return count_take(object, "taken", UINT64_MAX, &losses->taken) &&
           real_take(object, "newest", &losses->newest) &&
           real_take(object, "mean", &losses->mean) &&
           real_take(object, "variance", &losses->variance) && losses->variance >= 0 &&
           count_take(object, "skipped", UINT64_MAX, &losses->skipped) &&
           count_take(object, "skipped_in_row", SKIPS_IN_ROW_MAX, &losses->skipped_in_row);
}

static bool order_take(const json_t *item, uint64_t step, struct applied_order *order)
{
    const char *name = json_string_value(json_object_get(item, "kind"));
    if (!name) return false;
    const ProtobufCEnumValue *kind =
        protobuf_c_enum_descriptor_get_value_by_name(&performer__order__kind__descriptor, name);
    if (!kind) return false;
    order->kind = (Performer__Order__Kind)kind->value;
    return count_take(item, "id", UINT64_MAX, &order->id) &&
           count_take(item, "step", step, &order->step);
}

static bool applied_take(const json_t *object, struct checkpoint_state *state)
{
    const json_t *list = json_object_get(object, "applied");
    if (!json_is_array(list) || json_array_size(list) > APPLIED_ORDERS_MAX) return false;
    state->applied_count = json_array_size(list);
    for (size_t i = 0; i < state->applied_count; i++) {
        struct applied_order *order = &state->applied[i];
        if (!order_take(json_array_get(list, i), state->step, order)) return false;
        if (i > 0 && order->step < order[-1].step) return false;
    }
    return true;
}

/* The first key that is missing or out of its range, NULL: all are well. */
static const char *state_take(const json_t *root, struct checkpoint_state *state)
{
    if (!count_take(root, "step", UINT64_MAX, &state->step)) return "step";
    if (!seed_take(root, &state->seed)) return "seed";
    if (!count_take(root, "epoch", UINT32_MAX, &state->epoch)) return "epoch";
    if (!count_take(root, "epoch_row", UINT64_MAX, &state->epoch_row)) return "epoch_row";
    if (!count_take(root, "draw", UINT32_MAX, &state->draw)) return "draw";
    if (!count_take(root, "redraw_every", UINT64_MAX, &state->redraw_every)) return "redraw_every";
    if (!data_take(root, &state->data)) return "data";
    if (!rewind_take(root, &state->rewind)) return "rewind";
    if (!losses_take(root, &state->losses) || state->losses.skipped > state->step) return "losses";
    if (!hash_take(root, "chain", &state->chain)) return "chain";
    if (!loss_take(root, &state->best_valid_loss)) return "best_valid_loss";
    if (!count_take(root, "best_step", state->step, &state->best_step)) return "best_step";
    if (!applied_take(root, state)) return "applied";
    return NULL;
}

enum status checkpoint_state_parse(const char *text, size_t length, struct checkpoint_state *state,
                                   struct fault *fault)
{
    json_error_t error;
    json_t *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
    if (!root)
        return fault_set(fault, ST_CORRUPT, "state.json:%d:%d: %s", error.line, error.column,
                         error.text);
    struct checkpoint_state *taken = calloc(1, sizeof *taken);
    enum status status = ST_OK;
    const char *key = taken ? state_take(root, taken) : NULL;
    if (!taken)
        status = fault_set(fault, ST_NO_MEMORY, "read state.json: out of memory");
    else if (key)
        status =
            fault_set(fault, ST_CORRUPT, "state.json: \"%s\" is missing or out of its range", key);
    else
        *state = *taken;
    free(taken);
    json_decref(root);
    return status;
}
