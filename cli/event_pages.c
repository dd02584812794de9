#include "cli/event_pages.h"

static enum status ask(struct remote *remote, const char *run, uint64_t after,
                       Performer__Response **response, struct fault *fault)
{
    Performer__QueryEvents query = PERFORMER__QUERY_EVENTS__INIT;
    Performer__Request request = PERFORMER__REQUEST__INIT;

    query.run = (char *)run;
    query.after = after;
    request.body_case = PERFORMER__REQUEST__BODY_QUERY_EVENTS;
    request.query_events = &query;
    return remote_call(remote, &request, PERFORMER__RESPONSE__BODY_EVENT_PAGE, response, fault);
}

enum status events_read(struct remote *remote, const char *run, uint64_t *after,
                        void (*take)(void *context, const Performer__EventInfo *event),
                        void *context, struct fault *fault)
{
    for (bool more = true; more;) {
        Performer__Response *response;
        enum status status = ask(remote, run, *after, &response, fault);
        if (status != ST_OK) return status;
        const Performer__EventPage *page = response->event_page;
        for (size_t i = 0; i < page->n_events; i++) {
            take(context, page->events[i]);
            *after = page->events[i]->id;
        }
        more = page->more && page->n_events > 0;
        response_free(response);
    }
    return ST_OK;
}
