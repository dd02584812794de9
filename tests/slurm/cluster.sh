# Sourced by the tests of Slurm, after tests/e2e/harness.sh: a small real cluster in $work/slurm, of this user's own. Its two
# nodes, n1 and n2, are two slurmd on this machine; nobody needs to be root, and it listens on loopback alone.

export PATH=$PATH:/usr/sbin:/sbin
cluster=$work/slurm

for program in slurmctld slurmd munged sbatch; do
    command -v $program >/dev/null && continue
    echo "skipped: $program is not installed (deploy/install-deps --with-slurm installs it)"
    exit 77
done

# free_ports COUNT: the first of so many that nobody listens on
free_ports() {
    local first port
    while :; do
        first=$((20000 + RANDOM % 20000))
        for ((port = first; port < first + $1; port++)); do
            ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || continue 2
        done
        echo $first
        return
    done
}

# Times are short where Slurm's own defaults are minutes. What else is not obvious:
#   cred_expire      a job waits so long before it may start again
#   TmpFS with %n    the PMIx plugin of each node makes a directory of the same name in it
#   config_overrides nodes may claim more cores than the machine has
#   ReturnToService  a node that was set down stays down until it is resumed
#   CgroupPlugin     no cgroup is used, but without this slurmd looks for one and dies where none is mounted
#   Gres             two GPUs a node; Slurm wants devices, and any will do
cluster_configure() {
    local port=$1 user
    user=$(id -un)
    cat >"$cluster/slurm.conf" <<CONF
ClusterName=performerd
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$cluster/munge/socket,cred_expire=5
SlurmctldPort=$port
SlurmdPort=$((port + 1))
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$cluster/state
SlurmdSpoolDir=$cluster/spool/%n
SlurmctldPidFile=$cluster/slurmctld.pid
SlurmdPidFile=$cluster/%n.pid
SlurmctldLogFile=$cluster/slurmctld.log
SlurmdLogFile=$cluster/%n.log
TmpFS=$cluster/tmp/%n
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
GresTypes=gpu
MpiDefault=none
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,sched_min_interval=100000
ReturnToService=1
SlurmdTimeout=8
MessageTimeout=5
TCPTimeout=2
KillWait=${KILL_WAIT:-10}
CompleteWait=0
InactiveLimit=0
MinJobAge=600
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=4 RealMemory=1024 Gres=gpu:2
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=4 RealMemory=1024 Gres=gpu:2
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
    echo CgroupPlugin=cgroup/v1 >"$cluster/cgroup.conf"
    echo "NodeName=n[1-2] Name=gpu File=/dev/null,/dev/zero" >"$cluster/gres.conf"
}

controller_start() { slurmctld -f "$cluster/slurm.conf" </dev/null; }

controller_stop() {
    local pid
    pid=$(cat "$cluster/slurmctld.pid")
    kill -TERM "$pid"
    await 100 gone "$pid"
}

# Dead, or a zombie that nobody has reaped.
gone() { ! grep -q '^State:[[:space:]]*[^ZX]' "/proc/$1/status" 2>/dev/null; }

# await TENTHS COMMAND...: until it succeeds
await() {
    local tenths=$1
    shift
    for ((; tenths > 0; tenths--)); do
        "$@" && return
        sleep 0.1
    done
    return 1
}

nodes_are_up() { [ "$(timeout 5 sinfo -h -N -o %t 2>/dev/null | grep -cE '^(idle|mix|alloc)$')" -eq 2 ]; }

cluster_up() {
    mkdir -p "$cluster"/{munge,state,spool/n1,spool/n2,tmp/n1,tmp/n2}
    chmod 755 "$work" "$cluster" "$cluster/munge" # munge wants the way to its socket open to all, performerd not
    export PERFORMERD_URL=ipc://$work/own/sock
    cluster_configure "$(free_ports 3)"
    (umask 077 && head -c 1024 /dev/urandom >"$cluster/munge/key")
    munged --socket="$cluster/munge/socket" --key-file="$cluster/munge/key" --log-file="$cluster/munged.log" \
        --pid-file="$cluster/munged.pid" --seed-file="$cluster/munge/seed" --num-threads=2
    export SLURM_CONF=$cluster/slurm.conf
    controller_start
    for node in n1 n2; do slurmd -f "$cluster/slurm.conf" -N $node </dev/null; done
    await 300 nodes_are_up || {
        tail -n 5 "$cluster"/*.log >&2
        fail "the cluster did not come up within 30 s"
    }
    # Both nodes are one host, whose shared memory Open MPI would take for that of each.
    export OMPI_MCA_btl=tcp,self OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_oob_tcp_if_include=lo
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
}

# slurmstepd hides its arguments, and is known by the log that it has open. Those that outlive their controller would retry
# for minutes.
stray_steps() {
    local fds
    for fds in /proc/[0-9]*/fd; do
        [ "$(cat "${fds%/fd}/comm" 2>/dev/null)" = slurmstepd ] || continue
        readlink "$fds"/* 2>/dev/null | grep -qF "$cluster/" && basename "${fds%/fd}"
    done
    return 0
}

cluster_down() {
    [ -e "$cluster/slurm.conf" ] || return 0
    timeout 10 scancel --user="$(id -un)" 2>/dev/null || true
    local file
    for file in "$cluster"/*.pid; do
        [ -s "$file" ] && kill -9 "$(cat "$file")" 2>/dev/null || true
    done
    kill -9 $(stray_steps) 2>/dev/null || true
}

at_exit() { cluster_down; }
