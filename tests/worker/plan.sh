#!/usr/bin/env bash
# performer-worker as a daemon's launcher starts it, with nobody at the daemon's URL: it needs none.
# Usage: plan.sh WORKER WRITE_PLAN
worker=$1 write_plan=$2
. "$(dirname "$0")/worker_trials.sh"

# run NAME: a run's directory
run() {
    mkdir -p "$work/$1"
    cp "$work/job.toml" "$work/$1/resolved.toml"
    sed -i "s|text.txt|$work/text.txt|" "$work/$1/resolved.toml"
}

attempt() { # NAME ATTEMPT RANKS
    PERFORMERD_URL=ipc://$work/nobody.sock "${mpirun[@]}" -np "$3" "$worker" --plan "$work/$1/attempt-$2/plan"
}

end_of() { jq -r "$3" "$work/$1/rank-$2.end.json"; }

ends 0 alone reference
expected=$(weights reference)

# ---- two ranks, no daemon: all steps, an end and a log of each, what could not be told lies in the spool
run plain
"$write_plan" "$work/plain" 1 nonce-1 2
ends 0 attempt plain 1 2
[ ! -s "$work/log" ] || fail "something was said that is not in a rank's log"
[ "$(weights plain)" = "$expected" ] || fail "other weights under a plan"
for rank in 0 1; do
    [ "$(end_of plain/attempt-1 $rank '[.status, .status_code, .stopped, .step] | join(" ")')" = "ok 0 false 40" ] ||
        fail "rank $rank: $(cat "$work/plain/attempt-1/rank-$rank.end.json")"
    [ "$(end_of plain/attempt-1 $rank '(.pid > 1) and (.time_ms > 1e12) and (.host | length > 0)')" = true ] ||
        fail "rank $rank does not say who it was"
    [ -s "$work/plain/attempt-1/rank-$rank.spool" ] || fail "rank $rank: what it had to tell is lost"
done
grep -q "ranks 2, threads 1" "$work/plain/attempt-1/rank-0.log" || fail "rank 0 has no log"

# ---- orders of earlier attempts are met again, also by an attempt that begins later
run ordered
"$write_plan" "$work/ordered" 1 nonce-1 2 12 23
ends 0 attempt ordered 1 2
ordered=$(weights ordered)
[ "$ordered" != "$expected" ] || fail "the redraws of the plan changed nothing"
state=$work/ordered/checkpoints/step-0000000040/state.json
[ "$(jq -c '[.draw, (.applied | length)]' "$state")" = "[7,2]" ] || fail "$(cat "$state")"

# ---- a fork goes on from the checkpoint that it was given, with a best of its own, and never begins anew
run forked
mkdir "$work/forked/checkpoints"
cp -r "$work/reference/checkpoints/step-0000000020" "$work/forked/checkpoints/"
FIRST_STEP=20 "$write_plan" "$work/forked" 1 nonce-1 2
ends 0 attempt forked 1 2
grep -q "resumes at step 20" "$work/forked/attempt-1/rank-0.log" || fail "the fork began elsewhere"
[ "$(weights forked)" = "$expected" ] || fail "other weights of a fork that changes nothing"
rm -r "$work/forked/checkpoints"
FIRST_STEP=20 "$write_plan" "$work/forked" 2 nonce-2 2
ends 65 attempt forked 2 2
for rank in 0 1; do
    [ "$(end_of forked/attempt-2 $rank .status)" = invalid ] || fail "rank $rank: $(cat "$work/forked/attempt-2/rank-$rank.end.json")"
    end_of forked/attempt-2 $rank .text | grep -q "does not begin anew" || fail "rank $rank does not say why"
done

# ---- a fork may begin with data of its own, is told so, and is held to them from its first checkpoint on
run data
mkdir "$work/data/checkpoints"
cp -r "$work/reference/checkpoints/step-0000000020" "$work/data/checkpoints/"
head -c 50000 "$work/text.txt" >"$work/data/text.txt"
sed -i "s|$work/text.txt|$work/data/text.txt|" "$work/data/resolved.toml"
FIRST_STEP=20 "$write_plan" "$work/data" 1 nonce-1 2
ends 0 attempt data 1 2
grep -q "data-changed.*data/text.txt: 781 rows.*the checkpoint of step 20 has seen" "$work/data/attempt-1/rank-0.log" ||
    fail "not told that the data are others"
ends 104 alone data
says "the checkpoint of step 40 has seen 781"

# ---- what the checkpoint holds of orders and the plan does not know is told again: order 102 after step 23
"$write_plan" "$work/ordered" 2 nonce-2 2 12
ends 0 attempt ordered 2 2
order_applied=$'\x2a\x04\x08\x66\x10' # field 5 of a notice, 4 bytes long: order 102, of the kind that follows
LC_ALL=C grep -qaF "$order_applied" "$work/ordered/attempt-2/rank-0.spool" || fail "order 102 is forgotten"
! LC_ALL=C grep -qaF $'\x08\x65\x10' "$work/ordered/attempt-2/rank-0.spool" || fail "order 101 is told though it is known"

run again
"$write_plan" "$work/again" 1 nonce-1 2 12 23
attempt again 1 2 </dev/null >"$work/log" 2>&1 &
launcher=$!
until [ -e "$work/again/checkpoints/step-0000000010" ]; do sleep 0.02; done
hit KILL "$work/again"
wait "$launcher" && fail "a killed rank went unnoticed"
[ ! -e "$work/again/checkpoints/step-0000000040" ] || fail "it was killed too late to prove anything"
"$write_plan" "$work/again" 2 nonce-2 4 12 23
ends 0 attempt again 2 4
grep -q "resumes at step [123]0" "$work/again/attempt-2/rank-0.log" || fail "it did not resume"
[ "$(weights again)" = "$ordered" ] || fail "a killed run met its orders elsewhere"

# ---- a checkpoint that is set aside is passed over, and replaced when its step comes again
before=$(stat -c %i "$work/again/checkpoints/step-0000000040")
SET_ASIDE=40 "$write_plan" "$work/again" 3 nonce-3 2 12 23
ends 0 attempt again 3 2
grep -q "resumes at step 30" "$work/again/attempt-3/rank-0.log" || fail "it did not take the checkpoint before"
[ "$(stat -c %i "$work/again/checkpoints/step-0000000040")" != "$before" ] || fail "it was not saved again"
[ "$(weights again)" = "$ordered" ] || fail "other weights from the checkpoint before"

# ---- one rank is asked to stop: both save and end at the same step
run stopped
"$write_plan" "$work/stopped" 1 nonce-1 2
sed -i 's/^steps = 40/steps = 100000/' "$work/stopped/resolved.toml"
attempt stopped 1 2 </dev/null >"$work/log" 2>&1 &
launcher=$!
until [ -e "$work/stopped/checkpoints/step-0000000010" ]; do sleep 0.02; done
hit TERM "$work/stopped"
wait "$launcher" || fail "a stop is no failure"
step=$(end_of stopped/attempt-1 0 .step)
[ "$(end_of stopped/attempt-1 1 '[.status, .stopped, .step] | join(" ")')" = "ok true $step" ] || fail "not stopped alike"
[ -e "$work/stopped/checkpoints/$(printf 'step-%010d' "$step")/MANIFEST" ] || fail "stopped without a checkpoint"

# ---- a newer attempt has taken over: nothing of this one appears
run fenced
"$write_plan" "$work/fenced" 1 nonce-1 2
echo -n nonce-2 >"$work/fenced/fence"
code=0
attempt fenced 1 2 </dev/null >"$work/log" 2>&1 || code=$?
[ "$code" -ne 0 ] || fail "an old attempt was content"
# The save after step 10 meets the fence; that is known at a later edge, at the next save's at the latest.
[ "$(end_of fenced/attempt-1 0 '.status == "fenced" and .step >= 10 and .step <= 20')" = true ] || fail "not fenced"
[ -z "$(ls -A "$work/fenced/checkpoints" 2>/dev/null)" ] || fail "an old attempt saved a checkpoint"

# ---- faults are in each rank's end
run ranks
"$write_plan" "$work/ranks" 1 nonce-1 4
ends 65 attempt ranks 1 2
[[ "$(end_of ranks/attempt-1 0 .text)" == *"the plan is for 4 ranks, but 2 were started"* ]] || fail "no word of the ranks"

run diverged
"$write_plan" "$work/diverged" 1 nonce-1 2
printf '[optimizer]\nlr = 1000\n' >>"$work/diverged/resolved.toml"
sed -i 's/^steps = 40/&\non_divergence = "back"/' "$work/diverged/resolved.toml"
ends 105 attempt diverged 1 2
for rank in 0 1; do
    [ "$(end_of diverged/attempt-1 $rank '[.status, .goes_back, .rewind_step] | join(" ")')" = "diverged true 0" ] ||
        fail "rank $rank does not know that the run diverged: $(cat "$work/diverged/attempt-1/rank-$rank.end.json")"
done

# ---- going back: other features from there on, whatever is behind it, and the same bits from any checkpoint before it
run rewound
sed -i 's/^every = 10/&\nkeep = 4/' "$work/rewound/resolved.toml"
"$write_plan" "$work/rewound" 1 nonce-1 2 12
ends 0 attempt rewound 1 2
REWIND="20 50" "$write_plan" "$work/rewound" 2 nonce-2 4 12
ends 0 attempt rewound 2 4
grep -q "resumes at step 20" "$work/rewound/attempt-2/rank-0.log" || fail "it did not go back"
grep -q "draw 50 after step 20, rewind 1" "$work/rewound/attempt-2/rank-0.log" || fail "no word of the features"
rewound=$(weights rewound)
state=$work/rewound/checkpoints/step-0000000040/state.json
[ "$(jq -c '[.draw, .rewind, (.applied | length)]' "$state")" = "[53,1,1]" ] || fail "$(cat "$state")"
[ "$rewound" != "$expected" ] || fail "going back changed nothing"
cp -r "$work/rewound/checkpoints/step-0000000010" "$work/ten"
for first in 0 10; do
    run "from-$first"
    mkdir "$work/from-$first/checkpoints"
    [ $first -eq 0 ] || cp -r "$work/ten" "$work/from-$first/checkpoints/step-0000000010"
    REWIND="20 50" "$write_plan" "$work/from-$first" 1 nonce-1 1 12
    ends 0 attempt "from-$first" 1 1
    [ "$(weights "from-$first")" = "$rewound" ] || fail "other bits of a run that goes back from step $first"
done

odd=$'r\xe9gime' # no UTF-8, which a file's name need not be
run "$odd"
"$write_plan" "$work/$odd" 1 nonce-1 1
sed -i 's|^train = .*|train = "nowhere.txt"|' "$work/$odd/resolved.toml"
ends 66 attempt "$odd" 1 1
[[ "$(end_of "$odd/attempt-1" 0 .text)" == *"r?gime/nowhere.txt"* ]] || fail "no end of a run with an odd name"

run unstartable
"$write_plan" "$work/unstartable" 1 nonce-1 2
mkdir "$work/unstartable/attempt-1/rank-1.log"
code=0
attempt unstartable 1 2 </dev/null >"$work/log" 2>&1 || code=$?
[ "$code" -ne 0 ] || fail "a rank without a log was content"
[[ "$(end_of unstartable/attempt-1 1 .text)" == *"could not open the log"* ]] || fail "no word of the log"

# ---- no daemon and no room for what is left to tell: such a run has not ended well
run wordless
"$write_plan" "$work/wordless" 1 nonce-1 2
mkdir "$work/wordless/attempt-1/rank-1.spool"
code=0
attempt wordless 1 2 </dev/null >"$work/log" 2>&1 || code=$?
[ "$code" -ne 0 ] || fail "a rank whose words are lost was content"
[ "$(end_of wordless/attempt-1 0 .status)" = ok ] || fail "rank 0 has lost nothing"
[[ "$(end_of wordless/attempt-1 1 '[.step, .text] | join(" ")')" == "40 "*"does not take"* ]] || fail "no word of the spool"

ends 66 "$worker" --plan "$work/nowhere/plan"
echo -n nonsense >"$work/plan"
ends 87 "$worker" --plan "$work/plan"
grep -q "is no plan of an attempt" "$work/rank-0.log" || fail "no word of the plan"
