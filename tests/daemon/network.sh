#!/usr/bin/env bash
# The daemon on a network: TLS, tokens, strangers, floods; and a run whose ranks report over it. Usage: network.sh BIN_DIRECTORY
set -euo pipefail
. "$(dirname "$0")/daemon_trials.sh"

certificate() { # NAME DAYS: $work/NAME.pem and $work/NAME.key, for localhost
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost \
        -keyout "$work/$1.key" -out "$work/$1.csr" 2>/dev/null
    openssl x509 -req -in "$work/$1.csr" -signkey "$work/$1.key" -days "$2" -out "$work/$1.pem" 2>/dev/null
    chmod 600 "$work/$1.key"
}
certificate good 2
certificate other 2
certificate expired -1
awk 'BEGIN { for (i = 0; i < 400; i++) print "a line of text to learn, number " i }' >"$work/text"
umask 077
alice=0123456789abcdef0123456789abcdef
bob=fedcba9876543210fedcba9876543210
printf 'alice %s\nbob %s\n' "$alice" "$bob" >"$work/tokens"
port=$((20000 + RANDOM % 10000)) # below those that the kernel hands out
url=tls+tcp://localhost:$port
tls=(--tls-cert "$work/good.pem" --tls-key "$work/good.key" --token-file "$work/tokens")

# -- what is not safe is not begun
daemon=("$bin/performerd" --foreground --state "$work/none")
refuses "any user of this machine" "${daemon[@]}" --listen "tcp://127.0.0.1:$port"
refuses "--token-file" "${daemon[@]}" --listen "$url"
refuses "--token-file is missing" "${daemon[@]}" --listen "$url" --tls-cert "$work/good.pem" --tls-key "$work/good.key"
refuses "of use with --listen tls+tcp" "${daemon[@]}" "${tls[@]}"
refuses "--advertise" "${daemon[@]}" --listen "tls+tcp://0.0.0.0:$port" "${tls[@]}"
refuses "not a certificate and its key" "${daemon[@]}" --listen "$url" "${tls[@]}" --tls-cert "$work/good.csr"
refuses "could not read $work/nothing" "${daemon[@]}" --listen "$url" "${tls[@]}" --tls-key "$work/nothing"
for file in good.key tokens; do
    chmod 640 "$work/$file"
    refuses "chmod 600 $work/$file" "${daemon[@]}" --listen "$url" "${tls[@]}"
    chmod 600 "$work/$file"
done
mkdir -m 755 "$work/open"
refuses "mode 0700" "${daemon[@]}" --listen "ipc://$work/open/socket"

# -- who asks over the network shows a token, and believes one certificate
start "$work/state" --listen "$url" "${tls[@]}"
export PERFORMERD_URL=$url PERFORMERD_TLS_CA=$work/good.pem

# ctl EXIT WORD ARGUMENT...: performerctl ends so, and says the word
ctl() {
    local expected=$1 word=$2 status=0
    shift 2
    timeout 60 "$bin/performerctl" "$@" >"$work/out" 2>&1 || status=$?
    [ "$status" = "$expected" ] && grep -qF -- "$word" "$work/out" && return
    cat "$work/out" >&2
    fail "performerctl $*: exit $status, not $expected, or no word of $word"
}
ctl 6 "does not know you" list
PERFORMERD_TOKEN=${alice}0 ctl 6 "does not know you" list
PERFORMERD_TOKEN=alice ctl 6 "does not know you" kill r1
PERFORMERD_TOKEN_FILE=$work/nothing ctl 5 "PERFORMERD_TOKEN_FILE" list
PERFORMERD_TOKEN=$alice ctl 0 "" list
PERFORMERD_TLS_CA= ctl 5 PERFORMERD_TLS_CA list
PERFORMERD_TLS_CA=$work/other.pem PERFORMERD_TOKEN=$alice ctl 5 "certificate is not trusted" list
PERFORMERD_URL=tls+tcp://127.0.0.1:$port PERFORMERD_TOKEN=$alice ctl 5 "for another host's name" list
PERFORMERD_URL=tls+tcp://localhost:1 PERFORMERD_TOKEN=$alice ctl 5 "nobody takes the connection" list
PERFORMERD_URL=tcp://localhost:$port PERFORMERD_TOKEN=$alice ctl 5 "tls+tcp://HOST:PORT" list
! grep -qE "$alice|$bob" "$work/log" || fail "a token is in the log"

# -- strangers: silent, half a handshake, garbage, greeted and silent; a normal client is served meanwhile
strangers=()
for _ in $(seq 40); do
    exec {silent}<>"/dev/tcp/localhost/$port"
    exec {half}<>"/dev/tcp/localhost/$port"
    printf '\x16\x03\x01\x02\x00\x01' >&"$half"
    exec {garbage}<>"/dev/tcp/localhost/$port"
    printf '\xff\x00garbage' >&"$garbage"
    strangers+=("$silent" "$half" "$garbage")
done
for _ in $(seq 5); do PERFORMERD_TOKEN=$alice ctl 0 "" list; done
virtual_kib() { awk '/VmSize/ {print $2}' "/proc/$pid/status"; }
virtual=$(virtual_kib)
greet() { { printf '\0SP\0\0\x30\0\0'; sleep 20; } | timeout 20 openssl s_client -quiet -connect "localhost:$port" >/dev/null 2>&1; }
before=$SECONDS
greet &
greeted=$!
{ printf '\0SP\0\0\x30\0\0\0\0\0\1\0\0\0\0'; sleep 20; } |
    timeout 20 openssl s_client -quiet -connect "localhost:$port" >/dev/null 2>&1 & # claims 4 GiB
for _ in $(seq 5); do PERFORMERD_TOKEN=$alice ctl 0 "" list; done
[ $(($(virtual_kib) - virtual)) -lt 2000000 ] || fail "memory was reserved for a claim"
for _ in $(seq 200); do
    files=$(ls "/proc/$pid/fd" | wc -l)
    [ "$files" -gt 60 ] || break # 122 strangers, and a few of its own
    sleep 0.1
done
[ "$files" -le 60 ] || fail "strangers stay: $files files"
for fd in "${strangers[@]}"; do exec {fd}>&-; done
kill "$greeted" 2>/dev/null || true
PERFORMERD_TOKEN=$alice ctl 0 "" list
echo "strangers were closed after $((SECONDS - before)) s"
kill -TERM "$pid" && wait "$pid"

# -- an expired certificate
start_at "tls+tcp://localhost:$port" --state "$work/state" --tls-cert "$work/expired.pem" --tls-key "$work/expired.key" \
    --token-file "$work/tokens"
PERFORMERD_TLS_CA=$work/expired.pem PERFORMERD_TOKEN=$alice ctl 5 "expired" list
kill -TERM "$pid" && wait "$pid"

# -- a run whose ranks know no other way to the daemon, and have no other token
PERFORMERD_TOKEN_FILE=$work/nothing start_at "tls+tcp://localhost:$port" --state "$work/state" "${tls[@]}"
cat >"$work/job.toml" <<EOF
[job]
name = "net"
[resources]
ranks = 2
threads = 1
[data]
format = "text"
train = "text"
length = 32
[model]
layers = 1
heads = 1
width = 16
mlp = 16
[train]
steps = 20
batch = 4
micro_batch = 2
EOF
export PERFORMERD_TOKEN=$alice
ctl 0 "" submit "$work/job.toml" --wait
[ "$("$bin/performerctl" metrics r1 --name loss --json | wc -l)" = 20 ] || fail "metrics did not come over the network"
attempt=$work/state/runs/r1/attempt-1
[ "$(stat -c %a "$attempt/environment")" = 600 ] || fail "others can read the attempt's environment"
grep -qx "PERFORMERD_URL=tls+tcp://localhost:$port" "$attempt/environment" || fail "the ranks had another way"
grep -qx "PERFORMERD_TLS_CA=$attempt/ca.pem" "$attempt/environment" || fail "the ranks trusted something else"
PERFORMERD_TOKEN=$bob ctl 6 "r1 belongs to alice" describe r1
PERFORMERD_TOKEN=$bob ctl 6 "r1 belongs to alice" logs r1
PERFORMERD_TOKEN=$bob ctl 6 "r1 belongs to alice" kill r1
PERFORMERD_TOKEN=$bob ctl 0 '"user":"alice"' list --all --json
! "$bin/performerctl" list --all | grep -q USER || fail "a column of users where there is but one"
PERFORMERD_TOKEN=$bob ctl 0 "" submit "$work/job.toml" --set job.name=bobs
ctl 0 "USER" list --all
grep -qE "^r1 +alice " "$work/out" && grep -qE "^r2 +bob " "$work/out" || fail "list says not whose the runs are"
token=$(sed -n s/PERFORMERD_TOKEN=//p "$attempt/environment")
PERFORMERD_TOKEN=$token ctl 6 "does not know you" list
PERFORMERD_TOKEN=$token ctl 6 "does not know you" kill r1
! grep -rqF "$token" "$work/log" "$attempt"/*.log || fail "an attempt's token is in a log"
