#!/usr/bin/env bash
# What performerd-bench finds and prints, at a size that takes no time. It checks by itself that every answer is right and that
# every acknowledged row is there after SIGKILL; how fast anything was is not looked at. Usage: performerd_bench.sh BIN_DIRECTORY
. "$(dirname "$0")/daemon_trials.sh"
small=(--runs 6 --rows 3000 --ranks 3 --steps 4 --rate 1000 --seconds 1 --connections 400)

export TMPDIR=$work
"$bin/performerd-bench" "${small[@]}" --json >"$work/json" 2>"$work/errors" || fail "exit $?: $(cat "$work/errors")"
# 500 rows of each run were there before; all three runs have told more. All who have asked stay, of the silent ones the strangers.
jq -e '.rows == 3000 and .rows_checked > 1500 and .rows_per_s > 0 and .arriving_per_s > 0 and .submits_per_s > 0
    and .silent_open <= 256 and .asked_open == 400 and .memory_end_mib > 0' "$work/json" >/dev/null || fail "$(cat "$work/json")"
[ -z "$(ls -d "$work"/performerd-bench-* 2>/dev/null)" ] || fail "it left its state"

refuses '--runs takes a number from 1 to 1000, not `0`' "$bin/performerd-bench" --runs 0
refuses 'raise --runs' "$bin/performerd-bench" --runs 3 --ranks 4
refuses 'usage: performerd-bench' "$bin/performerd-bench" --fast
refuses 'unexpected argument: 4' "$bin/performerd-bench" 4
refuses 'need more files than this process may open' bash -c "ulimit -n 300; exec '$bin/performerd-bench' --connections 100000"
mkdir "$work/taken"
refuses "could not make the directory $work/taken" "$bin/performerd-bench" --state "$work/taken"
cp "$bin/performerd-bench" "$work"
refuses "$work/performerd did not start" "$work/performerd-bench" "${small[@]}"
"$bin/performerd-bench" --help | grep -q -- '--connections' || fail "no help"
