# Sourced by the end-to-end tests: a daemon of their own in a directory of their own, real ranks, real data.
# The sourcing script is called with BIN_DIRECTORY DATA_DIRECTORY.
set -euo pipefail

bin=$1
data=$2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/performerd-test.XXXXXX")
state=$work/state
export PERFORMERD_URL=ipc://$work/sock
daemon_pid=""

fail() {
    echo "FAILED: $*" >&2
    sed 's/^/daemon: /' "$work/daemon.log" >&2 || true
    exit 1
}

note() { echo "-- $*"; }

ctl() { "$bin/performerctl" "$@"; }

# daemon_start [ARGUMENT...]: returns when the daemon can be used
daemon_start() {
    : >"$work/ready" # an earlier one's word must not be taken for this one's
    "$bin/performerd" --foreground --state "$state" --listen "$PERFORMERD_URL" "$@" \
        >"$work/ready" 2>>"$work/daemon.log" &
    daemon_pid=$!
    for _ in $(seq 100); do
        grep -q '^performerd ready' "$work/ready" && return
        kill -0 "$daemon_pid" 2>/dev/null || fail "the daemon did not start"
        sleep 0.1
    done
    fail "the daemon was not ready within 10 s"
}

daemon_kill() {
    kill -9 "$daemon_pid"
    wait "$daemon_pid" 2>/dev/null || true
    daemon_pid=""
}

daemon_stop() {
    kill -TERM "$daemon_pid"
    wait "$daemon_pid" || fail "the daemon's orderly stop failed"
    daemon_pid=""
}

at_exit() { :; } # a test may have more to end, and says so anew

cleanup() {
    status=$?
    at_exit
    [ -z "$daemon_pid" ] || kill -9 "$daemon_pid" 2>/dev/null || true
    # What a failed test left running carries the test's directory on its command line.
    pkill -9 -f "$work/" 2>/dev/null || true
    [ -n "${KEEP:-}" ] || rm -rf "$work"
    exit $status
}
trap cleanup EXIT

# proteins COUNT FILE: the first so many real proteins
proteins() {
    zcat "$data/DB.fasta.gz" | awk -v count="$1" '/^>/ { if (++n > count) exit } { print }' >"$2" || true
}

field() { ctl describe "$1" --json | jq -r "$2"; }

# reach_step RUN STEP: waits until the run has got so far
reach_step() {
    for _ in $(seq 1200); do
        [ "$(field "$1" .step)" -ge "$2" ] && return
        case $(field "$1" .state) in SUCCEEDED | FAILED | CANCELLED) fail "$1 ended before step $2" ;; esac
        sleep 0.05
    done
    fail "$1 did not reach step $2 within 60 s"
}

# reach_state RUN STATE
reach_state() {
    for _ in $(seq 600); do
        [ "$(field "$1" .state)" = "$2" ] && return
        sleep 0.1
    done
    fail "$1 is $(field "$1" .state), not $2"
}

# weights RUN STEP: the sha256 of the model at that step
weights() {
    sha256sum "$(field "$1" .directory)/checkpoints/step-$(printf %010d "$2")/model.safetensors" | cut -d' ' -f1
}
