# shellcheck shell=bash
# The options of cluster.sh: what they are unless said, what is read from the command line, what a cluster was started with. Sourced, not run.
# shellcheck disable=SC2034  # most are read in config.sh

STATE=/var/lib/ratchet-slurm
OPTIONS=(nodes cpus memory gpus accounting accounts memory_limit requeue_delay node_timeout min_job_age first_job_id node_prefix)
nodes=1 cpus=8 memory=8192 gpus=2 accounting=on accounts=off memory_limit=kill requeue_delay=5 node_timeout=10 min_job_age=300 first_job_id=1
node_prefix=node
given=() node='' clean=no with_jobs=no

read_options() {
    local name
    while [ $# -gt 0 ]; do
        name=${1#--}
        name=${name//-/_}
        case $1 in
            --clean | --with-jobs) printf -v "$name" yes; shift; continue ;;
            [0-9]*) node=$1; shift; continue ;;
            --state) name=STATE ;;
            --*) [[ " ${OPTIONS[*]} " == *" $name "* ]] || die "no option '$1'. Next: $0 --help" ;;
            *) die "'$1' is no option. Next: $0 --help" ;;
        esac
        [ $# -ge 2 ] || die "$1 needs a value. Next: $0 --help"
        printf -v "$name" %s "$2"
        given+=("$name")
        shift 2
    done
    [[ $STATE == /* ]] || STATE=$PWD/$STATE
    [ "${#STATE}" -le 60 ] || die "--state must be at most 60 characters long, for the sockets below it; got $STATE"
    [[ $STATE =~ ^[A-Za-z0-9/._-]+$ ]] || die "--state may have letters, digits and /._- in its name; got '$STATE'"
    [[ $node_prefix =~ ^[a-z][a-z0-9-]*$ ]] || die "--node-prefix may have small letters, digits and - in it; got '$node_prefix'"
    number nodes 1
    number cpus 1
    number memory 1
    number gpus 0
    number requeue_delay 5
    number node_timeout 5
    number min_job_age 2
    number first_job_id 1
    one_of accounting on off
    one_of accounts on off
    one_of memory_limit kill cgroup off
    [ "$accounts/$accounting" != on/off ] || die "--accounts on needs --accounting on: accounts are kept there"
    export RATCHET_STATE=$STATE SLURM_CONF=$STATE/slurm.conf MYSQL_UNIX_PORT=$STATE/run/mariadb.socket
}

one_of() { # NAME ALLOWED…
    local allowed
    for allowed in "${@:2}"; do
        if [ "${!1}" = "$allowed" ]; then return 0; fi
    done
    die "--${1//_/-} must be one of: ${*:2}; got '${!1}'"
}

number() { # NAME LEAST
    if ! [[ ${!1} =~ ^[0-9]{1,9}$ ]] || [ "${!1}" -lt "$2" ]; then die "--${1//_/-} must be a whole number of at least $2; got '${!1}'"; fi
}

options() {
    local name
    for name in "${OPTIONS[@]}"; do echo "$name=${!name}"; done
}

recall() { # the options that the cluster was started with
    # shellcheck source=/dev/null
    . "$STATE/options"
}
