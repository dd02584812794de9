#!/usr/bin/env bash
# Attempts as jobs of a real Slurm: the same bits as without it, ends from inside and outside, and a daemon that comes and
# goes meanwhile.
. "$(dirname "$0")/../e2e/harness.sh"
. "$(dirname "$0")/cluster.sh"
. "$(dirname "$0")/job.sh"

[[ $(ctl doctor) == *"ok    slurm     answers; jobs of yours: 0"* ]] || fail "doctor does not see Slurm: $(ctl doctor)"

note "two ranks on two nodes train what two ranks here do"
run=$(submit --set resources.slurm.nodes=2)
here=$(submit --set resources.launcher=local)
succeed "$run"
succeed "$here"
[ "$(weights "$run" 40)" = "$(weights "$here" 40)" ] || fail "other weights under Slurm"
[ "$(jobs_of "$run" NodeList)" = "n[1-2]" ] || fail "not on two nodes: $(squeue --states=all)"

note "mpirun in the allocation, where Slurm has no PMIx"
daemon_stop
daemon_begin no-pmix
run=$(submit --set resources.slurm.nodes=2)
succeed "$run"
[ "$(weights "$run" 40)" = "$(weights "$here" 40)" ] || fail "other weights under mpirun"
daemon_stop
daemon_begin

note "a daemon that was killed finds its job again"
run=$(submit_long)
reach_step "$run" 20
daemon_kill
daemon_begin
await_event "$run" attempt-adopted
ctl cancel "$run"
reach_state "$run" CANCELLED
[ "$(jobs_of "$run" State)" = COMPLETED ] || fail "not one job that stopped by itself: $(jobs_of "$run" State)"

note "an answer of sbatch that was lost, with the daemon: the job is found by its name"
daemon_stop
daemon_begin deadly-sbatch
run=$(submit)
wait "$daemon_pid" || daemon_pid=""
daemon_begin
succeed "$run"
[ "$(jobs_of "$run" State)" = COMPLETED ] || fail "not one job: $(jobs_of "$run" State)"

note "an answer of sbatch that was lost alone"
daemon_stop
daemon_begin silent-sbatch
run=$(submit)
succeed "$run"
[ "$(jobs_of "$run" State)" = COMPLETED ] || fail "not one job: $(jobs_of "$run" State)"
daemon_stop
daemon_begin

note "a job that sbatch refuses"
run=$(submit --set resources.slurm.partition=nowhere --set restart.max=0)
ended "$run" FAILED
field "$run" .reason | grep -q 'invalid partition specified: nowhere' || fail "$(field "$run" .reason)"

note "a wait in Slurm's queue is told, and a cancel ends it"
run=$(submit --set 'resources.slurm.extra=["--hold"]')
await 100 waits "$run" || fail "$(field "$run" .reason)"
ctl cancel "$run"
ended "$run" CANCELLED
[ "$(jobs_of "$run" State)" = CANCELLED ] || fail "it is still in the queue"

note "a kill ends the job"
run=$(submit_long)
reach_step "$run" 1
ctl kill "$run"
ended "$run" CANCELLED
[ "$(cause "$run" 0)" = KILLED ] || fail "$(cause "$run" 0)"

note "scancel by somebody else: saved, and cancelled"
run=$(submit_long)
reach_step "$run" 20
scancel --name="$(jobs_of "$run" Name)"
ended "$run" CANCELLED
[ "$(cause "$run" 0)" = JOB_CANCELLED ] || fail "$(cause "$run" 0)"
field "$run" .reason | grep -q 'after a checkpoint' || fail "$(field "$run" .reason)"

note "the signal before the time limit: saved, and another attempt with the same bits in the end"
run=$(submit --set train.steps=1500 --set checkpoint.every=10000)
here=$(submit --set train.steps=1500 --set checkpoint.every=10000 --set resources.launcher=local)
reach_step "$run" 5
scancel --batch --signal=USR2 --name="$(jobs_of "$run" Name)"
succeed "$run"
succeed "$here"
[ "$(cause "$run" 0)" = TIME_LIMIT ] || fail "$(cause "$run" 0)"
[ "$(weights "$run" 1500)" = "$(weights "$here" 1500)" ] || fail "other weights after a stop"

note "a job that Slurm puts into its queue again ends its attempt, and another one follows"
run=$(submit_long)
reach_step "$run" 20
job=$(jobs_of "$run" JobID)
scontrol requeue "$job" 2>"$work/err" && fail "the job is to be requeued by nobody"
scontrol update jobid="$job" requeue=1
scontrol requeue "$job"
await_event "$run" run-restarting
[ "$(cause "$run" 0)" = PREEMPTED ] || fail "$(cause "$run" 0)"
reach_state "$run" RUNNING
ctl cancel "$run"
ended "$run" CANCELLED
[ "$(jobs_of "$run" State | sort | xargs)" = "CANCELLED COMPLETED" ] || fail "$(jobs_of "$run" State)"
