# Sourced by scripts that train: a daemon of their own, which ends with them. $bin says where the programs are.

# daemon_start DIRECTORY: returns when PERFORMERD_URL can be used; the state is in DIRECTORY/state, what it says in DIRECTORY/daemon.log.
daemon_start() {
    daemon_socket=$(mktemp -d)
    export PERFORMERD_URL=ipc://$daemon_socket/performerd.sock
    mkdir -p "$1"
    "$bin/performerd" --foreground --state "$1/state" --listen "$PERFORMERD_URL" >"$1/ready" 2>"$1/daemon.log" &
    daemon=$!
    trap daemon_stop EXIT
    until grep -q '^performerd ready' "$1/ready"; do
        kill -0 "$daemon" 2>/dev/null || { cat "$1/daemon.log" >&2; exit 1; }
        sleep 0.1
    done
    cat "$1/ready"
}

daemon_stop() {
    kill -TERM "$daemon" 2>/dev/null && wait "$daemon" || true
    rm -rf "$daemon_socket"
}
