#!/usr/bin/env bash
# What a person asks for takes effect at one step, is recorded, and is met again at that step by an attempt that starts
# over: redraw, checkpoint, evaluate, cancel, kill. And redraws that the measured error asks for.
. "$(dirname "$0")/harness.sh"

proteins 400 "$work/proteins.fasta"
cat >"$work/job.toml" <<'TOML'
[job]
name = "orders"
seed = 3
[resources]
ranks = 2
threads = 1
[data]
format = "fasta"
train = "proteins.fasta"
length = 192
[model]
layers = 2
heads = 2
width = 96
mlp = 192
[attention]
features = 48
[redraw]
every = 1000
[train]
steps = 120
batch = 16
micro_batch = 4
[checkpoint]
every = 1000
TOML

losses() { ctl metrics "$1" --name loss --from "$2" --to "$3" --json | jq -c '[.step, .value]'; }

daemon_start

note "an ordered redraw is met again by the next attempt"
run=$(ctl submit "$work/job.toml" --parsable)
reach_step "$run" 5
ctl redraw "$run"
for _ in $(seq 200); do
    step=$(field "$run" '[.orders[] | select(.kind == "redraw" and .state == "applied").step][0] // 0')
    [ "$step" -gt 0 ] && break
    sleep 0.05
done
[ "$step" -gt 0 ] || fail "the redraw was not applied"
reach_step "$run" $((step + 4))
sleep 0.5 # let the ranks' reports of these steps arrive
before=$(losses "$run" 1 $((step + 3)))
[ "$(wc -l <<<"$before")" -eq $((step + 3)) ] || fail "metrics are missing before the kill"
kill -9 "$(field "$run" '.workers[-1].pid')"
ctl wait "$run" --timeout 120 || fail "after the kill: $(field "$run" .state)"
[ "$(field "$run" '.attempts | length')" -eq 2 ] || fail "no second attempt"
[ "$(field "$run" '.attempts[1].resumed_step')" -eq 0 ] || fail "the second attempt did not start over"
[ "$(losses "$run" 1 $((step + 3)))" = "$before" ] || fail "the second attempt has other losses"
[ "$(ctl metrics "$run" --name loss --json | jq -s 'map(.attempt) | unique | length')" -eq 1 ] ||
    fail "rows of the first attempt were not replaced"
[ "$(field "$run" '[.redraws[] | select(.step == '"$step"')] | length')" -eq 1 ] || fail "the redraw moved"
[ "$(field "$run" '[.redraws[] | select(.agreed | not)] | length')" -eq 0 ] || fail "hashes differ"

note "an ordered checkpoint"
run=$(ctl submit "$work/job.toml" --parsable --set train.steps=2000)
reach_step "$run" 3
ctl checkpoint "$run"
for _ in $(seq 200); do
    saved=$(ctl checkpoints "$run" --json | jq length)
    [ "$saved" -gt 0 ] && break
    sleep 0.05
done
path=$(ctl checkpoints "$run" --json | jq -r '.[0].path')
[ -s "$path/MANIFEST" ] || fail "no checkpoint at $path"

status=0
ctl evaluate "$run" 2>"$work/refused" || status=$?
[ $status -eq 7 ] || fail "evaluate without validation data gave $status"
grep -q valid_fraction "$work/refused" || fail "no cure: $(cat "$work/refused")"

note "cancel saves first"
ctl cancel "$run"
status=0
ctl wait "$run" --timeout 60 || status=$?
[ $status -eq 9 ] || fail "wait on a cancelled run gave $status"
[ "$(field "$run" .state)" = CANCELLED ] || fail "cancelled, but $(field "$run" .state)"
last=$(field "$run" .step)
[ "$(ctl checkpoints "$run" --json | jq "[.[] | select(.verdict == \"good\").step] | max")" -eq "$last" ] ||
    fail "cancelled at step $last without a checkpoint there"
status=0
ctl redraw "$run" 2>"$work/refused" || status=$?
[ $status -eq 7 ] || fail "redraw of a cancelled run gave $status"

note "redraws by the error say why, and an evaluation on demand changes no bit, whatever dies in between"
adaptive=(--set redraw.policy=adaptive --set redraw.threshold=0.001 --set data.valid_fraction=0.1 --set evaluate.every=20
    --set evaluate.batches=1 --set checkpoint.every=20)
plain=$(ctl submit "$work/job.toml" --parsable "${adaptive[@]}")
ctl wait "$plain" --timeout 120 || fail "adaptive: $(field "$plain" .state)"
[ "$(field "$plain" '[.redraws[].step] | join(" ")')" = "20 40 60 80 100" ] || fail "redrawn after $(field "$plain" '.redraws')"
[ "$(field "$plain" '[.redraws[] | select(.agreed and (.why | test("^adaptive: kernel_error\\.[01] [0-9.e-]+ > 0\\.001$")))] | length')" -eq 5 ] ||
    fail "no reasons: $(field "$plain" '.redraws')"
ctl events "$plain" | grep >/dev/null 'draw 3 after step 60, adaptive: kernel_error\.' || fail "no reason in the history"

[ "$(field "$plain" '[.redraw_threshold, .approximation.step, .approximation.layer < 2, .approximation.error > 0.001] | join(" ")')" = \
    "0.001 120 true true" ] || fail "status has $(field "$plain" .approximation)"
ctl status "$plain" | grep >/dev/null 'error .* in layer .* least denominator' || fail "status does not show the error"

run=$(ctl submit "$work/job.toml" --parsable "${adaptive[@]}")
reach_step "$run" 21
ctl evaluate "$run" | grep >/dev/null 'order [0-9]*: an evaluation' || fail "evaluate says nothing"
for _ in $(seq 200); do
    step=$(field "$run" '[.orders[] | select(.kind == "evaluate" and .state == "applied").step][0] // 0')
    [ "$step" -gt 0 ] && break
    sleep 0.05
done
[ "$step" -gt 0 ] || fail "the evaluation was not applied"
kill -9 "$(field "$run" '.workers[-1].pid')"
ctl wait "$run" --timeout 120 || fail "evaluate: $(field "$run" .state)"
[ "$(field "$run" '.attempts | length')" -eq 2 ] || fail "no second attempt"
[ "$(field "$run" '[.orders[] | select(.kind == "evaluate")] | length')" -eq 1 ] || fail "evaluated by two orders"
for name in valid_loss kernel_error.0 kernel_error.1; do
    ctl metrics "$run" --name $name --json | jq -r .step | grep -x "$step" >/dev/null || fail "no $name of step $step"
done
ctl events "$run" | grep >/dev/null "evaluate, order [0-9]*, after step $step" || fail "the evaluation is not in the history"
[ "$(weights "$run" 120)" = "$(weights "$plain" 120)" ] || fail "other weights"
[ "$(field "$run" '[.redraws[] | [.draw, .step, .why, .hashes[0]]]')" = "$(field "$plain" '[.redraws[] | [.draw, .step, .why, .hashes[0]]]')" ] ||
    fail "other redraws"
[ "$(field "$run" '[.redraws[] | select(.agreed | not)] | length')" -eq 0 ] || fail "hashes differ"

note "kill does not save"
run=$(ctl submit "$work/job.toml" --parsable --set train.steps=2000)
reach_step "$run" 3
ctl kill "$run"
status=0
ctl wait "$run" --timeout 60 || status=$?
[ $status -eq 9 ] || fail "wait on a killed run gave $status"
[ "$(ctl checkpoints "$run" --json | jq length)" -eq 0 ] || fail "a killed run saved"
sleep 1.5
! pgrep -f "performer-worker --plan $(field "$run" .directory)/" >/dev/null || fail "ranks outlived the kill"

daemon_stop
note "passed"
