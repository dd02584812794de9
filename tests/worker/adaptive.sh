#!/usr/bin/env bash
# [redraw] policy = "adaptive": features are redrawn after those evaluations whose largest error passes the threshold, and
# after no others; with the same bits on two ranks and from whichever checkpoint a run goes on.
# Usage: adaptive.sh WORKER
worker=$1
. "$(dirname "$0")/worker_trials.sh"

sed -i -e 's/^length = .*/&\nvalid_fraction = 0.1/' -e 's/^every = 7/policy = "adaptive"/' -e 's/^every = 10/&\nkeep = 10/' \
    "$work/job.toml"
printf '[evaluate]\nevery = 5\nbatches = 2\n' >>"$work/job.toml"

# trial NAME THRESHOLD [RANKS]
trial() {
    local start=()
    [ -z "${3:-}" ] || start=("${mpirun[@]}" -np "$3")
    ends 0 "${start[@]}" "$worker" --job "$work/job.toml" --output "$work/$1" --set "redraw.threshold=$2"
}

errors() { # NAME: step and largest error of each evaluation before the last step
    jq -rs 'map(select((.name | startswith("kernel_error.")) and .step < 40)) | group_by(.step)[] |
            [.[0].step, (map(.value) | max)] | join(" ")' "$work/$1/metrics.jsonl"
}

draws() { jq .draw "$work/$1/checkpoints/step-0000000040/state.json"; }

# ---- a threshold that nothing reaches, one that all pass, and one between
ends 0 alone never --set 'redraw.policy="never"'
trial unreached 1000
[ "$(weights unreached)" = "$(weights never)" ] || fail "features were redrawn, or something else is not the same"
[ "$(errors unreached | wc -l)" -eq 7 ] || fail "not seven evaluations: $(errors unreached)"
! grep -q redrawn "$work/log" || fail "features were redrawn below the threshold"

trial always 1e-9
[ "$(draws always)" -eq 7 ] || fail "$(draws always) draws, not one after each evaluation but the last"
[ "$(weights always)" != "$(weights never)" ] || fail "the redraws changed nothing"
says "draw 1 after step 5, adaptive: kernel_error."
says " > 1e-09"

threshold=$(errors unreached | awk 'NR <= 3 && $2 > most { most = $2 } END { print most }')
trial some "$threshold"
expected=$(errors some | awk -v threshold="$threshold" '$2 > threshold { print $1 }')
told=$(sed -n 's/.* redrawn: draw [0-9]* after step \([0-9]*\), adaptive: .*/\1/p' "$work/log")
[ "$told" = "$expected" ] || fail "redrawn after steps $told, where the error passed $threshold after steps $expected"
[ "$(draws some)" -eq "$(wc -w <<<"$expected")" ] || fail "state.json counts $(draws some) draws"
[ "$(draws some)" -gt 0 ] && [ "$(draws some)" -lt 5 ] || fail "$(draws some) draws prove nothing"

# ---- the same bits on two ranks, and from each checkpoint: a redraw at the same edge is in it, later ones are decided again
trial ranks "$threshold" 2
[ "$(weights ranks)" = "$(weights some)" ] || fail "two ranks have other bits"
resumed() { # NAME THRESHOLD STEP
    mkdir -p "$work/$1-$3/checkpoints"
    cp -r "$work/$1/checkpoints/step-00000000$3" "$work/$1-$3/checkpoints"
    trial "$1-$3" "$2"
    says "resumes at step $3"
    [ "$(weights "$1-$3")" = "$(weights "$1")" ] || fail "other bits when $1 goes on from step $3"
    [ "$(draws "$1-$3")" -eq "$(draws "$1")" ] || fail "$1 has other draws when it goes on from step $3"
}
for step in 10 20 30; do
    resumed always 1e-9 $step
    resumed some "$threshold" $step
done

# ---- what cannot be done is said
ends 65 alone refused --set 'attention.kernel="relu"'
says 'kernel = "relu" does not estimate softmax'
ends 65 alone refused --set data.valid_fraction=0.0
says "needs validation data"
