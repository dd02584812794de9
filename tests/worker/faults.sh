#!/usr/bin/env bash
# What performer-worker says and does when something is wrong. Usage: faults.sh WORKER
worker=$1
. "$(dirname "$0")/worker_trials.sh"

# ---- the command line and the job file
ends 0 "$worker" --help
says "--job FILE"
ends 0 "$worker" --version
ends 2 "$worker"
says "--job and --output are needed"
ends 2 "$worker" --job a --output b --plan c
ends 2 "$worker" --job a --output b c
says "unexpected argument: c"
ends 2 "$worker" --job a --output b --backend abacus
says "--backend abacus: there is no such backend"
ends 2 "$worker" --layers 3
ends 66 "$worker" --job "$work/nowhere.toml" --output "$work/x"
says "$work/nowhere.toml"
ends 65 alone x --set model.layres=3 --set train.batch=7
says 'layres'
says '2 mistakes'
ends 66 alone x --set 'data.train="nowhere.txt"'
says "nowhere.txt"
ends 70 alone x --set 'resources.device="cuda"'
says 'resources.device = "cuda" on this machine: this build is CPU-only'
ends 65 "${mpirun[@]}" -np 3 "$worker" --job "$work/job.toml" --output "$work/x"
says "3 ranks do not divide"
[ ! -e "$work/x/checkpoints" ] || fail "a run that could not begin left checkpoints"

# ---- validation that has nothing to predict is no surprise after the first steps
printf 'a\n' >"$work/tiny.txt"
tiny=(--set model.causal=false --set 'data.packing="pad"' --set evaluate.every=20 --set "data.valid=\"$work/tiny.txt\"")
ends 104 alone x "${tiny[@]}"
says "validation rows hold no token to predict"
! grep -q training-started "$work/log" || fail "it was found late"
ends 0 alone masked "${tiny[@]}" --set "data.valid=\"$work/text.txt\"" --set evaluate.batches=1

# ---- two runs in one directory
alone shared --set train.steps=100000 </dev/null >"$work/holder.log" 2>&1 &
holder=$!
until grep -q '"step":3' "$work/shared/metrics.jsonl" 2>/dev/null; do sleep 0.05; done
ends 88 alone shared
says "another process trains into $work/shared/metrics.jsonl"
# No handler may run on a thread that computes: all that is caught is a thread's own mistakes (4 to 8, 11), and what libc needs (32, 33).
caught=0x$(awk '$1 == "SigCgt:" { print $2 }' "/proc/$(pgrep -n -f "^$worker .*$work/shared")/status")
[ $((caught & ~0x1800004f8)) -eq 0 ] || fail "the worker handles signals: $caught"
hit TERM "$work/shared"
wait "$holder" || fail "the first of two runs was disturbed: exit $?, $(tail -n 5 "$work/holder.log")"
ends 0 alone shared --set train.steps=1

# ---- a run that diverges: every rank says so, and no weights of it are kept
ends 105 "${mpirun[@]}" -np 2 "$worker" --job "$work/job.toml" --output "$work/diverged" \
    --set optimizer.lr=1000 --set checkpoint.every=100
says "training diverged at step"
[ ! -e "$work/diverged/checkpoints/step-0000000040" ] || fail "diverged, and saved"

# ---- a full disk: a checkpoint on the way may fail, the last one may not, and what was there stays
ends 0 alone donor
expected=$(weights donor)
ends 0 alone disk --set train.steps=10
limited() { (
    ulimit -f 64
    "$@"
); }
ends 86 limited alone disk
says "checkpoint-failed"
says "step 20"
says "the last checkpoint"
[ "$(ls -A "$work/disk/checkpoints")" = step-0000000010 ] || fail "left: $(ls -A "$work/disk/checkpoints")"
ends 0 alone disk
says "resumes at step 10"
[ "$(weights disk)" = "$expected" ] || fail "other weights after the full disk"

# ---- a small disk: what retention would remove after a save goes before it, else the save is left out, and training goes on
small() { # TENTHS: a file system that holds so many tenths of a checkpoint
    mkdir -p "$work/small"
    ! mountpoint -q "$work/small" || umount "$work/small"
    mount -t tmpfs -o "size=$(($1 * $(du -sk "$work/donor/checkpoints/step-0000000040" | cut -f1) / 10))k" tmpfs "$work/small"
}
if [ "$(id -u)" -eq 0 ] && small 35 2>"$work/log"; then
    trap 'umount "$work/small"; rm -rf "$work"' EXIT
    ends 0 alone small --set checkpoint.every=5 --set checkpoint.keep=3
    [ "$(ls "$work/small/checkpoints" | wc -l)" -eq 3 ] || fail "kept $(ls "$work/small/checkpoints")"
    [ "$(weights small)" = "$expected" ] || fail "other weights on a small disk"
    small 15
    ends 86 alone small --set checkpoint.keep=3
    says "no checkpoint of step 20: a checkpoint takes"
    says "make room there, or lower checkpoint.keep"
    [ "$(ls -A "$work/small/checkpoints")" = step-0000000010 ] || fail "left: $(ls -A "$work/small/checkpoints")"
else
    echo "skipped: mounting a small file system needs root"
fi

# ---- a spoiled checkpoint is passed over; one of another job is refused
cp -r "$work/donor" "$work/spoiled"
printf 'x' | dd of="$work/spoiled/checkpoints/step-0000000040/model.safetensors" bs=1 seek=20000 conv=notrunc status=none
ends 0 alone spoiled
says "passed over $work/spoiled/checkpoints/step-0000000040"
says "resumes at step 30"
[ "$(weights spoiled)" = "$expected" ] || fail "other weights after a spoiled checkpoint"
ends 65 alone donor --set job.seed=8
says "job.seed = 7"
ends 65 alone donor --set model.width=64
says "resume from $work/donor"
ends 65 alone donor --set model.layers=1
says 'tensor `layers.1.'
ends 65 alone donor --set 'model.positions="none"'
says 'tensor `pos_embed.weight`'

# ---- what may change between attempts is as the job says now
cp -r "$work/donor" "$work/longer"
ends 0 alone longer --set train.steps=41 --set redraw.every=9
grep -q '"redraw_every": 9' "$work/longer/checkpoints/step-0000000041/state.json" || fail "state.json has the old schedule"

# ---- training data that change: what is left of a file that was cut is not trained on, and the file brought back is
head -c $((65 * 2000)) "$work/text.txt" | iconv -f ASCII -t UTF-16LE >"$work/whole.bin" # tokens that are letters
tokens=(--set 'data.format="tokens"' --set data.vocab=128 --set "data.train=\"$work/rows.bin\"")
changed() { # ROWS: that there are now; both ranks say so
    ends 104 "${mpirun[@]}" -np 2 "$worker" --job "$work/job.toml" --output "$work/cut" "${tokens[@]}"
    says "training data have changed: $1 rows"
    says "the checkpoint of step 20 has seen 2000"
    says "bring back $work/rows.bin and [data] as they were, or fork the run"
    [ ! -e "$work/cut/checkpoints/step-0000000030" ] || fail "trained on all the same"
}
cp "$work/whole.bin" "$work/rows.bin"
ends 0 alone uncut "${tokens[@]}"
ends 0 alone cut "${tokens[@]}" --set train.steps=20
tr 1 2 <"$work/whole.bin" >"$work/rows.bin"
changed 2000
truncate -s $((130 * 500)) "$work/rows.bin"
changed 500
ends 0 alone heir "${tokens[@]}" --set "model.init=\"$work/cut/checkpoints/step-0000000020/model.safetensors\""
cp "$work/whole.bin" "$work/rows.bin"
ends 0 alone cut "${tokens[@]}"
says "resumes at step 20"
[ "$(weights cut)" = "$(weights uncut)" ] || fail "other weights once the file is back"

# ---- a file that is cut while it is read ends its run by SIGBUS, and in words
alone torn "${tokens[@]}" --set train.steps=100000 </dev/null >"$work/log" 2>&1 &
launcher=$!
until grep -q '"step":3' "$work/torn/metrics.jsonl" 2>/dev/null; do sleep 0.05; done
truncate -s $((130 * 500)) "$work/rows.bin"
code=0
wait "$launcher" || code=$?
[ "$code" -eq $((128 + $(kill -l BUS))) ] || fail "exit $code, not that of SIGBUS"
says "bus-error: a mapped file was cut short"

# ---- ranks that do not see the same files are no replicas, and all say so
sed 's/squared/cubed/' "$work/text.txt" >"$work/other.txt"
ends 0 alone other --set optimizer.lr=1e-4
two() { # OPTION...: of the second rank
    "${mpirun[@]}" -np 1 "$worker" --job "$work/job.toml" --output "$work/two" : \
        -np 1 "$worker" --job "$work/job.toml" --output "$work/two" "$@"
}
ends 65 two --set "data.train=\"$work/other.txt\""
says "rank 1 has other data than rank 0"
ends 65 two --set "model.init=\"$work/other/checkpoints/step-0000000040/model.safetensors\""
says "rank 1 has other weights to begin with than rank 0"
rm -rf "$work/two"
cp -r "$work/donor" "$work/two"
ends 65 two --output "$work/other"
says "rank 1 has other weights to begin with than rank 0"
ends 66 two --output "$work/nowhere"
says "open the checkpoint that rank 0 resumes from"

# ---- a rank that dies ends them all
"${mpirun[@]}" -np 2 "$worker" --job "$work/job.toml" --output "$work/dead" --set train.steps=100000 \
    </dev/null >"$work/log" 2>&1 &
launcher=$!
until grep -q '"step":3' "$work/dead/metrics.jsonl" 2>/dev/null; do sleep 0.05; done
hit KILL "$work/dead"
wait "$launcher" && fail "mpirun was content"
! pgrep -f "^$worker .*$work/dead" >/dev/null || fail "a rank lives on"
