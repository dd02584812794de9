# Sourced by the trials of performer-worker: a small job, and ways to start it. Sets $work; expects $worker.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    echo "${0##*/}: $*" >&2
    [ ! -e "$work/log" ] || tail -n 20 "$work/log" >&2
    exit 1
}

awk 'BEGIN { for (i = 0; i < 3000; i++) printf "%d squared is %d, and its third power %d.\n", i, i * i, i * i * i }' \
    >"$work/text.txt"
cat >"$work/job.toml" <<'TOML'
[job]
name = "trial"
seed = 7
[resources]
threads = 1
[data]
format = "text"
train = "text.txt"
length = 64
[model]
layers = 2
heads = 2
width = 32
mlp = 64
dropout = 0.1
[attention]
features = 24
[redraw]
every = 7
[train]
steps = 40
batch = 8
micro_batch = 2
[checkpoint]
every = 10
TOML

mpirun=(mpirun --oversubscribe --allow-run-as-root --bind-to none)

# ends CODE COMMAND...: what it says is in $work/log
ends() {
    local expected=$1 code=0
    shift
    "$@" </dev/null >"$work/log" 2>&1 || code=$?
    [ "$code" -eq "$expected" ] || fail "exit $code, not $expected: $*"
}

says() { grep -qF -- "$1" "$work/log" || fail "does not say: $1"; }

alone() { # NAME [OPTION...]
    local name=$1
    shift
    "$worker" --job "$work/job.toml" --output "$work/$name" "$@"
}

weights() { sha256sum <"$work/$1/checkpoints/step-0000000040/model.safetensors"; }

# hit SIGNAL DIRECTORY: the newest rank that works there; mpirun, which names the worker too, is left alone
hit() { pkill "-$1" -n -f "^$worker .*$2" || fail "no rank to hit"; }
