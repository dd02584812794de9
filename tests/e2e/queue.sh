#!/usr/bin/env bash
# Runs that wait, are paused, resumed, requeued and forked: in which order they begin, and that none of it changes a bit.
. "$(dirname "$0")/harness.sh"

proteins 400 "$work/proteins.fasta"
cat >"$work/job.toml" <<'TOML'
[job]
name = "queue"
seed = 3
[resources]
ranks = 2
threads = 1
[data]
format = "fasta"
train = "proteins.fasta"
length = 192
[model]
layers = 2
heads = 2
width = 96
mlp = 192
[attention]
features = 48
[redraw]
every = 9
[train]
steps = 120
batch = 16
micro_batch = 4
[checkpoint]
every = 40
TOML

# refused CODE WORDS VERB...: the verb ends with that code and those words
refused() {
    local status=0 code=$1 words=$2
    shift 2
    ctl "$@" 2>"$work/refused" || status=$?
    [ $status -eq "$code" ] || fail "$* gave $status, not $code"
    grep -q -- "$words" "$work/refused" || fail "$*: no word of $words in: $(cat "$work/refused")"
}

reason() { field "$1" .reason; }

daemon_start --max-ranks 2

note "a plain run, and who waits for what"
plain=$(ctl submit "$work/job.toml" --parsable)
reach_step "$plain" 1
late=$(ctl submit "$work/job.toml" --parsable --set train.steps=2)
first=$(ctl submit "$work/job.toml" --parsable --set train.steps=2 --set queue.priority=3)
then=$(ctl submit "$work/job.toml" --parsable --set train.steps=2 --set queue.priority=9 --set "queue.after=[\"$late\"]")
[ "$(reason "$first")" = "waits for 2 ranks: 2 of 2 are in use" ] || fail "reason: $(reason "$first")"
[ "$(reason "$late")" = "waits behind $first" ] || fail "reason: $(reason "$late")"
[ "$(reason "$then")" = "after $late, which is QUEUED" ] || fail "reason: $(reason "$then")"
ctl list | grep >/dev/null "after $late, which is QUEUED" || fail "list gives no reason"
refused 4 'there is no run `r99`' submit "$work/job.toml" --set 'queue.after=["r99"]'
refused 7 'max-ranks 4' submit "$work/job.toml" --set resources.ranks=4
ctl wait "$then" --timeout 120 || fail "$then: $(field "$then" .state), $(reason "$then")"
order=$(for run in "$plain" "$first" "$late" "$then"; do field "$run" .started_ms; done)
[ "$order" = "$(sort -n <<<"$order")" ] || fail "begun in another order: $order"
expected=$(weights "$plain" 120)

note "pause, a daemon that is killed, resume, requeue: the same bits"
run=$(ctl submit "$work/job.toml" --parsable)
reach_step "$run" 5
ctl pause "$run" | grep >/dev/null 'order [0-9]*: the ranks save a checkpoint' || fail "pause says nothing"
ctl pause "$run" >/dev/null
reach_state "$run" PAUSED
step=$(field "$run" .step)
[ "$(field "$run" '.checkpoints[-1].step')" -eq "$step" ] || fail "paused at step $step without a checkpoint"
[ "$(field "$run" '.attempts[-1].cause')" = PAUSED ] || fail "paused, but $(field "$run" '.attempts[-1].cause')"
! pgrep -f "performer-worker --plan $(field "$run" .directory)/" >/dev/null || fail "a paused run has ranks"
other=$(ctl submit "$work/job.toml" --parsable --set train.steps=2)
ctl wait "$other" --timeout 60 || fail "a paused run holds its ranks"
daemon_kill
daemon_start --max-ranks 2
[ "$(field "$run" .state)" = PAUSED ] || fail "paused, and after a restart $(field "$run" .state)"
ctl resume "$run"
reach_step "$run" $((step + 3))
ctl drill "$run" --json --timeout 60 >"$work/drill" || fail "drill: $(cat "$work/drill")"
jq -e '.attempt == 2 and .save_ms > 0 and .save_ms <= .exit_ms and .fits == (.exit_ms <= .grace_ms)' \
    "$work/drill" >/dev/null || fail "drill: $(cat "$work/drill")"
[ "$(field "$run" '.budgets | map(.spent) | add')" -eq 0 ] || fail "a drill used a budget: $(ctl describe "$run")"
ctl resume "$run" | grep >/dev/null 'or runs' || fail "resume of what runs"
ctl requeue "$run"
ctl wait "$run" --timeout 120 || fail "requeued: $(field "$run" .state), $(reason "$run")"
[ "$(field "$run" '.attempts | length')" -eq 4 ] || fail "$(field "$run" '.attempts | length') attempts"
[ "$(weights "$run" 120)" = "$expected" ] || fail "paused, resumed, drilled, requeued: other weights"
refused 7 SUCCEEDED requeue "$run"
refused 7 SUCCEEDED pause "$run"

note "what was cancelled or killed is requeued"
run=$(ctl submit "$work/job.toml" --parsable)
reach_step "$run" 5
ctl cancel "$run"
reach_state "$run" CANCELLED
refused 7 requeue resume "$run"
ctl requeue "$run"
reach_step "$run" "$(($(field "$run" '.checkpoints[-1].step') + 3))"
ctl kill "$run"
reach_state "$run" CANCELLED
ctl requeue "$run"
ctl wait "$run" --timeout 120 || fail "requeued: $(field "$run" .state), $(reason "$run")"
[ "$(weights "$run" 120)" = "$expected" ] || fail "cancelled, killed, requeued: other weights"

note "a fork goes on from another run's checkpoint, its orders included, and needs that run no more"
run=$(ctl submit "$work/job.toml" --parsable)
reach_step "$run" 2
ctl redraw "$run" >/dev/null
ctl wait "$run" --timeout 120 || fail "$run: $(field "$run" .state)"
step=$(field "$run" '[.orders[] | select(.state == "applied" and .step < 80).step][0] // 0')
[ "$step" -gt 0 ] || fail "no order before step 80"
# Where it meets a planned redraw, it is that one.
[ $((step % 9)) -eq 0 ] || [ "$(weights "$run" 120)" != "$expected" ] || fail "the ordered redraw changed nothing"
busy=$(ctl submit "$work/job.toml" --parsable --set train.steps=1000)
reach_state "$busy" RUNNING
fork=$(ctl fork "$run" --step 80 --parsable)
rm -rf "$(field "$run" .directory)/checkpoints/step-0000000080"
other=$(ctl fork "$run" --parsable --set train.steps=124 --set optimizer.lr=1e-5 --set job.name=other)
ctl kill "$busy" >/dev/null
ctl wait "$fork" --timeout 120 || fail "$fork: $(field "$fork" .state), $(reason "$fork")"
[ "$(weights "$fork" 120)" = "$(weights "$run" 120)" ] || fail "a fork that changes nothing has other weights"
[ "$(field "$fork" '[.name, .forked_from, .forked_step, .attempts[0].resumed_step] | join(" ")')" = "queue-fork $run 80 80" ] ||
    fail "the fork is $(field "$fork" '[.name, .forked_from, .forked_step, .attempts[0].resumed_step]')"
[ "$(ctl metrics "$fork" --name loss --json | jq -s 'map(.step) | [min, max] | join(" ")' -r)" = "81 120" ] || fail "metrics of other steps"
! ctl events "$fork" | grep disagreed || fail "an order of the source is none of the fork's"
ctl wait "$other" --timeout 120 || fail "$other: $(field "$other" .state), $(reason "$other")"
[ "$(field "$other" '[.name, .attempts[0].resumed_step, .step] | join(" ")')" = "other 120 124" ] || fail "not from the newest checkpoint"
refused 3 'cannot change `width` in \[model\], which is 96, to 64' fork "$run" --set model.width=64
refused 3 'steps' fork "$run" --set train.steps=120
refused 3 'did you mean' fork "$run" --set model.widht=64
refused 7 'no good checkpoint of step 7' fork "$run" --step 7
refused 7 'not there' fork "$run" --step 80
refused 4 r99 fork r99

note "passed"
