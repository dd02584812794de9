#!/usr/bin/env bash
# Bad input and bad luck: each a clear error, and nothing lost.
. "$(dirname "$0")/harness.sh"

proteins 300 "$work/proteins.fasta"
cat >"$work/job.toml" <<'TOML'
[job]
name = "failures"
[resources]
ranks = 2
threads = 1
[data]
format = "fasta"
train = "proteins.fasta"
length = 128
[model]
layers = 2
heads = 2
width = 96
mlp = 192
[attention]
features = 32
[train]
steps = 30
batch = 8
micro_batch = 2
[checkpoint]
every = 10
TOML

# expect STATUS COMMAND...: its output is in $work/out and $work/err
expect() {
    local wanted=$1 status=0
    shift
    "$@" >"$work/out" 2>"$work/err" || status=$?
    [ $status -eq "$wanted" ] || fail "$* gave $status, not $wanted: $(cat "$work/err")"
}

says() { grep -q -- "$1" "$work/err" || fail "no word of '$1' in: $(cat "$work/err")"; }

note "no daemon"
expect 5 ctl list
says performerd

daemon_start --max-ranks 4

# It ends while others do.
hopeless=$(ctl submit "$work/job.toml" --parsable --set train.on_divergence=back --set optimizer.lr=1000)

note "five mistakes, five diagnostics"
cat >"$work/bad.toml" <<'TOML'
[job]
name = "no spaces allowed"
[data]
format = "fasta"
train = "proteins.fasta"
length = "long"
[model]
layres = 2
layers = 2
heads = 5
width = 96
mlp = 192
[attention]
kind = "reformer"
buckets = 7
TOML
expect 3 ctl validate "$work/bad.toml"
[ "$(grep -c '^error' "$work/err")" -eq 5 ] || fail "not five diagnostics: $(cat "$work/err")"
says 'did you mean `layers`'
expect 3 ctl validate "$work/bad.toml" --json
[ "$(jq '.diagnostics | length' "$work/out")" -eq 5 ] || fail "not five as JSON: $(cat "$work/out")"
expect 3 ctl submit "$work/bad.toml"

note "a missing job file, run and verb"
expect 3 ctl submit "$work/none.toml"
says "$work/none.toml"
expect 4 ctl describe r99
expect 2 ctl sumbit "$work/job.toml"
says submit

note "more ranks than the daemon runs at once"
expect 7 ctl submit "$work/job.toml" --set resources.ranks=8 --set train.batch=16
says max-ranks

note "missing data"
run=$(ctl submit "$work/job.toml" --parsable --set "data.train=\"$work/none.fasta\"")
expect 1 ctl wait "$run" --timeout 60
ctl describe "$run" >"$work/err"
says "$work/none.fasta"
[ "$(field "$run" '.attempts | length')" -eq 1 ] || fail "missing data were tried again"

note "a letter that is no residue"
{ cat "$work/proteins.fasta"; printf '>bad\nMKV7LL\n'; } >"$work/letter.fasta"
run=$(ctl submit "$work/job.toml" --parsable --set "data.train=\"$work/letter.fasta\"")
expect 1 ctl wait "$run" --timeout 60
ctl describe "$run" >"$work/err"
says "letter.fasta:$(wc -l <"$work/letter.fasta")"

note "a second daemon on the same state"
expect 1 "$bin/performerd" --foreground --state "$state" --listen "ipc://$work/second"
says "$daemon_pid"

note "a rank that dies whenever it is started"
run=$(ctl submit "$work/job.toml" --parsable --set restart.max=1 --set "model.init=\"/dev/null\"")
expect 1 ctl wait "$run" --timeout 60
ctl describe "$run" >"$work/err"
says /dev/null

note "a run that diverges again however often it goes back"
expect 1 ctl wait "$hopeless" --timeout 60
[ "$(field "$hopeless" '.attempts | map(.cause) | join(" ")')" = "DIVERGED DIVERGED DIVERGED DIVERGED" ] ||
    fail "$(ctl describe "$hopeless")"
ctl describe "$hopeless" >"$work/err"
says "all 3 restarts after a divergence are used up"
ctl events "$hopeless" >"$work/err"
for draw in 1 2 3; do says "goes back to step 0 and draws features number $draw"; done
daemon_stop

note "no mpirun"
tools=$(mktemp -d "$work/bin.XXXX")
for tool in performerd performer-launch performer-worker; do ln -s "$bin/$tool" "$tools/"; done
: >"$work/ready"
(
    export PATH=$tools
    exec "$bin/performerd" --foreground --state "$state" --listen "$PERFORMERD_URL"
) >"$work/ready" 2>>"$work/daemon.log" &
daemon_pid=$!
until grep -q ready "$work/ready"; do sleep 0.1; done
run=$(ctl submit "$work/job.toml" --parsable --set restart.max=0)
expect 1 ctl wait "$run" --timeout 60
ctl describe "$run" >"$work/err"
says mpirun
daemon_stop

note "the disk is full during a checkpoint"
if [ "$(id -u)" -eq 0 ] && mkdir "$work/small" && mount -t tmpfs -o size=3m tmpfs "$work/small" 2>/dev/null; then
    unmount() { umount -l "$work/small"; cleanup; }
    trap unmount EXIT
    daemon_start --runs "$work/small"
    run=$(ctl submit "$work/job.toml" --parsable --set train.steps=35 --set restart.max=0)
    expect 1 ctl wait "$run" --timeout 60
    [ "$(ctl events "$run" --json | jq -s 'flatten | map(select(.kind == "checkpoint-failed")) | length')" -ge 1 ] ||
        fail "no word of the failed checkpoint"
    [ "$(field "$run" .step)" -eq 35 ] || fail "training stopped at $(field "$run" .step)"
    good=$(ctl checkpoints "$run" --json | jq -r 'map(select(.verdict == "good")) | max_by(.step).path')
    [ -s "$good/MANIFEST" ] || fail "the checkpoint before the full disk is gone"
    [ -z "$(find "$work/small" -name '.step-*')" ] || fail "leftovers of the failed save"
    daemon_stop
else
    note "skipped: mounting a small file system needs root"
fi
note "passed"
