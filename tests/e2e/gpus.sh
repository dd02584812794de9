#!/usr/bin/env bash
# Ranks with a GPU each, and NCCL between them, on the devices that tests/cudashim makes of a CPU: the losses of CPUs within
# rounding, the same bits each time; and what can go wrong, as on CPUs: the right cause, and the next attempt goes on.
# Usage: gpus.sh BIN_DIRECTORY DATA_DIRECTORY WORKER, the worker with those devices.
. "$(dirname "$0")/harness.sh"

# The daemon starts what stands beside it.
mkdir "$work/bin"
cp "$bin/performerd" "$bin/performer-launch" "$bin/performerctl" "$work/bin"
cp "$3" "$work/bin/performer-worker"
bin=$work/bin
export CUDA_VISIBLE_DEVICES=0,1,2,3

proteins 100 "$work/proteins.fasta"
cat >"$work/job.toml" <<'TOML'
[job]
name = "gpus"
[resources]
ranks = 2
threads = 1
device = "cuda"
[data]
format = "fasta"
train = "proteins.fasta"
valid_fraction = 0.1
length = 16
[model]
layers = 1
heads = 2
width = 16
mlp = 32
[attention]
features = 16
[redraw]
every = 3
[train]
steps = 8
batch = 4
micro_batch = 1
[evaluate]
every = 4
batches = 1
[checkpoint]
every = 4
TOML

submit() { ctl submit "$work/job.toml" --parsable "$@"; }

# succeed RUN
succeed() {
    ctl wait "$1" --timeout 120 >/dev/null || {
        ctl describe "$1" >&2
        fail "$1 is $(field "$1" .state)"
    }
}

# figures RUN: what it measured, a line a step
figures() { ctl metrics "$1" --json | jq -c 'select(.name == ("loss", "grad_norm", "valid_loss"))' | jq -s 'sort_by(.step, .name)'; }

# close RUN RUN LIMIT: figures differ by no more than that, relatively
close() {
    local most
    most=$(jq -n --argjson a "$(figures "$1")" --argjson b "$(figures "$2")" \
        'if ($a | length) != ($b | length) or ($a | length) < 18 then 9 else
         [range($a | length) | ($a[.].value - $b[.].value) / $b[.].value | fabs] | max end')
    note "$1 and $2 differ by $most"
    jq -ne "$most <= $3" >/dev/null || fail "$1 and $2 differ by $most, more than $3"
}

# await CONDITION: of jq, on what is told of $hung
await() {
    for _ in $(seq 300); do
        [ "$(field "$hung" "$1")" = true ] && return
        sleep 0.1
    done
    fail "not $1: $(field "$hung" .attempts)"
}

note "two ranks of one GPU"
export CUDA_VISIBLE_DEVICES=0
daemon_start
run=$(submit --set restart.max=3)
ctl wait "$run" --timeout 60 2>/dev/null && fail "two ranks shared a GPU"
[ "$(field "$run" '[.attempts[].cause] | join(" ")')" = BAD_JOB ] || fail "$(field "$run" .attempts)"
field "$run" .attempts[0].text | grep -q 'a GPU of its own' || fail "$(field "$run" .attempts[0].text)"
daemon_stop
export CUDA_VISIBLE_DEVICES=0,1,2,3

note "a rank hangs"
daemon_start --max-ranks 16
hung=$(submit --set restart.stall_seconds=2 --set train.steps=1000)
reach_step "$hung" 5
kill -STOP "$(field "$hung" '.workers[-1].pid')"

note "as on CPUs, within rounding; the same bits each time"
cpu=$(submit --set 'resources.device="cpu"')
cpu_bf16=$(submit --set 'resources.device="cpu"' --set 'train.precision="bf16"')
gpu=$(submit)
four=$(submit --set resources.ranks=4) # of two values the order of a sum does not show
again=$(submit --set resources.ranks=4)
gpu_bf16=$(submit --set 'train.precision="bf16"')
for run in $cpu $cpu_bf16 $gpu $four $again $gpu_bf16; do succeed "$run"; done
close "$gpu" "$cpu" 1e-4
close "$four" "$cpu" 1e-4
close "$gpu_bf16" "$cpu_bf16" 2e-2
[ "$(weights "$four" 8)" = "$(weights "$again" 8)" ] || fail "two runs have other bits"
[ "$(weights "$gpu" 8)" != "$(weights "$cpu" 8)" ] || fail "GPUs have the bits of CPUs: it was no GPU"
grep -q 'cuda (cudashim, .*NCCL 2' "$state/runs/$gpu/attempt-1/rank-0.log" || fail "no word of what sums"

note "without a daemon ranks meet by MPI"
mpirun -np 2 --oversubscribe --allow-run-as-root --bind-to none "$bin/performer-worker" --job "$work/job.toml" \
    --output "$work/alone" >"$work/alone.log" 2>&1 || fail "$(cat "$work/alone.log")"
[ "$(sha256sum <"$work/alone/checkpoints/step-0000000008/model.safetensors")" = "$(weights "$gpu" 8)  -" ] ||
    fail "other bits without a daemon"

note "the rank that hangs is found, and the next attempt goes on"
await '.attempts[0].cause == "HANG"'
field "$hung" .attempts[0].text | grep -q '^rank 1 on .* is silent in .* of step' || fail "$(field "$hung" .attempts[0].text)"
await '.attempts[1].resumed_step >= 4'
ctl cancel "$hung"
reach_state "$hung" CANCELLED
daemon_stop

# broken FAULT CAUSE WORDS: once, in rank 1; the run succeeds with the weights of one that met nothing
broken() {
    local run
    export CUDASHIM_FAULT="$1 $work/mark-${1// /-}"
    daemon_start
    run=$(submit)
    succeed "$run"
    [ "$(field "$run" '[.attempts[].cause] | join(" ")')" = "$2 FINISHED" ] || fail "$1: $(field "$run" .attempts)"
    field "$run" .attempts[0].text | grep -q "$3" || fail "$1: $(field "$run" .attempts[0].text)"
    [ "$(field "$run" .attempts[1].resumed_step)" -ge 4 ] || fail "$1: the second attempt began anew"
    [ "$(weights "$run" 8)" = "$(weights "$gpu" 8)" ] || fail "$1: other bits"
    daemon_stop
    unset CUDASHIM_FAULT
}

# A step has three buckets and the records, and some 130 launches: what is asked for comes after step 4.
note "the daemon dies while ranks meet"
daemon_start
run=$(submit)
until [ -e "$state/runs/$run/attempt-1/launcher.json" ]; do sleep 0.01; done
daemon_kill
sleep 0.5
daemon_start
succeed "$run"
[ "$(field "$run" '.attempts | length')" -eq 1 ] || fail "$(field "$run" .attempts)"
[ "$(weights "$run" 8)" = "$(weights "$gpu" 8)" ] || fail "other bits"
daemon_stop

note "a rank dies in a sum"
broken "kill 1 23" CRASH 'rank 1 was ended by signal 9'
note "ranks differ in what they sum"
broken "mismatch 1 23" CRASH 'NCCL: invalid usage: .* where rank'
note "a device is ruined"
broken "device 1 650" CRASH 'rank 1: .*the GPU failed'

note "passed"
