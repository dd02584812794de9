#!/usr/bin/env bash
# A fault every 60 steps: a rank is killed each time. At least nine of ten steps are useful work, and the weights are those of an
# undisturbed run, bit for bit.
. "$(dirname "$0")/harness.sh"

proteins 400 "$work/proteins.fasta"
cat >"$work/job.toml" <<'TOML'
[job]
name = "goodput"
seed = 7
[resources]
ranks = 2
threads = 1
[data]
format = "fasta"
train = "proteins.fasta"
length = 256
[model]
layers = 3
heads = 4
width = 128
mlp = 256
[attention]
features = 64
[redraw]
every = 50
[train]
steps = 360
batch = 16
micro_batch = 4
[checkpoint]
every = 4
[restart]
max = 100
TOML

daemon_start
calm=$(ctl submit "$work/job.toml" --parsable --set 'job.name="calm"')
ctl wait "$calm" --timeout 600

run=$(ctl submit "$work/job.toml" --parsable)
for step in 60 120 180 240 300; do
    reach_step "$run" "$step"
    reach_state "$run" RUNNING
    kill -9 "$(field "$run" '.workers[-1].pid')"
    reach_state "$run" RESTARTING
done
ctl wait "$run" --timeout 600

[ "$(weights "$run" 360)" = "$(weights "$calm" 360)" ] || fail "other weights than those of an undisturbed run"
[ "$(field "$run" '.attempts | length')" -eq 6 ] || fail "$(field "$run" '.attempts | length') attempts after five faults"
reached=$(ctl events "$run" --json | jq -s '[flatten[] | select(.kind == "attempt-failed") | .step] | add')
resumed=$(field "$run" '[.attempts[1:][].resumed_step] | add')
lost=$((reached - resumed))
note "$lost of $((360 + lost)) steps were done twice"
[ "$lost" -gt 0 ] || fail "no step was lost, so this proves nothing"
[ $((10 * lost)) -le $((360 + lost)) ] || fail "more than one of ten steps was in vain"
daemon_stop
note "passed"
