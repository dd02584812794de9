#!/usr/bin/env bash
# One step of the paper's protein model as deploy/jobs/proteins-paper.toml has it, one sequence a step, with activations
# recomputed and with all kept: both fit into memory, and give the same loss and the same weights.
# Usage: paper_size.sh BIN_DIRECTORY DATA_DIRECTORY
set -euo pipefail
bin=$1
data=$2
work=$(mktemp -d "${TMPDIR:-/tmp}/performerd-test.XXXXXX")
trap 'rm -rf "$work"' EXIT

fail() {
    echo "FAILED: $*" >&2
    cat "$work/worker.log" >&2 || true
    exit 1
}

cp "$(dirname "$0")/../../deploy/jobs/proteins-paper.toml" "$work/job.toml"
ln -s "$data/DB.fasta.gz" "$work/DB.fasta.gz"
set_one_step=(--set train.steps=1 --set train.batch=1 --set data.packing=concat --set evaluate.batches=1)

for recompute in layer none; do
    set_all=("${set_one_step[@]}" --set "train.recompute=$recompute")
    "$bin/performerctl" validate "$work/job.toml" "${set_all[@]}" --json >"$work/verdict.json"
    /usr/bin/time -f %M -o "$work/kib" "$bin/performer-worker" --job "$work/job.toml" --output "$work/$recompute" \
        "${set_all[@]}" 2>"$work/worker.log" </dev/null || fail "recompute = $recompute: the worker failed"
    [ "$(cat "$work/kib")" -lt $((8 * 1048576)) ] || fail "recompute = $recompute: $(cat "$work/kib") KiB of memory"
    sha256sum <"$work/$recompute/checkpoints/step-0000000001/model.safetensors" >"$work/$recompute.sum"
    values=$(jq -r 'select(.name == "loss" or .name == "step_ms") | "\(.name) \(.value)"' "$work/$recompute/metrics.jsonl")
    echo "-- recompute = $recompute: $(xargs <<<"$values"), $(cat "$work/kib") KiB;" \
        "validate: $(jq .parameters "$work/verdict.json") parameters, $(jq .bytes_rank "$work/verdict.json") bytes"
done
cmp "$work/layer.sum" "$work/none.sum" || fail "recomputing changes the weights"
