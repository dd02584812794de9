#!/usr/bin/env bash
# Linformer and reformer, trained: the loss falls, what is drawn is redrawn on all ranks alike, the weights have one
# sha256 with 1 and 2 ranks and threads and after a rank was killed, and a checkpoint holds what was drawn.
. "$(dirname "$0")/harness.sh"

proteins 300 "$work/proteins.fasta"
cat >"$work/job.toml" <<'TOML'
[job]
name = "other-attentions"
seed = 7
[data]
format = "fasta"
train = "proteins.fasta"
length = 160
[model]
layers = 2
heads = 2
width = 64
mlp = 128
[attention]
rank = 40
buckets = 8
rounds = 2
chunk = 32
[redraw]
every = 7
[optimizer]
lr = 3e-3
warmup = 5
[train]
steps = 160
batch = 8
micro_batch = 2
[checkpoint]
every = 40
TOML

daemon_start

# submit NAME KIND CAUSAL [--set ...]: sets $run
submit() {
    local name=$1 kind=$2 causal=$3
    shift 3
    run=$(ctl submit "$work/job.toml" --set "job.name=\"$name\"" --set "attention.kind=$kind" \
        --set "model.causal=$causal" "$@" --parsable)
}

# same NAME: the run succeeded with the weights of the first one of its kind
same() {
    ctl wait "$run" --timeout 120 || fail "$1: $(field "$run" .state)"
    local sum
    sum=$(weights "$run" 160)
    [ -n "$expected" ] || expected=$sum
    [ "$sum" = "$expected" ] || fail "$1: $sum, not $expected"
    note "$1: $sum"
}

for kind in linformer reformer; do
    causal=false buffer=key_projection expected=""
    [ "$kind" = linformer ] || causal=true buffer=rotations
    submit "$kind" $kind $causal --set resources.threads=1
    same "$kind ranks=1 threads=1"
    first=$(ctl metrics "$run" --name loss --json | jq -s ".[0].value")
    last=$(ctl metrics "$run" --name loss --json | jq -s ".[-1].value")
    jq -en "$last < $first - 0.1" >/dev/null || fail "$kind: the loss did not fall: $first, $last"
    grep -aq "layers.1.attn.$buffer" "$(field "$run" .directory)/checkpoints/step-0000000160/model.safetensors" ||
        fail "$kind: no $buffer in its checkpoint"

    submit "$kind-threads" $kind $causal --set resources.threads=2
    same "$kind ranks=1 threads=2"
    submit "$kind-ranks" $kind $causal --set resources.ranks=2 --set resources.threads=1
    reach_step "$run" 41
    kill -9 "$(field "$run" '.workers[-1].pid')"
    same "$kind ranks=2 threads=1, one killed"
    [ "$(field "$run" '[.redraws[].draw] | max')" -ge 5 ] || fail "$kind: nothing was redrawn"
    [ "$(field "$run" '[.redraws[] | select(.agreed | not)] | length')" -eq 0 ] || fail "$kind: ranks disagree"

    submit "$kind-never" $kind $causal --set 'redraw.policy="never"'
    ctl wait "$run" --timeout 120 || fail "$kind without redraws: $(field "$run" .state)"
    [ "$(weights "$run" 160)" != "$expected" ] || fail "$kind: the redraws change nothing"
done

daemon_stop
note "passed"
