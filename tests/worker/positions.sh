#!/usr/bin/env bash
# Sinusoidal and rotary positions train, with every kind of attention that they go with: the loss falls, the bits are the same
# for any number of threads and ranks, and a checkpoint holds no table of them.
# Usage: positions.sh WORKER
worker=$1
source "$(dirname "$0")/worker_trials.sh"

trial() { # NAME POSITIONS KIND CAUSAL RANKS [OPTION...]
    local name=$1 positions=$2 kind=$3 causal=$4 ranks=$5 start=()
    shift 5
    [ "$ranks" -eq 0 ] || start=("${mpirun[@]}" -np "$ranks")
    ends 0 "${start[@]}" "$worker" --job "$work/job.toml" --output "$work/$name" --set "model.positions=\"$positions\"" \
        --set "attention.kind=\"$kind\"" --set "model.causal=$causal" --set 'model.objective="next-token"' \
        --set attention.rank=16 --set attention.buckets=4 --set attention.chunk=16 "$@"
}

falls() { # NAME: the mean loss of the last five steps is below that of the first five
    sed -n 's/.*"step": *\([0-9]*\), *"name": *"loss", *"value": *\([0-9.e+-]*\).*/\1 \2/p' "$work/$1/metrics.jsonl" |
        awk '$1 <= 5 { first += $2 / 5; n++ } $1 > 35 { last += $2 / 5; n++ }
             END { print "from " first " to " last " in " n " losses"; exit !(n == 10 && last < 0.9 * first) }' \
            >"$work/falls" || fail "$1: $(cat "$work/falls")"
}

for positions in sinusoidal rotary; do
    for way in "favor true" "favor false" "softmax true" "linformer false" "reformer true"; do
        read -r kind causal <<<"$way"
        name=$positions-$kind-$causal
        trial "$name" $positions "$kind" "$causal" 0
        falls "$name"
    done
    first=$positions-favor-true
    trial $positions-threads $positions favor true 0 --set resources.threads=2
    trial $positions-ranks $positions favor true 2
    for other in threads ranks; do
        [ "$(weights $first)" = "$(weights $positions-$other)" ] || fail "$positions: other bits with two $other"
    done
    held=$(grep -c 'pos_embed' -a "$work/$first/checkpoints/step-0000000040/model.safetensors" || true)
    [ "$held" -eq 0 ] || fail "$positions: a table of positions in the checkpoint"
done

trial none none favor true 0
trial learned learned favor true 0
grep -q 'pos_embed' -a "$work/learned/checkpoints/step-0000000040/model.safetensors" || fail "no learned positions to be told from"
for one in none rotary-favor-true; do
    for other in sinusoidal-favor-true learned; do
        [ "$(weights $one)" != "$(weights $other)" ] || fail "$one and $other: the same weights"
    done
done
[ "$(weights none)" != "$(weights rotary-favor-true)" ] || fail "rotary positions change nothing"
