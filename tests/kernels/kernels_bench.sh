#!/usr/bin/env bash
# The table in kernels/cuda/README.md is what kernels-bench prints; and on the device of tests/cudashim it measures, and sets
# what an H100 would take beside it. Usage: kernels_bench.sh KERNELS_BENCH_ON_CUDASHIM README
set -euo pipefail
bench=$1 readme=$2
said=$(mktemp)
trap 'rm -f "$said"' EXIT

fail() {
    echo "kernels_bench.sh: $*" >&2
    cat "$said" >&2
    exit 1
}

for attention in "favor softmax-positive causal" "softmax causal" linformer "reformer causal"; do
    "$bench" --roofline --lengths 8192 --attention "$attention" >"$said"
    [ "$(wc -l <"$said")" -gt 4 ] || fail "no table of $attention"
    while read -r line; do
        grep -qxF -- "$line" "$readme" || fail "not in $readme: $line"
    done <"$said"
done

"$bench" --backend cuda --heads 1 --lengths 20,70 --repeat 1 --attention "softmax causal" >"$said" || fail "exit $?"
# attention (two words), length, pass, ms, GFLOP, MB, ms of an H100, share
awk '$3 == 70 && ($4 == "forward" || $4 == "backward") && $5 > 0 && $6 > 0 && $7 > 0 && $8 > 0 && $9 ~ /%$/ { rows++ }
    END { exit rows != 2 }' "$said" || fail "no two rows of 70 positions"
grep -q "beside an H100" "$said" || fail "beside what?"
