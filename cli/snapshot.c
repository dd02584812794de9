#include "cli/snapshot.h"

#include <stdio.h>
#include <string.h>

#include "cli/event_pages.h"

static enum status ask_points(struct remote *remote, const char *run, const char *name,
                              Performer__Response **response, struct fault *fault)
{
    Performer__QueryMetrics query = PERFORMER__QUERY_METRICS__INIT;
    Performer__Request request = PERFORMER__REQUEST__INIT;

    query.run = (char *)run;
    query.name = (char *)name;
    query.points = SNAPSHOT_POINTS;
    request.body_case = PERFORMER__REQUEST__BODY_QUERY_METRICS;
    request.query_metrics = &query;
    return remote_call(remote, &request, PERFORMER__RESPONSE__BODY_METRIC_PAGE, response, fault);
}

static void take_event(void *context, const Performer__EventInfo *event)
{
    struct snapshot *snapshot = context;

    if (snapshot->event_count == SNAPSHOT_EVENTS_MAX) {
        snapshot->event_count--;
        memmove(snapshot->events, snapshot->events + 1,
                snapshot->event_count * sizeof snapshot->events[0]);
    }
    struct frame_event *kept = &snapshot->events[snapshot->event_count++];
    kept->time_ms = event->time_ms;
    snprintf(kept->kind, sizeof kept->kind, "%s", event->kind);
    snprintf(kept->text, sizeof kept->text, "%s", event->text);
}

static void replace(Performer__Response **old, Performer__Response *new)
{
    response_free(*old);
    *old = new;
}

enum status snapshot_take(struct remote *remote, const char *run, struct snapshot *snapshot,
                          struct fault *fault)
{
    Performer__Response *response;

    enum status status = remote_describe(remote, run, &response, fault);
    if (status != ST_OK) return status;
    replace(&snapshot->detail, response);
    status = ask_points(remote, run, "loss", &response, fault);
    if (status != ST_OK) return status;
    replace(&snapshot->loss, response);
    status = ask_points(remote, run, "valid_loss", &response, fault);
    if (status != ST_OK) return status;
    replace(&snapshot->valid_loss, response);
    return events_read(remote, run, &snapshot->last_event, take_event, snapshot, fault);
}

void snapshot_fini(struct snapshot *snapshot)
{
    response_free(snapshot->detail);
    response_free(snapshot->loss);
    response_free(snapshot->valid_loss);
    *snapshot = (struct snapshot){0};
}

static struct frame_curve curve(const Performer__Response *response)
{
    struct frame_curve empty = {0};

    if (!response) return empty;
    return (struct frame_curve){response->metric_page->rows, response->metric_page->n_rows};
}

struct frame_view snapshot_view(const struct snapshot *snapshot, uint64_t now_ms)
{
    return (struct frame_view){
        .detail = snapshot->detail->run_detail,
        .loss = curve(snapshot->loss),
        .valid_loss = curve(snapshot->valid_loss),
        .events = snapshot->events,
        .event_count = snapshot->event_count,
        .now_ms = now_ms,
    };
}
