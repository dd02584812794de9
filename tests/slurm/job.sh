# Sourced by the tests of Slurm, after cluster.sh: the cluster is there, and so are a daemon, a small job and programs that
# play tricks.

cluster_up
proteins 300 "$work/proteins.fasta"
cat >"$work/job.toml" <<'TOML'
[job]
name = "proteins"
[resources]
launcher = "slurm"
ranks = 2
threads = 1
[data]
format = "fasta"
train = "proteins.fasta"
length = 64
[model]
layers = 1
heads = 2
width = 32
mlp = 64
[attention]
features = 16
[train]
steps = 40
batch = 8
micro_batch = 2
[checkpoint]
every = 20
TOML

# Names that a shell, sbatch or its patterns of file names would take for something else.
runs="$work/runs of \"mine\", 'yours', \$HOME & 100%j"

# A program of each name in a directory of its own: to be put before the others on a PATH.
programs=$work/programs
real_sbatch=$(command -v sbatch)
real_srun=$(command -v srun)

# program NAME DIRECTORY: the script comes on standard input
program() {
    mkdir -p "$programs/$2"
    { echo '#!/bin/bash'; cat; } >"$programs/$2/$1"
    chmod +x "$programs/$2/$1"
}

program srun no-pmix <<SCRIPT
case "\$*" in
--mpi=list) echo none ;;
*--mpi=pmix*) exit 3 ;;
*) exec $real_srun "\$@" ;;
esac
SCRIPT

program sbatch deadly-sbatch <<SCRIPT
$real_sbatch "\$@" >/dev/null
kill -9 \$PPID
SCRIPT

program sbatch silent-sbatch <<SCRIPT
$real_sbatch "\$@" >/dev/null
echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2
exit 1
SCRIPT

submit() { ctl submit "$work/job.toml" --parsable "$@" 2>/dev/null; }
submit_long() { submit --set train.steps=1000000 "$@"; }

# jobs_of RUN COLUMN: of all its jobs, a line each
jobs_of() { squeue --states=all --noheader -O "Name:|,$2:|" | sed -n "s/^$1-a[^|]*|\(.*\)|$/\1/p"; }

# ended RUN STATE
ended() {
    ctl wait "$1" --timeout 60 >/dev/null 2>&1 || true
    [ "$(field "$1" .state)" = "$2" ] && return
    ctl describe "$1" >&2
    tail -n 20 "$runs/$1"/attempt-*/*.log >&2
    fail "$1 is $(field "$1" .state), not $2"
}

succeed() { ended "$1" SUCCEEDED; }

# cause RUN INDEX: of the end of its attempt, from 0
cause() { field "$1" ".attempts[$2].cause"; }

waits() { field "$1" .reason | grep -q 'Slurm job .* is PENDING, JobHeldUser'; }

has_event() { ctl events "$1" --json | grep -q "\"$2\""; }
await_event() { await 300 has_event "$@" || fail "$1 has no event $2"; }

# Ranks of other hosts come over the network, with a token, to a certificate that they know.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost -days 2 \
    -keyout "$work/key.pem" -out "$work/certificate.pem" 2>/dev/null
echo "nobody 0123456789abcdef0123456789abcdef" >"$work/tokens"
chmod 600 "$work/key.pem" "$work/tokens"
network=tls+tcp://localhost:$(free_ports 1)

# daemon_begin [DIRECTORY]: with the programs of that directory before all others
daemon_begin() {
    PATH=${1:+$programs/$1:}$PATH daemon_start --runs "$runs" --max-ranks 2 --listen "$network" \
        --tls-cert "$work/certificate.pem" --tls-key "$work/key.pem" --token-file "$work/tokens"
}

daemon_begin
