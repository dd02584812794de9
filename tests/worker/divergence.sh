#!/usr/bin/env bash
# train.on_divergence = "skip": a batch of noise is left out, at the same step on two ranks and from whichever checkpoint a
# run goes on, with the same bits; ten in a row end the run. Usage: divergence.sh WORKER
worker=$1
. "$(dirname "$0")/worker_trials.sh"

# One line over and over, and nine rows of noise among four thousand.
LC_ALL=C awk 'BEGIN {
    for (i = 0; i < 6000; i++) {
        if (i == 3000) for (k = 0; k < 576; k++) { x = (x * 16807 + 12345) % 2147483647; printf "%c", 33 + x % 94 }
        print "the cat sat on the mat and looked at the dog."
    }
}' >"$work/text.txt"
sed -i -e 's/^steps = 40/steps = 100/' -e 's/^every = 7/every = 60/' -e 's/^every = 10/every = 20\nkeep = 20/' \
    -e 's/^dropout.*//' -e 's/^seed = 7/seed = 1/' "$work/job.toml"
printf '[optimizer]\nlr = 1e-2\n' >>"$work/job.toml"
skip=(--set 'train.on_divergence="skip"')

final() { sha256sum <"$work/$1/checkpoints/step-0000000100/model.safetensors"; }
skips() { sed -n 's/.* update-skipped: step \([0-9]*\): .*/\1/p' "$work/log"; }

ends 0 alone whole "${skip[@]}"
steps=$(skips)
[ -n "$steps" ] || fail "no batch of noise was left out"
[ "$(jq .losses.skipped "$work/whole/checkpoints/step-0000000100/state.json")" -eq "$(wc -w <<<"$steps")" ] ||
    fail "state.json does not count $steps"
[ "$(jq -r 'select(.name == "skipped") | .step' "$work/whole/metrics.jsonl")" = "$steps" ] || fail "no metric of steps $steps"

ends 0 alone taken
[ "$(final taken)" != "$(final whole)" ] || fail "what was left out changed nothing"

ends 0 "${mpirun[@]}" -np 2 "$worker" --job "$work/job.toml" --output "$work/two" "${skip[@]}"
[ "$(skips)" = "$steps" ] || fail "two ranks leave out $(skips), not $steps"
[ "$(final two)" = "$(final whole)" ] || fail "two ranks have other bits"

for step in 20 60 80; do
    mkdir -p "$work/from-$step/checkpoints"
    cp -r "$work/whole/checkpoints/step-00000000$step" "$work/from-$step/checkpoints"
    ends 0 alone "from-$step" "${skip[@]}"
    says "resumes at step $step"
    [ "$(skips)" = "$(awk -v from="$step" '$1 > from' <<<"$steps")" ] || fail "from step $step it leaves out $(skips)"
    [ "$(final "from-$step")" = "$(final whole)" ] || fail "other bits from step $step"
done

ends 105 alone ruined "${skip[@]}" --set optimizer.lr=1000
says "10 in a row"
says "training diverged at step"
