#!/usr/bin/env bash
# GPUs of a cluster: Slurm gives each rank one, ranks of two nodes meet by the daemon, over TLS and with their token, and sum
# over NCCL; one of them is killed. The devices are those that tests/cudashim makes of a CPU.
# Usage: gpus.sh BIN_DIRECTORY DATA_DIRECTORY WORKER, the worker with those devices.
. "$(dirname "$0")/../e2e/harness.sh"

# The daemon starts what stands beside it.
mkdir "$work/bin"
cp "$bin/performerd" "$bin/performer-launch" "$bin/performerctl" "$work/bin"
cp "$3" "$work/bin/performer-worker"
bin=$work/bin
. "$(dirname "$0")/cluster.sh"
. "$(dirname "$0")/job.sh"

submit_gpus() {
    submit --set 'resources.device="cuda"' --set resources.slurm.nodes=2 --set resources.slurm.gpus_per_rank=1 \
        --set data.length=16 --set train.batch=4 --set train.micro_batch=1 --set train.steps=16 --set checkpoint.every=4 "$@"
}

# device RUN: of its last rank, as Slurm shows it
device() { tr '\0' '\n' <"/proc/$(field "$1" '.workers[-1].pid')/environ" | sed -n 's/^CUDA_VISIBLE_DEVICES=//p'; }

undisturbed=$(submit_gpus)
run=$(submit_gpus)
reach_step "$run" 6
reach_step "$undisturbed" 1
[ "$(device "$undisturbed") $(device "$run")" = "0 1" ] || [ "$(device "$undisturbed") $(device "$run")" = "1 0" ] ||
    fail "Slurm shows device '$(device "$undisturbed")' to one run and '$(device "$run")' to the other"
kill -9 "$(field "$run" '.workers[-1].pid')"
succeed "$undisturbed"
succeed "$run"

[ "$(field "$run" '[.attempts[].cause] | join(" ")')" = "CRASH FINISHED" ] || fail "$(field "$run" .attempts)"
[ "$(field "$run" .attempts[0].first_rank)" -eq 1 ] || fail "$(field "$run" .attempts[0])"
[ "$(field "$run" .attempts[0].signal)" -eq 9 ] || fail "$(field "$run" .attempts[0])"
[ "$(field "$run" .attempts[1].resumed_step)" -ge 4 ] || fail "the second attempt began anew"
[ "$(weights "$run" 16)" = "$(weights "$undisturbed" 16)" ] || fail "other weights than those of a run that met nothing"
for attempt in 1 2; do
    grep -q "^PERFORMERD_URL=$network$" "$runs/$run/attempt-$attempt/environment" || fail "its ranks came another way"
    grep -q 'cuda (cudashim, .*NCCL 2.*ranks 2' "$runs/$run/attempt-$attempt/rank-0.log" || fail "no word of what sums"
done
[ "$(jobs_of "$run" NodeList | sort -u)" = "n[1-2]" ] || fail "not on two nodes: $(squeue --states=all)"
