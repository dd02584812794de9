#!/usr/bin/env bash
# Two steps, an evaluation and a checkpoint on sequences of so many tokens: the job is valid, its losses are numbers and
# near those of a model that knows nothing, and the worker took no more memory than it may.
# Usage: long_sequence.sh BIN_DIRECTORY DATA_DIRECTORY LENGTH GIB_MAX
set -euo pipefail
bin=$1
data=$2
length=$3
gib_max=$4
work=$(mktemp -d "${TMPDIR:-/tmp}/performerd-test.XXXXXX")
trap 'rm -rf "$work"' EXIT

fail() {
    echo "FAILED: $*" >&2
    cat "$work/worker.log" >&2 || true
    exit 1
}

cat >"$work/job.toml" <<TOML
[job]
name = "long-sequence"
[resources]
threads = 2
[data]
format = "fasta"
train = "$data/DB.fasta.gz"
valid_fraction = 0.2
length = $length
[model]
layers = 2
heads = 8
width = 128
mlp = 256
positions = "rotary"
dropout = 0.1
[attention]
features = 64
[train]
steps = 2
batch = 1
micro_batch = 1
recompute = "layer"
[evaluate]
every = 2
batches = 1
TOML

# values NAME: of the run's metrics
values() { jq -r "select(.name == \"$1\") | .value" "$work/$causal/metrics.jsonl"; }

for causal in true false; do
    "$bin/performerctl" validate "$work/job.toml" --set "model.causal=$causal" --json >"$work/verdict.json"
    jq -e ".valid and .tokens_step == $length and .bytes_rank < $gib_max * 1073741824" "$work/verdict.json" >/dev/null ||
        fail "validate, causal = $causal: $(cat "$work/verdict.json")"

    /usr/bin/time -f %M -o "$work/kib" "$bin/performer-worker" --job "$work/job.toml" --output "$work/$causal" \
        --set "model.causal=$causal" 2>"$work/worker.log" </dev/null || fail "causal = $causal: the worker failed"
    [ "$(values loss | wc -l)" -eq 2 ] || fail "causal = $causal: not two steps"
    # ln 29 is what guessing among all letters costs
    for loss in $(values loss) $(values valid_loss); do
        jq -en "$loss > 2 and $loss < 4" >/dev/null || fail "causal = $causal: a loss of $loss"
    done
    [ -s "$work/$causal/checkpoints/step-0000000002/MANIFEST" ] || fail "causal = $causal: no checkpoint"
    [ "$(cat "$work/kib")" -lt $((gib_max * 1048576)) ] || fail "causal = $causal: $(cat "$work/kib") KiB of memory"
    echo "-- $length tokens, causal = $causal: losses $(values loss | xargs), $(cat "$work/kib") KiB," \
        "steps of $(values step_ms | xargs) ms"
done
