#!/usr/bin/env bash
# A node that is set down, and a controller that goes and comes.
. "$(dirname "$0")/../e2e/harness.sh"
. "$(dirname "$0")/cluster.sh"
. "$(dirname "$0")/job.sh"

note "a node is set down: another attempt, on the other node"
run=$(submit_long)
reach_step "$run" 20
scontrol update nodename="$(jobs_of "$run" NodeList)" state=down reason=test
await_event "$run" run-restarting
[ "$(cause "$run" 0)" = NODE_LOST ] || fail "$(cause "$run" 0)"
reach_state "$run" RUNNING

note "slurmctld goes and comes: the run goes on"
controller_stop
reach_step "$run" $(($(field "$run" .step) + 20))
controller_start
ctl cancel "$run"
ended "$run" CANCELLED
[ "$(jobs_of "$run" State | sort | xargs)" = "COMPLETED NODE_FAIL" ] || fail "$(jobs_of "$run" State)"
