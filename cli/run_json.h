#ifndef CLI_RUN_JSON_H
#define CLI_RUN_JSON_H

/* Messages of the daemon as JSON, with keys that scripts may rely on: none is ever renamed. */

#include <jansson.h>

#include "proto/performer.pb-c.h"

/* Each returns a new reference. A real that is no number becomes null. */
json_t *run_summary_json(const Performer__RunSummary *summary);
json_t *run_detail_json(const Performer__RunDetail *detail);
json_t *checkpoint_json(const Performer__CheckpointInfo *checkpoint);
json_t *event_json(const Performer__EventInfo *event);

/* {"attempt":1,"step":1,"name":"loss","value":4.22,"time_ms":…}, in this order. */
json_t *metric_row_json(const Performer__MetricRow *row);

#endif
