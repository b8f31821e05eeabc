# shellcheck shell=bash
# shellcheck disable=SC2154  # the options are set by cluster.sh
# The configuration files of cluster.sh's Slurm, from its options. Sourced, not run.

write_config() {
    local port number
    port=$(free_block $((nodes + 2))) # slurmctld, slurmdbd, then a slurmd for each node
    slurm_conf "$port" >"$STATE/slurm.conf"
    slurmdbd_conf "$port" >"$STATE/slurmdbd.conf"
    chmod 600 "$STATE/slurmdbd.conf" # slurmdbd insists
    rm -f "$STATE/cgroup.conf"
    [ "$memory_limit" != cgroup ] || printf '%s\n' ConstrainRAMSpace=yes ConstrainSwapSpace=yes AllowedSwapSpace=0 >"$STATE/cgroup.conf"
    : >"$STATE/gres.conf"
    for ((number = 1; number <= nodes && gpus > 0; number++)); do
        echo "NodeName=$node_prefix$number Name=gpu File=$STATE/gpu/[0-$((gpus - 1))]" >>"$STATE/gres.conf"
    done
    # To be handed out, a device must be one.
    for ((number = 0; number < gpus; number++)); do ln -s /dev/null "$STATE/gpu/$number"; done
}

slurm_conf() {
    local port=$1 number
    cat <<CONF
ClusterName=ratchet
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
AuthType=auth/munge
# How long a credential lasts, which is also how long a requeued job must wait.
AuthInfo=socket=$STATE/run/munge.socket,cred_expire=$requeue_delay
StateSaveLocation=$STATE/controller
SlurmctldPidFile=$STATE/run/slurmctld.pid
SlurmctldLogFile=$STATE/log/slurmctld.log
SlurmdSpoolDir=$STATE/spool/%n
SlurmdPidFile=$STATE/run/slurmd.%n.pid
SlurmdLogFile=$STATE/log/slurmd.%n.log
MpiDefault=none
SwitchType=switch/none

# Nodes are believed whatever they have, and no job is bound to a core: eight jobs of one CPU share two cores.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=$((memory / cpus))
GresTypes=gpu
$(enforcement)

SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
FirstJobId=$first_job_id
MinJobAge=$min_job_age

# Seconds where a site has minutes.
KillWait=2
SlurmdTimeout=$node_timeout
MessageTimeout=$((node_timeout / 2)) # which a ping of a dead node waits
ReturnToService=2

$(accounting_conf "$((port + 1))")

$(for ((number = 1; number <= nodes; number++)); do node_conf "$number" "$((port + 1 + number))"; done)
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10
CONF
}

node_conf() { # NUMBER PORT
    local gres=''
    [ "$gpus" = 0 ] || gres="Gres=gpu:$gpus"
    echo "NodeName=$node_prefix$1 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$2 CPUs=$cpus RealMemory=$memory State=UNKNOWN $gres"
}

enforcement() {
    case $memory_limit in
        kill) printf '%s\n' ProctrackType=proctrack/linuxproc TaskPlugin=task/none JobAcctGatherType=jobacct_gather/linux \
            JobAcctGatherFrequency=task=1 JobAcctGatherParams=OverMemoryKill ;;
        cgroup) printf '%s\n' ProctrackType=proctrack/cgroup TaskPlugin=task/cgroup JobAcctGatherType=jobacct_gather/linux ;;
        off) printf '%s\n' ProctrackType=proctrack/linuxproc TaskPlugin=task/none JobAcctGatherType=jobacct_gather/linux ;;
    esac
}

accounting_conf() { # PORT
    if [ "$accounting" = off ]; then
        echo AccountingStorageType=accounting_storage/none
        return
    fi
    # What is called a password is munge's socket, here as in AuthInfo.
    printf "%s\n" AccountingStorageType=accounting_storage/slurmdbd AccountingStorageHost=localhost "AccountingStoragePort=$1" \
        "AccountingStoragePass=$STATE/run/munge.socket"
    [ "$accounts" = off ] || echo AccountingStorageEnforce=associations,qos
}

slurmdbd_conf() { # FIRST_PORT
    cat <<CONF
AuthType=auth/munge
AuthInfo=socket=$STATE/run/munge.socket
DbdHost=localhost
DbdPort=$(($1 + 1))
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
PidFile=$STATE/run/slurmdbd.pid
LogFile=$STATE/log/slurmdbd.log
CONF
}
