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
    awk -v direction="$1" -v expected="$3" '
        NR == 2 && index($0, direction) == 1 && / length 32, batch 2, shards 1, fp32$/ { headed = 1 }
        NR == 3 && /^product peak [0-9.]+ GFLOP\/s, rounds [0-9]+$/ && $3 > 0 && $6 >= 3 { peaked = 1 }
        NR == 5 && !/^attention +tokens\/s +ms a step +GFLOP\/s +of peak +time\/identity +FLOPs\/identity$/ { exit 1 }
        NR > 5 {
            names = names $1 (NF > 7 ? " " $2 : "") ";"
            for (i = NF - 5; i <= NF; i++) if ($i + 0 <= 0 && i != NF - 2) exit 1
            if (NR == 6 && ($(NF - 1) != "1.00" || $NF != "1.00")) exit 1
            if (NR > 6 && $NF <= 1) exit 1
        }
        END { exit !(headed && peaked && names == expected) }
    ' "$2"
}
causal_rows="identity;favor softmax-positive;favor relu;exact softmax;reformer;"
bidirectional_rows="identity;favor softmax-positive;favor relu;exact softmax;linformer;reformer;"

for direction in causal bidirectional; do
    "$bench" "${sizes[@]}" "--$direction" >"$work/table" 2>"$work/errors" || fail "$direction: $(cat "$work/errors")"
    rows=${direction}_rows
    check_table "$direction" "$work/table" "${!rows}" || fail "$direction: not the table: $(cat "$work/table")"
    [ ! -s "$work/errors" ] || fail "$direction: said $(cat "$work/errors")"
done
[ -z "$(ls -A "$TMPDIR")" ] || fail "left behind: $(ls -A "$TMPDIR")"

"$bench" "${sizes[@]}" --json >"$work/json"
# Products of a step, by hand: three passes of qkv, out, fc1, fc2 and the head over 64 rows; attention by 2 heads of 8, whose
# projection has no gradient of its own.
jq -e '
    def near($b): . / $b - 1 | fabs < 1e-6;
    (3 * 64 * (2 * 16 * 48 + 2 * 16 * 16 + 2 * 2 * 16 * 24 + 2 * 16 * 13)) as $dense
    | (64 * 2 * (2 * 4 * 8 * 8 + 3 * 4 * 8 * 9)) as $favor
    | (3 * 64 * 2 * 16.5 * 4 * 8) as $exact
    | {"identity": $dense, "favor softmax-positive": ($dense + $favor), "favor relu": ($dense + $favor),
       "exact softmax": ($dense + $exact)} as $flops
    | .causal == true and .length == 32 and .rounds >= 3 and .peak_gflops > 0 and .ranks == 1 and .shards == 1
      and ([.steps[].attention] == ["identity", "favor softmax-positive", "favor relu", "exact softmax", "reformer"])
      and .steps[0].time_ratio == 1 and all(.steps[]; has("time_one_shard") | not)
      and all(.steps[:4][]; . as $row | $flops[.attention] as $f
          | (.flops_ratio | near($f / $dense)) and (.gflops | near($f / $row.step_ms * 1e-6))
            and (.tokens_per_second | near(64e3 / $row.step_ms)) and .peak_share > 0 and .time_ratio > 0)
' "$work/json" >/dev/null || fail "not the object: $(cat "$work/json")"

"$bench" "${sizes[@]}" --json --attention identity --precision bf16 >"$work/json"
jq -e '.precision == "bf16" and .peak_gflops > 0 and .steps[0].peak_share > 0' "$work/json" >/dev/null ||
    fail "not in bf16: $(cat "$work/json")"

# Of a few rows, identity is one; at another's pace, a round for each line and nothing but what was chosen.
"$bench" "${sizes[@]}" --json --attention 'exact softmax' >"$work/json"
jq -e '[.steps[].attention] == ["identity", "exact softmax"]' "$work/json" >/dev/null || fail "rows: $(cat "$work/json")"
printf '\n\n' | "$bench" "${sizes[@]}" --paced --attention 'exact softmax' --attention 'favor relu' >"$work/paced"
jq -se '
    length == 3 and .[0].tokens == 64 and (.[0].flops | keys == ["exact softmax", "favor relu"] and all(.[]; . > 0))
    and all(.[1:][]; .peak_gflops > 0 and (.step_ms | keys == ["exact softmax", "favor relu"] and all(.[]; . > 0)))
' "$work/paced" >/dev/null || fail "paced: $(cat "$work/paced")"

# What sameness costs: with micro-shards on one rank, and on two ranks, which take the step of one.
mpirun=(mpirun --oversubscribe --allow-run-as-root)
"$bench" "${sizes[@]}" --attention identity --shards 2 >"$work/table"
awk '
    NR == 1 { ranks = /, ranks 1, threads 2$/ }
    /^attention +speed\/one rank +time\/Allreduce +time\/one shard$/ { headed = NR }
    headed && NR == headed + 1 { row = /^identity/ && $2 == "-" && $3 == "-" && $4 > 0 && NF == 4 }
    END { exit !(ranks && headed && row && NR == headed + 1) }
' "$work/table" || fail "shards: not the table: $(cat "$work/table")"
"${mpirun[@]}" --bind-to none -np 2 "$bench" "${sizes[@]}" --json --attention identity --attention 'favor relu' \
    >"$work/json" 2>"$work/errors" </dev/null || fail "two ranks: $(cat "$work/errors")"
jq -e '
    .ranks == 2 and .shards == 2 and .threads == 2 and ([.steps[].attention] == ["identity", "favor relu"])
    and all(.steps[]; (64e3 / .step_ms / .tokens_per_second - 1 | fabs) < 1e-6
        and .speed_one_rank > 0 and .time_allreduce > 0 and .time_one_shard > 0)
' "$work/json" >/dev/null || fail "two ranks: $(cat "$work/json")"
[ -z "$(ls -A "$TMPDIR")" ] || fail "two ranks left behind: $(ls -A "$TMPDIR")"

# EXIT WORDS ARGUMENT...
refused() {
    local code=$1 words=$2 got=0
    shift 2
    "${start[@]}" "$bench" "$@" >"$work/out" 2>"$work/errors" </dev/null || got=$?
    [ "$got" -eq "$code" ] || fail "$*: exit $got instead of $code"
    grep -qF -- "$words" "$work/errors" || fail "$*: said $(cat "$work/errors")"
    [ ! -s "$work/out" ] || fail "$*: printed $(cat "$work/out")"
    [ -z "$(ls -A "$TMPDIR")" ] || fail "$*: left $(ls -A "$TMPDIR")"
}
start=()
refused 2 'unexpected argument: fast' "${sizes[@]}" fast
refused 2 'usage: [mpirun --bind-to none -np N] performer-bench' --fast
refused 2 '--length takes a number from 1 to 10000000, not `0`' --length 0
refused 2 '--batch takes a number from 1 to 100000, not `4x`' --batch 4x
refused 2 '--threads takes a number from 1 to' --threads ''
refused 2 'no `favor`; there is `identity`, `favor softmax-positive`' "${sizes[@]}" --attention favor
refused 2 'heads' "${sizes[@]}" --heads 3
refused 2 'linformer cannot be causal: --bidirectional' "${sizes[@]}" --attention linformer
refused 2 '3 shards do not divide --batch 2' "${sizes[@]}" --shards 3
start=("${mpirun[@]}" --bind-to none -np 2)
refused 2 '2 ranks do not divide --shards 1' "${sizes[@]}" --shards 1
refused 2 '--paced is for one rank, not 2' "${sizes[@]}" --paced
if [ "$(nproc)" -gt 1 ]; then
    start=(taskset -c "$(taskset -cp $$ | sed 's/.*: //; s/[,-].*//')" "${start[@]}")
    refused 2 'the first rank may use 1 cores, and takes steps with 4 threads: mpirun --bind-to none' "${sizes[@]}"
fi
TMPDIR=$work/nowhere "$bench" "${sizes[@]}" 2>"$work/errors" && fail "needs no directory"
grep -qF "could not make $work/nowhere" "$work/errors" || fail "no directory: said $(cat "$work/errors")"
"$bench" --help | grep -q -- '--bidirectional' || fail "no help"
