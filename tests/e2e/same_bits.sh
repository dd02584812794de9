#!/usr/bin/env bash
# One run, many ways: 1, 2 and 4 ranks, 1 and 2 threads, a rank killed or stopped, the daemon killed, both. The weights have one
# sha256. And the test can fail: other seeds, no dropout and no redraw each give another.
. "$(dirname "$0")/harness.sh"

proteins 400 "$work/proteins.fasta"
cat >"$work/job.toml" <<'TOML'
[job]
name = "same-bits"
seed = 7
[data]
format = "fasta"
train = "proteins.fasta"
valid_fraction = 0.1
length = 192
[model]
layers = 2
heads = 2
width = 96
mlp = 192
dropout = 0.1
[attention]
features = 48
[redraw]
every = 7
[optimizer]
lr = 2e-3
warmup = 5
[train]
steps = 100
batch = 16
micro_batch = 4
[evaluate]
every = 50
batches = 1
[checkpoint]
every = 25
TOML

daemon_start
expected=""
expected_error=""

# submit NAME [--set ...]: sets $run
submit() {
    local name=$1
    shift
    run=$(ctl submit "$work/job.toml" --set "job.name=\"$name\"" "$@" --parsable)
}

# same NAME: the run succeeded with the weights of the first one
same() {
    ctl wait "$run" --timeout 120 || fail "$1: $(field "$run" .state)"
    local sum
    sum=$(weights "$run" 100)
    [ -n "$expected" ] || expected=$sum
    [ "$sum" = "$expected" ] || fail "$1: $sum, not $expected"
    local error
    error=$(ctl metrics "$run" --name kernel_error.1 --json | jq -c '[.step, .value]')
    [ "$(wc -l <<<"$error")" -eq 2 ] || fail "$1: not one error of the approximation for each evaluation: $error"
    [ -n "$expected_error" ] || expected_error=$error
    [ "$error" = "$expected_error" ] || fail "$1: the error of the approximation is $error, not $expected_error"
    note "$1: $sum"
}

# other: the run succeeded with other weights
other() {
    local name
    name=$(field "$run" .name)
    ctl wait "$run" --timeout 120 || fail "$name: $(field "$run" .state)"
    [ "$(weights "$run" 100)" != "$expected" ] || fail "$name: the same weights, so this test proves nothing"
    note "$name: other bits, as it must be"
}

for ranks in 1 2 4; do
    submit "ranks-$ranks" --set resources.ranks=$ranks --set resources.threads=1
    reach_step "$run" 5
    processes=$(pgrep -fc "performer-worker --plan $(field "$run" .directory)/" || true)
    # mpirun's own command line names the worker too
    [ "$processes" -ge "$ranks" ] || fail "$ranks ranks, but $processes processes"
    pids=$(field "$run" '[.workers[].pid] | unique | length')
    [ "$pids" -eq "$ranks" ] || fail "$ranks ranks, but $pids process ids"
    same "ranks=$ranks threads=1"
done
loss_first=$(ctl metrics "$run" --name loss --json | jq -s ".[0].value")
loss_last=$(ctl metrics "$run" --name loss --json | jq -s ".[-1].value")
jq -en "$loss_last < $loss_first - 0.1" >/dev/null || fail "the loss did not fall: $loss_first, $loss_last"
draw=$(field "$run" '[.redraws[].draw] | max')
[ "$draw" -ge 5 ] || fail "the features are still draw $draw"
[ "$(field "$run" '[.redraws[] | select(.agreed | not)] | length')" -eq 0 ] || fail "ranks disagree on features"

for ranks in 1 2; do
    submit "threads-2-ranks-$ranks" --set resources.ranks=$ranks --set resources.threads=2
    same "ranks=$ranks threads=2"
done

# kill_rank RUN: SIGKILL to its last rank
kill_rank() {
    kill -9 "$(field "$1" '.workers[-1].pid')"
}

second_attempt() {
    [ "$(field "$run" '.attempts | length')" -eq 2 ] || fail "$1: no second attempt"
    [ "$(field "$run" '.attempts[0].cause')" = CRASH ] || fail "$1: the first attempt's cause is not CRASH"
    [ "$(field "$run" '.attempts[0].signal')" = 9 ] || fail "$1: the first attempt's signal is not 9"
    [ "$(field "$run" '.attempts[1].resumed_step')" -gt 0 ] || fail "$1: the second attempt began anew"
}

submit rank-killed --set resources.ranks=2
reach_step "$run" 26
kill_rank "$run"
same "a rank killed"
second_attempt "a rank killed"

# A stopped rank says nothing; of two the other waits for it, and of one nobody is left to say so.
for ranks in 2 1; do
    submit "stopped-of-$ranks" --set resources.ranks=$ranks --set restart.stall_seconds=3
    stopped+=("$run")
    reach_step "$run" 1
    victim=$(field "$run" '.workers[-1].pid')
    until [ -e "$state/runs/$run/checkpoints/step-0000000025" ]; do
        kill -0 "$victim" || fail "it ended before it could be stopped"
    done
    sleep 0.1 # what it has never done may take minutes: it has done all that it does from here
    kill -STOP "$victim"
done
for run in "${stopped[@]}"; do
    same "a rank stopped"
    [ "$(field "$run" '[.attempts[].cause] | join(" ")')" = "HANG FINISHED" ] ||
        fail "attempts of $run ended as $(field "$run" '[.attempts[].cause] | join(" ")')"
    rank=$(field "$run" .attempts[0].first_rank)
    [ "$rank" -eq "$(($(field "$run" .ranks) - 1))" ] || fail "rank $rank is blamed"
    [[ "$(field "$run" .attempts[0].text)" == "rank $rank on "*" is silent in "*" of step "* ]] ||
        fail "no word of where it stood: $(field "$run" .attempts[0].text)"
    grep -q "stack-dump: thread .*: state [Tt]" "$(field "$run" .directory)/attempt-1/rank-$rank.log" ||
        fail "no stack of rank $rank"
done

submit daemon-killed --set resources.ranks=2
reach_step "$run" 8
daemon_kill
sleep 0.5
daemon_start
same "the daemon killed"
[ "$(field "$run" '.attempts | length')" -eq 1 ] || fail "the daemon's death touched the run"
[ "$(ctl metrics "$run" --name loss --json | wc -l)" -eq 100 ] || fail "metrics were lost with the daemon"

submit both-killed --set resources.ranks=2
reach_step "$run" 26
victim=$(field "$run" '.workers[-1].pid')
daemon_kill
kill -9 "$victim"
sleep 0.5
daemon_start
same "a rank and the daemon killed"
second_attempt "a rank and the daemon killed"

others=()
for set in job.seed=8 model.dropout=0.0 'redraw.policy="never"'; do
    submit "other-${set%%=*}" --set resources.ranks=2 --set "$set"
    others+=("$run")
done
for run in "${others[@]}"; do other; done

daemon_stop
note "passed"
