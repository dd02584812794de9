#!/usr/bin/env bash
# One run, many ways, without a daemon: any power of two of ranks, any number of threads, killed and resumed, asked to stop
# and resumed. The weights have one sha256; and another seed, no dropout, no redraw each give another, or this proves nothing.
# Usage: same_bits.sh WORKER
set -euo pipefail
worker=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    echo "same_bits: $*" >&2
    exit 1
}

awk 'BEGIN { for (i = 0; i < 3000; i++) printf "%d squared is %d, and its third power %d.\n", i, i * i, i * i * i }' \
    >"$work/text.txt"
cat >"$work/job.toml" <<'TOML'
[job]
name = "same-bits"
seed = 7
[resources]
threads = 1
[data]
format = "text"
train = "text.txt"
valid_fraction = 0.1
length = 96
[model]
layers = 2
heads = 2
width = 32
mlp = 64
dropout = 0.1
[attention]
features = 24
[redraw]
every = 7
[optimizer]
lr = 3e-3
schedule = "cosine"
warmup = 5
[train]
steps = 40
batch = 16
micro_batch = 2
[evaluate]
every = 20
batches = 3
[checkpoint]
every = 10
TOML

train() { # NAME RANKS [OPTION...]; RANKS 0: without mpirun
    local name=$1 ranks=$2 start=()
    shift 2
    [ "$ranks" -eq 0 ] || start=(mpirun -np "$ranks" --oversubscribe --allow-run-as-root --bind-to none)
    "${start[@]}" "$worker" --job "$work/job.toml" --output "$work/$name" "$@" </dev/null 2>>"$work/$name.log"
}

weights() { sha256sum <"$work/$1/checkpoints/step-0000000040/model.safetensors"; }

# Loss and validation loss of every step, without times. Rows of a killed attempt may come twice.
losses() {
    grep -oE '"step":[0-9]+,"name":"(loss|grad_norm|valid_loss|valid_accuracy)","value":[^,}]+' "$work/$1/metrics.jsonl" | sort -u
}

same() {
    [ "$(weights "$1")" = "$expected" ] || fail "$1: other weights"
    [ "$(losses "$1")" = "$(losses alone)" ] || fail "$1: other losses"
}

other() {
    local name=$1
    train "$@"
    [ "$(weights "$name")" != "$expected" ] || fail "$name: the same weights"
}

# A worker of its own that is hit by a signal somewhere after step 14; the rest of the run by RANKS ranks.
interrupted() { # NAME SIGNAL RANKS
    train "$1" 0 &
    local launcher=$!
    until grep -q '"step":1[4-9]' "$work/$1/metrics.jsonl" 2>/dev/null; do
        kill -0 "$launcher" 2>/dev/null || fail "$1: ended before it was hit"
        sleep 0.02
    done
    pkill "-$2" -P "$launcher" -f "$work/$1" || fail "$1: was not hit"
    wait "$launcher" || true
    [ ! -e "$work/$1/checkpoints/step-0000000040" ] || fail "$1: ended before it was hit"
    train "$1" "$3"
    grep -q 'resumes at step [1-9]' "$work/$1.log" || fail "$1: did not resume"
}

train alone 0
expected=$(weights alone)
for ranks in 1 2 4; do
    for threads in 1 2; do
        train "ranks-$ranks-threads-$threads" "$ranks" --set "resources.threads=$threads"
        grep -q "ranks $ranks, threads $threads" "$work/ranks-$ranks-threads-$threads.log" ||
            fail "not $ranks ranks of $threads threads"
        same "ranks-$ranks-threads-$threads"
    done
done
interrupted killed KILL 2
same killed
interrupted stopped TERM 0
grep -q 'stopped and saved' "$work/stopped.log" || fail "stopped: no word of it"
same stopped

train recomputed 2 --set 'train.recompute="layer"'
same recomputed

# Shards of padded rows are cut to their own longest row, which no other shard has a part in.
awk 'BEGIN { for (i = 0; i < 400; i++) { line = i; while (length(line) < i * 37 % 180) line = line " times " i; print line } }' \
    >"$work/lines.txt"
padded=(--set data.train="$work/lines.txt" --set 'data.packing="pad"' --set data.length=160 --set model.causal=false)
train padded 0 "${padded[@]}"
train padded-4 4 "${padded[@]}"
[ "$(weights padded-4)" = "$(weights padded)" ] || fail "padded-4: other weights"
[ "$(losses padded-4)" = "$(losses padded)" ] || fail "padded-4: other losses"

# In bf16 too, and they are others.
bf16=(--set 'train.precision="bf16"')
train bf16 0 "${bf16[@]}"
train bf16-4 4 "${bf16[@]}" --set resources.threads=2
[ "$(weights bf16-4)" = "$(weights bf16)" ] || fail "bf16-4: other weights"
[ "$(losses bf16-4)" = "$(losses bf16)" ] || fail "bf16-4: other losses"
grep -q 'bf16, ranks 1' "$work/bf16.log" || fail "bf16: no word of it"
train fp32 0 "${bf16[@]}" --set 'train.precision="fp32"'
[ "$(weights fp32)" != "$(weights bf16)" ] || fail "bf16: the weights of fp32"

# The other attentions round elsewhere.
for kind in softmax linformer reformer identity; do
    other=("${bf16[@]}" --set "attention.kind=$kind" --set attention.rank=24 --set model.causal=false --set train.steps=8
        --set checkpoint.every=8 --set evaluate.every=8 --set evaluate.batches=1)
    train "$kind" 0 "${other[@]}"
    train "$kind-4" 4 "${other[@]}" --set resources.threads=2
    cmp -s "$work/$kind"{,-4}/checkpoints/step-0000000008/model.safetensors || fail "$kind: other weights in bf16"
    [ "$(losses "$kind-4")" = "$(losses "$kind")" ] || fail "$kind: other losses in bf16"
done

train again 0 && train again 4
same again
grep -q 'resumes at step 40' "$work/again.log" || fail "again: trained a finished run"

other seed 0 --set job.seed=8
other no-dropout 0 --set model.dropout=0.0
other no-redraw 0 --set 'redraw.policy="never"'
other other-redraw 0 --set redraw.every=8
other other-shards 0 --set train.micro_batch=4
[ "$(losses other-shards | head -n 1)" != "$(losses seed | head -n 1)" ] || fail "losses tell nothing apart"

# Ranks that are no power of two have bits of their own, but train the same thing.
train three 3 --set train.batch=12
train twelve 0 --set train.batch=12
awk -v a="$(losses three | grep '"step":1,"name":"loss"' | grep -oE '[0-9.e+-]+$')" \
    -v b="$(losses twelve | grep '"step":1,"name":"loss"' | grep -oE '[0-9.e+-]+$')" \
    'BEGIN { exit !(a > 0 && (a - b) ^ 2 < 1e-12 * a * a) }' || fail "three ranks: another loss"

first=$(losses alone | grep '"step":1,"name":"loss"' | grep -oE '[0-9.e+-]+$')
last=$(losses alone | grep '"step":40,"name":"loss"' | grep -oE '[0-9.e+-]+$')
awk -v a="$first" -v b="$last" 'BEGIN { exit !(b < 0.8 * a) }' || fail "the loss did not fall: $first, $last"
