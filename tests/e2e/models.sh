#!/usr/bin/env bash
# Five steps of five models, trained through the daemon with 1 and with 2 ranks and compared with a float64 implementation:
# losses, gradient norms, weights. tests/worker/models.c compares; here is what it takes for a worker.
if [ "${1:-}" = --job ]; then
    # --job FILE --output DIRECTORY --backend cpu: leaves what performer-worker would, but by way of the daemon
    set -euo pipefail
    run=$("$BIN/performerctl" submit "$2" --set resources.ranks="$RANKS" --parsable)
    "$BIN/performerctl" wait "$run" --timeout 60
    mkdir -p "$4"
    "$BIN/performerctl" metrics "$run" --json >"$4/metrics.jsonl"
    ln -s "$("$BIN/performerctl" describe "$run" --json | jq -r .directory)/checkpoints" "$4/checkpoints"
    exit
fi

. "$(dirname "$0")/harness.sh"
daemon_start
export BIN=$bin RANKS
for RANKS in 1 2; do
    note "$RANKS ranks"
    "$bin/../tests/test_models" "$here/models.sh" "$here/../vectors/model" 0 2 1 cpu fp32
done
[ "$(ctl list --all --json | jq '[.[] | select(.state == "SUCCEEDED")] | length')" -eq 10 ] || fail "not ten runs"
daemon_stop
note "passed"
