#!/usr/bin/env bash
# What performer-bench prints, at a size that takes no time, and what it refuses. How fast anything was is not looked at.
# Usage: performer_bench.sh PERFORMER-BENCH
set -euo pipefail
bench=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TMPDIR=$work/temporary
mkdir "$TMPDIR"

fail() {
    echo "performer_bench: $*" >&2
    exit 1
}

sizes=(--layers 1 --heads 2 --width 16 --mlp 24 --features 8 --vocab 13 --length 32 --batch 2 --threads 2 --seconds 1)

# A row for each attention, identity first, all figures above 0, and identity once itself.
check_table() {
    awk -v direction="$1" '
        NR == 2 && index($0, direction) == 1 && / length 32, batch 2$/ { headed = 1 }
        NR == 3 && /^product peak [0-9.]+ GFLOP\/s, rounds [0-9]+$/ && $3 > 0 && $6 >= 3 { peaked = 1 }
        NR == 5 && !/^attention +tokens\/s +ms a step +GFLOP\/s +of peak +time\/identity +FLOPs\/identity$/ { exit 1 }
        NR > 5 {
            names = names $1 (NF > 7 ? " " $2 : "") ";"
            for (i = NF - 5; i <= NF; i++) if ($i + 0 <= 0 && i != NF - 2) exit 1
            if (NR == 6 && ($(NF - 1) != "1.00" || $NF != "1.00")) exit 1
            if (NR > 6 && $NF <= 1) exit 1
        }
        END { exit !(headed && peaked && names == "identity;favor softmax-positive;favor relu;exact softmax;") }
    ' "$2"
}

for direction in causal bidirectional; do
    "$bench" "${sizes[@]}" "--$direction" >"$work/table" 2>"$work/errors" || fail "$direction: $(cat "$work/errors")"
    check_table "$direction" "$work/table" || fail "$direction: not the table: $(cat "$work/table")"
    [ ! -s "$work/errors" ] || fail "$direction: said $(cat "$work/errors")"
done
[ -z "$(ls -A "$TMPDIR")" ] || fail "left behind: $(ls -A "$TMPDIR")"

"$bench" "${sizes[@]}" --json >"$work/json"
python3 - "$work/json" <<'PYTHON' || fail "not the object: $(cat "$work/json")"
import json, sys
told = json.load(open(sys.argv[1]))
assert told["causal"] is True and told["length"] == 32 and told["rounds"] >= 3 and told["peak_gflops"] > 0
rows = {row["attention"]: row for row in told["steps"]}
assert list(rows) == ["identity", "favor softmax-positive", "favor relu", "exact softmax"]
# Products of a step, by hand: three passes of qkv, out, fc1, fc2 and the head over 64 rows, and attention by 2 heads of 8.
dense = 3 * 64 * (2 * 16 * 48 + 2 * 16 * 16 + 2 * 2 * 16 * 24 + 2 * 16 * 13)
favor = 3 * 64 * 2 * (4 * 8 * 8 + 4 * 8 * 9)
exact = 3 * 64 * 2 * 16.5 * 4 * 8
near = lambda a, b: abs(a / b - 1) < 1e-6
for name, flops in {"identity": dense, "favor softmax-positive": dense + favor, "favor relu": dense + favor,
                    "exact softmax": dense + exact}.items():
    row = rows[name]
    assert near(row["flops_ratio"], flops / dense), name
    assert near(row["gflops"], flops / row["step_ms"] * 1e-6), name
    assert near(row["tokens_per_second"], 64e3 / row["step_ms"]), name
    assert row["peak_share"] > 0 and row["time_ratio"] > 0, name
assert rows["identity"]["time_ratio"] == 1
PYTHON

# EXIT WORDS ARGUMENT...
refused() {
    local code=$1 words=$2 got=0
    shift 2
    "$bench" "$@" >"$work/out" 2>"$work/errors" || got=$?
    [ "$got" -eq "$code" ] || fail "$*: exit $got instead of $code"
    grep -qF -- "$words" "$work/errors" || fail "$*: said $(cat "$work/errors")"
    [ ! -s "$work/out" ] || fail "$*: printed $(cat "$work/out")"
    [ -z "$(ls -A "$TMPDIR")" ] || fail "$*: left $(ls -A "$TMPDIR")"
}
refused 2 'unexpected argument: fast' "${sizes[@]}" fast
refused 2 'usage: performer-bench' --fast
refused 2 '--length: `0` is not a number' --length 0
refused 2 '--batch: `4x` is not a number' --batch 4x
refused 2 '--threads: `` is not a number' --threads ''
refused 2 'heads' "${sizes[@]}" --heads 3
TMPDIR=$work/nowhere "$bench" "${sizes[@]}" 2>"$work/errors" && fail "needs no directory"
grep -qF "could not make $work/nowhere" "$work/errors" || fail "no directory: said $(cat "$work/errors")"
"$bench" --help | grep -q -- '--bidirectional' || fail "no help"
