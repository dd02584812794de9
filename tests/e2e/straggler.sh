#!/usr/bin/env bash
# A rank that is stopped most of the time is told of as slow, and as well again once it is left alone; nobody kills it.
. "$(dirname "$0")/harness.sh"

proteins 300 "$work/proteins.fasta"
cat >"$work/job.toml" <<'TOML'
[job]
name = "straggler"
[resources]
ranks = 2
threads = 1
[data]
format = "fasta"
train = "proteins.fasta"
length = 128
[model]
layers = 2
heads = 2
width = 32
mlp = 64
[attention]
features = 16
[train]
steps = 1000000
batch = 4
micro_batch = 2
TOML

# slows RANK WANTED: waits until the daemon says so of the rank
slows() {
    for _ in $(seq 600); do
        [ "$(field "$run" ".workers[$1].slow")" = "$2" ] && return
        sleep 0.1
    done
    fail "rank $1: slow is not $2: $(ctl describe "$run")"
}

told() { ctl events "$run" --json | jq -s "flatten | map(select(.kind == \"$1\")) | length"; }

daemon_start
run=$(ctl submit "$work/job.toml" --parsable)
reach_step "$run" 20
pid=$(field "$run" '.workers[1].pid')

note "rank 1 runs a tenth of its time"
(while kill -STOP "$pid" 2>/dev/null; do
    sleep 0.27
    kill -CONT "$pid" 2>/dev/null
    sleep 0.03
done) &
pulses=$!
at_exit() { kill "$pulses" 2>/dev/null || true; kill -CONT "$pid" 2>/dev/null || true; }
slows 1 true
[ "$(field "$run" '.workers[0].slow')" = false ] || fail "so is the other"
ctl describe "$run" | grep -q "slow: score 0\.[0-6]" || fail "no word of it: $(ctl describe "$run")"
[ "$(told rank-slow)" -eq 1 ] || fail "told $(told rank-slow) times"

note "and then all of it"
kill "$pulses"
wait "$pulses" 2>/dev/null || true
kill -CONT "$pid"
slows 1 false
[ "$(told rank-well)" -eq 1 ] || fail "told $(told rank-well) times that it is well"
[ "$(field "$run" '[.state, .attempt] | join(" ")')" = "RUNNING 1" ] || fail "the run suffered for it"
ctl kill "$run"
note "passed"
