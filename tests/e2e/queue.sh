#!/usr/bin/env bash
# Runs that wait, are paused, resumed and requeued: in which order they begin, and that none of it changes a bit.
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
steps = 40
batch = 16
micro_batch = 4
[checkpoint]
every = 1000
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
expected=$(weights "$plain" 40)

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
ctl resume "$run" | grep >/dev/null 'or runs' || fail "resume of what runs"
ctl requeue "$run"
ctl wait "$run" --timeout 120 || fail "requeued: $(field "$run" .state), $(reason "$run")"
[ "$(field "$run" '.attempts | length')" -eq 3 ] || fail "$(field "$run" '.attempts | length') attempts"
[ "$(weights "$run" 40)" = "$expected" ] || fail "paused, resumed, requeued: other weights"
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
[ "$(weights "$run" 40)" = "$expected" ] || fail "cancelled, killed, requeued: other weights"

note "passed"
