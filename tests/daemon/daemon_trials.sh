# For scripts that try performerd as a program; to be sourced, with BIN_DIRECTORY as $1.
bin=$1
work=$(mktemp -d "${TMPDIR:-/tmp}/performerd-test.XXXXXX")
pids=()

cleanup() {
    status=$?
    for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
    rm -rf "$work"
    exit $status
}
trap cleanup EXIT

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# start_at URL OPTION...: in the foreground, URL first; returns once it is ready, sets $pid
start_at() {
    local url=$1
    shift
    : >"$work/ready" # an earlier one's word must not be taken for this one's
    "$bin/performerd" --foreground --listen "$url" "$@" >"$work/ready" 2>"$work/log" &
    pid=$!
    pids+=("$pid")
    for _ in $(seq 200); do
        grep -q "^performerd ready $url$" "$work/ready" && return
        sleep 0.05
    done
    cat "$work/log" >&2
    fail "not ready"
}

# start STATE [OPTION...]: with a socket beside its state
start() {
    start_at "ipc://$1.sock" --state "$@"
}

# refuses WORD COMMAND...: it ends with an error that holds the word
refuses() {
    local word=$1
    shift
    ! timeout 20 "$@" >"$work/out" 2>&1 || fail "$* did not fail"
    grep -qF -- "$word" "$work/out" || {
        cat "$work/out" >&2
        fail "$*: no word of $word"
    }
}
