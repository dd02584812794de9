#!/usr/bin/env bash
# What collective-bench prints, at a size that takes no time, and what it refuses. It checks every sum itself; how fast
# anything was is not looked at. Usage: collective_bench.sh COLLECTIVE-BENCH
set -euo pipefail
bench=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mpirun=(mpirun --oversubscribe --allow-run-as-root --bind-to none)

fail() {
    echo "collective_bench: $*" >&2
    cat "$work/table" "$work/errors" >&2
    exit 1
}

for ranks in 2 3; do
    "${mpirun[@]}" -np $ranks "$bench" --megabytes 2 --buckets 3 --rounds 2 >"$work/table" 2>"$work/errors" </dev/null ||
        fail "$ranks ranks: exit $?"
    awk -v ranks=$ranks '
        NR == 1 { headed = / ranks [0-9]+, 2 MB in 3 buckets, fastest of 2 rounds$/ && index($0, "ranks " ranks ",") }
        NR >= 3 && NR <= 5 && $(NF - 1) > 0 && $NF == "ms" { times++ }
        NR == 6 { ratio = /^ours \/ the better of MPI/ && $NF > 0 }
        END { exit !(headed && times == 3 && ratio && NR == 6) }
    ' "$work/table" || fail "$ranks ranks: not the table"
done

# EXIT WORDS COMMAND...
refused() {
    local code=$1 words=$2 got=0
    shift 2
    "$@" >"$work/table" 2>"$work/errors" </dev/null || got=$?
    [ "$got" -eq "$code" ] || fail "$*: exit $got instead of $code"
    grep -qF -- "$words" "$work/errors" || fail "$*: does not say: $words"
}
refused 2 '--rounds takes a number from 1 to 100000, not `0`' "$bench" --rounds 0
refused 2 'usage: mpirun -np N collective-bench' "$bench" --fast
refused 2 'unexpected argument: 4' "$bench" 4
refused 2 'needs 2 to 1024 ranks, not 1' "${mpirun[@]}" -np 1 "$bench"
"$bench" --help | grep -q -- '--megabytes' || fail "no help"
