#!/usr/bin/env bash
# The cable between the daemon and the ranks is cut: for 10 s, and until the run is over. Nothing is lost, and nobody starts it
# again. The ranks live in a network namespace of their own; who may not make one skips this.
. "$(dirname "$0")/harness.sh"

space=performerd-$$
cable() { ip link set "pd$$" "$1"; }
at_exit() { ip netns del "$space" 2>/dev/null || true; }
ip netns add "$space" 2>/dev/null || { note "skipped: no network namespaces here"; exit 77; }
ip link add "pd$$" type veth peer name there netns "$space"
ip addr add 10.213.77.1/30 dev "pd$$"
ip -n "$space" addr add 10.213.77.2/30 dev there
ip -n "$space" link set lo up
ip -n "$space" link set there up
cable up

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=10.213.77.1 \
    -days 2 -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
chmod 600 "$work/key.pem"
export PERFORMERD_TOKEN=0123456789abcdef0123456789abcdef
(umask 077 && echo "tester $PERFORMERD_TOKEN" >"$work/tokens")
export PERFORMERD_URL=tls+tcp://10.213.77.1:$((20000 + RANDOM % 10000)) PERFORMERD_TLS_CA=$work/cert.pem
mkdir "$work/path"
printf '#!/bin/sh\nexec ip netns exec %s %s "$@"\n' "$space" "$(command -v mpirun)" >"$work/path/mpirun"
chmod +x "$work/path/mpirun"
export PATH=$work/path:$PATH

seq 1 2000 >"$work/text"
cat >"$work/job.toml" <<'TOML'
[job]
name = "cut"
[resources]
ranks = 2
threads = 1
[data]
format = "text"
train = "text"
length = 128
[model]
layers = 2
heads = 2
width = 64
mlp = 128
[train]
steps = 1000000
batch = 8
micro_batch = 2
[restart]
stall_seconds = 600        # here the daemon takes ranks for its machine's, whose silence would be a hang
TOML
# told RUN: steps whose loss is there, from 1 on without a gap
told() { ctl metrics "$1" --name loss --json | jq -s 'if [.[].step] == [range(1; length + 1)] then length else "a gap" end'; }

daemon_start --tls-cert "$work/cert.pem" --tls-key "$work/key.pem" --token-file "$work/tokens"

note "10 s without the daemon: training goes on, and what happened meanwhile is told"
run=$(ctl submit "$work/job.toml" --parsable)
reach_step "$run" 20
cable down
sleep 10
before=$(field "$run" .step)
cable up
reach_step "$run" $((before + 60))
ctl cancel "$run" >/dev/null
reach_state "$run" CANCELLED
[ "$(told "$run")" = "$(field "$run" .step)" ] || fail "$(told "$run") losses of $(field "$run" .step) steps"
[ "$(field "$run" '.attempts | length')" -eq 1 ] || fail "it was started again"

note "cut to the end: it ends by itself, and its result is found"
run=$(ctl submit "$work/job.toml" --parsable --set train.steps=200)
reach_step "$run" 20
cable down
ctl wait "$run" --timeout 300 >/dev/null || fail "$(field "$run" '.state + ": " + .reason')"
[ "$(told "$run")" -eq 200 ] || fail "$(told "$run") losses of 200 steps"
[ -f "$(field "$run" .directory)/checkpoints/step-0000000200/MANIFEST" ] || fail "no last checkpoint"
[ "$(field "$run" '.attempts | length')" -eq 1 ] || fail "it was started again"
cable up
daemon_stop
note "passed"
