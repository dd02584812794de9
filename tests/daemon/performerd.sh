#!/usr/bin/env bash
# The daemon as a program: its start, its refusals, its end. Usage: performerd.sh BIN_DIRECTORY
set -euo pipefail
. "$(dirname "$0")/daemon_trials.sh"

# -- what is asked for wrongly
refuses "unknown option --bogus" "$bin/performerd" --bogus
refuses "--http is not built yet" "$bin/performerd" --http 127.0.0.1:80
"$bin/performerd" --help | grep -q -- "--max-ranks N"
"$bin/performerd" --version | grep -q '^performerd [0-9]'

# -- two on one state directory, and two on one socket
start "$work/one"
[ "$(stat -c %a "$work/one")" = 700 ] || fail "the state directory is open to others"
[ "$(stat -c %a "$work/one.sock")" = 600 ] || fail "the socket is open to others"
refuses "in use by another performerd (process $pid on" \
    "$bin/performerd" --foreground --state "$work/one" --listen "ipc://$work/other.sock"
refuses "another process listens there" \
    "$bin/performerd" --foreground --state "$work/two" --listen "ipc://$work/one.sock"
"$bin/performerctl" --url "ipc://$work/one.sock" list >/dev/null || fail "the first one was harmed"

# -- an orderly end
kill -TERM "$pid"
wait "$pid" || fail "an orderly stop is no failure"
grep -q daemon-stopping "$work/log" || fail "it did not say that it stops"

# -- a socket that its owner left behind
start "$work/one"
kill -9 "$pid"
wait "$pid" 2>/dev/null || true
[ -S "$work/one.sock" ] || fail "the test needs a stale socket"
start "$work/one"
"$bin/performerctl" --url "ipc://$work/one.sock" list >/dev/null
kill -INT "$pid"
wait "$pid"

# -- a database that is none
mkdir -m 700 "$work/bad"
head -c 8192 /dev/zero | tr '\0' 'x' >"$work/bad/performerd.db"
refuses "performerd.db" "$bin/performerd" --foreground --state "$work/bad" --listen "ipc://$work/bad.sock"
[ ! -e "$work/bad.sock" ] || fail "it listened before it had its database"

# -- places that cannot be written
touch "$work/file"
refuses "$work/file" "$bin/performerd" --foreground --state "$work/file/state"
refuses "$work/file" "$bin/performerd" --foreground --state "$work/three" --runs "$work/file"
if [ "$(id -u)" -ne 0 ]; then
    mkdir -m 500 "$work/closed"
    refuses "Permission denied" "$bin/performerd" --foreground --state "$work/closed/state"
fi

# -- in the background
"$bin/performerd" --state "$work/back" --listen "ipc://$work/back.sock" >"$work/out" </dev/null
grep -qx "performerd ready ipc://$work/back.sock" "$work/out" || fail "the background one is not ready"
pid=$(sed 's/process \([0-9]*\) .*/\1/' "$work/back/lock")
pids+=("$pid")
"$bin/performerctl" --url "ipc://$work/back.sock" list >/dev/null
refuses "in use by another performerd" "$bin/performerd" --state "$work/back"
kill -TERM "$pid"
for _ in $(seq 100); do
    [ -e "/proc/$pid" ] && ! grep -q '^State:.Z' "/proc/$pid/status" || break
    sleep 0.05
done
grep -q daemon-ready "$work/back/performerd.log" || fail "the background one has no log"
grep -q daemon-stopping "$work/back/performerd.log" || fail "the background one did not stop"

echo "passed"
