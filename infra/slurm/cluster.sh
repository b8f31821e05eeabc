#!/usr/bin/env bash
# A real Slurm on one Debian machine: munge, MariaDB, slurmdbd, slurmctld, and a slurmd for each of its nodes. Up in about three seconds.
#
#   cluster.sh install                     the packages, by apt-get; nothing to do if they are there
#   cluster.sh up [OPTION…]                start an empty cluster; nothing to do if it is up with the same options
#   cluster.sh down                        end its jobs, and exactly the daemons that `up` started; the logs stay
#   cluster.sh status                      which daemons run, and the nodes; exit code 0 if all is well
#   cluster.sh env                         the line that points squeue, sbatch and the like at it: eval "$(cluster.sh env)"
#
# For tests of what goes wrong on a site:
#   cluster.sh stop-controller | start-controller | restart-controller [--clean] [--first-job-id N]
#                                          --clean: it forgets every job and gives their numbers out again, which the accounting remembers
#   cluster.sh stop-accounting | start-accounting
#   cluster.sh kill-node N [--with-jobs]   SIGKILL to its slurmd: the node is cut off and its jobs go on; --with-jobs: they die too
#   cluster.sh start-node N
#
# Options of `up`, with their defaults:
#   --nodes 1 --cpus 8 --memory 8192 --gpus 2   how many nodes, and what each claims to have (MB); none of it must exist, so that
#                                          many small jobs fit a small machine. A job gets memory/cpus for each CPU unless it says more
#   --accounting on|off                    off: no sacct, as on sites without slurmdbd
#   --accounts off|on                      on: a job needs the account `lab` (and the qos `normal`), as on sites that bill
#   --memory-limit kill|cgroup|off         kill: a job that is over is found within a second and killed; cgroup: the kernel does it, and the
#                                          state is OUT_OF_MEMORY (needs memory cgroups, version 1, that may be written to)
#   --requeue-delay 5                      seconds that a requeued job waits at least; Slurm's own default is 120, its least is 5
#   --node-timeout 10                      seconds of silence after which a node is taken for lost; the finding takes about as long again
#   --min-job-age 300                      seconds after which squeue forgets a job that ended
#   --first-job-id 1
#   --node-prefix node                     nodes are called node1, node2, …; clusters with cgroups need names of their own
# and of every verb: --state /var/lib/ratchet-slurm. Clusters with different folders live side by side.
#
# Partitions: `main` (default) and `high`, whose jobs preempt those of `main`: these are requeued. GPUs are /dev/null: CUDA_VISIBLE_DEVICES is
# real, the device is not. If there is no /etc/slurm/slurm.conf it becomes a link to this cluster's, so that the commands find it without `env`.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/daemons.sh"
. "$here/options.sh"
. "$here/config.sh"

PACKAGES=(slurm-wlm munge slurmdbd mariadb-server)

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; }

is_up() { [ -O "$STATE/options" ] && runs "$(pid_file munged)"; }

need_up() {
    is_up || die "no cluster is up in $STATE. Next: $0 up --state $STATE"
    recall
}

need_node() {
    if ! [[ $node =~ ^[0-9]{1,9}$ ]] || [ "$node" -lt 1 ] || [ "$node" -gt "$nodes" ]; then
        die "$verb needs the number of a node, 1 to $nodes; got '$node'"
    fi
}

pid_file() { echo "$STATE/run/$1.pid"; }

daemons() { # those of this cluster, in the order of their start
    local number
    echo munged
    [ "$accounting" = off ] || printf '%s\n' mariadbd slurmdbd
    echo slurmctld
    for ((number = 1; number <= nodes; number++)); do echo "slurmd.$node_prefix$number"; done
}

up() {
    command -v munged mariadbd slurmdbd slurmctld slurmd >/dev/null || die "Slurm is not installed. Next: $0 install"
    if is_up; then
        [ "$(options)" = "$(cat "$STATE/options")" ] || die "a cluster with other options is up in $STATE. Next: $0 down --state $STATE"
        status >/dev/null || die "the cluster in $STATE is up but not well. Next: $0 status --state $STATE, or down and up"
        echo "already up: $STATE"
        return 0
    fi
    folder_is_ours || die "--state must be a folder that is empty or a cluster's; got $STATE, which holds other things"
    (down) # what is left of a cluster that was not ended, by the options that it had
    [ "$memory_limit" != cgroup ] || need_cgroups
    rm -rf "${STATE:?}/log"
    mkdir -p "$STATE"/{munge,run,log,database,controller,spool,gpu}
    chmod 755 "$STATE" # whoever submits must read slurm.conf and reach munge's socket
    options >"$STATE/options"
    trap 'down; echo "$(basename "$0"): the cluster did not come up. Next: see $STATE/log" >&2' EXIT
    write_config
    start_munged
    if [ "$accounting" = on ]; then
        start_mariadbd
        start_slurmdbd
        register >"$STATE/log/sacctmgr.log" 2>&1
    fi
    slurmctld -f "$SLURM_CONF"
    local number
    for ((number = 1; number <= nodes; number++)); do start_node "$number"; done
    wait_until 60 nodes_are_up
    trap - EXIT
    make_default
    echo "up: $STATE, with $nodes node(s) and the partitions main and high. Next: $(print_env)"
}

start_munged() { # as root, with a key and a socket of its own: the machine's munge, if it has one, is left alone
    head -c 128 /dev/urandom >"$STATE/munge/key"
    chmod 600 "$STATE/munge/key"
    munged --key-file "$STATE/munge/key" --socket "$STATE/run/munge.socket" --pid-file "$(pid_file munged)" \
        --log-file "$STATE/log/munged.log" --seed-file "$STATE/munge/seed"
}

start_mariadbd() { # no network and no password: root, by the socket. Nor need it be durable: each `up` makes it anew
    local small=(--performance-schema=off --innodb-buffer-pool-size=32M --innodb-log-file-size=8M --debug-no-sync --innodb-flush-log-at-trx-commit=0)
    mariadb-install-db --no-defaults --user=root --datadir="$STATE/database" --skip-test-db "${small[@]}" >"$STATE/log/mariadb-install.log" 2>&1
    mariadbd --no-defaults --user=root --datadir="$STATE/database" --socket="$MYSQL_UNIX_PORT" --skip-networking --pid-file="$(pid_file mariadbd)" \
        --innodb-lock-wait-timeout=900 "${small[@]}" </dev/null >"$STATE/log/mariadbd.log" 2>&1 &
    wait_until 60 mysqladmin --no-defaults --socket="$MYSQL_UNIX_PORT" ping
}

start_slurmdbd() {
    slurmdbd
    wait_until 60 sacctmgr -n show cluster
}

register() { # the cluster and, for `--accounts on`, the one account
    sacctmgr -i add cluster ratchet
    if [ "$accounts" = on ]; then
        sacctmgr -i add account lab
        sacctmgr -i add user root account=lab
    fi
}

start_controller() {
    slurmctld -f "$SLURM_CONF"
    wait_until 60 scontrol ping
    local file pid
    for file in "$STATE"/run/slurmd.*.pid; do # each reports at once; the controller itself would ask in some seconds, and until then knows no node
        if pid=$(pid_of "$file"); then kill -HUP "$pid"; fi
    done
    wait_until 60 living_nodes_are_up
}

restart_controller() {
    stop "$(pid_file slurmctld)"
    [ "$clean" = no ] || rm -f "$STATE"/controller/job_state* # not what accounting was not told yet
    [[ " ${given[*]} " != *" first_job_id "* ]] || sed -i "s/^FirstJobId=.*/FirstJobId=$wanted_job_id/" "$SLURM_CONF"
    start_controller
}

start_node() { slurmd -f "$SLURM_CONF" -N "$node_prefix$1"; } # NUMBER

node_is_up() { timeout 10 sinfo -h -n "$node_prefix$1" -p main -o %T | grep -qE '^(idle|mixed|allocated)$'; } # a * behind the state: does not answer

nodes_are_up() {
    local number
    for ((number = 1; number <= nodes; number++)); do node_is_up "$number" || return 1; done
}

living_nodes_are_up() {
    local number
    for ((number = 1; number <= nodes; number++)); do
        ! runs "$(pid_file "slurmd.$node_prefix$number")" || node_is_up "$number" || return 1
    done
}

folder_is_ours() { [ -O "$STATE/options" ] || [ -z "$(ls -A "$STATE" 2>/dev/null)" ]; } # what is in it is believed, and deleted

down() {
    [ -O "$STATE/options" ] || return 0
    recall
    local daemon
    for daemon in $(daemons | tac); do stop "$(pid_file "$daemon")"; done
    sweep slurmd slurmctld slurmdbd mariadbd munged
    kill_jobs '*'
    remove_cgroups
    rm -rf "${STATE:?}"/{munge,run,database,controller,spool,gpu}
    if [ "$(readlink /etc/slurm/slurm.conf)" = "$SLURM_CONF" ]; then rm /etc/slurm/slurm.conf; fi
}

# kill_jobs NODE: SIGKILL to what supervises the jobs of these nodes, and to everything that it started.
kill_jobs() {
    local process file
    for process in /proc/[0-9]*; do
        [ "$(cat "$process/comm" 2>/dev/null)" = slurmstepd ] || continue
        for file in "$process"/fd/*; do
            # shellcheck disable=SC2053  # NODE is a pattern
            if [[ $(readlink "$file") == "$STATE"/log/slurmd.$1.log ]]; then kill_tree "${process#/proc/}"; break; fi
        done
    done
}

kill_tree() {
    local child
    kill -STOP "$1" 2>/dev/null || return 0 # so that it starts nothing while its children are gone through
    # shellcheck disable=SC2013  # the children of a thread are words of one line
    for child in $(cat "/proc/$1/task/"*/children 2>/dev/null); do kill_tree "$child"; done
    kill -KILL "$1" 2>/dev/null || true
}

need_cgroups() {
    local probe=/sys/fs/cgroup/memory/ratchet-probe-$$
    if ! { mkdir $probe && rmdir $probe; } 2>/dev/null; then
        die "--memory-limit cgroup needs memory cgroups (version 1) that may be written to; /sys/fs/cgroup/memory has none. Next: --memory-limit kill"
    fi
    if compgen -G "/sys/fs/cgroup/memory/slurm_${node_prefix}[0-9]*" >/dev/null; then
        die "another cluster with cgroups has nodes called $node_prefix… Next: another --node-prefix, or end that one"
    fi
}

remove_cgroups() { # which Slurm leaves behind, empty
    local number group
    [ "$memory_limit" = cgroup ] || return 0
    for ((number = 1; number <= nodes; number++)); do
        for group in /sys/fs/cgroup/*/slurm_"$node_prefix$number"; do
            [ ! -d "$group" ] || wait_until 5 find "$group" -depth -type d -exec rmdir {} + || true
        done
    done
}

make_default() {
    if [ ! -e /etc/slurm/slurm.conf ]; then mkdir -p /etc/slurm && ln -sfn "$SLURM_CONF" /etc/slurm/slurm.conf; fi
}

print_env() { echo "export SLURM_CONF=$SLURM_CONF"; }

status() {
    local daemon pid well=0
    for daemon in $(daemons); do
        if pid=$(pid_of "$(pid_file "$daemon")"); then echo "$daemon: runs as $pid"; else echo "$daemon: does not run"; well=1; fi
    done
    timeout 10 sinfo -N -o '%N %P %T %C %m %G %E' || well=1
    nodes_are_up || well=1
    return $well
}

[ $# -ge 1 ] || { usage >&2; exit 2; }
verb=$1
shift
case $verb in
    -h | --help | help) usage; exit 0 ;;
    install) need_root; need_packages -- "${PACKAGES[@]}"; exit 0 ;;
    up | down | status | env | stop-controller | start-controller | restart-controller | stop-accounting | start-accounting) ;;
    kill-node | start-node) ;;
    *) die "no verb '$verb'. Next: $0 --help" ;;
esac
read_options "$@"
wanted_job_id=$first_job_id
case $verb in env) print_env; exit 0 ;; esac
need_root
case $verb in up | down) ;; *) need_up ;; esac
case $verb in
    up) up ;;
    down) down ;;
    status) status ;;
    stop-controller) stop "$(pid_file slurmctld)" ;;
    start-controller) start_controller ;;
    restart-controller) restart_controller ;;
    stop-accounting) stop "$(pid_file slurmdbd)" ;;
    start-accounting) start_slurmdbd ;;
    kill-node)
        need_node
        stop "$(pid_file "slurmd.$node_prefix$node")" KILL
        [ $with_jobs = no ] || kill_jobs "$node_prefix$node" ;;
    start-node) need_node; start_node "$node" ;;
esac
