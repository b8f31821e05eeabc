#!/usr/bin/env bash
# A real S3 server on one Debian machine: Ceph's radosgw over one storage daemon that keeps everything in memory.
#
#   server.sh install           the packages, by apt-get; nothing to do if they are there
#   server.sh up DIR [PORT]     start an empty server; a free port if PORT is 0 or not given; nothing to do if one is up in DIR
#   server.sh down DIR          end exactly the daemons that `up` started; what was stored is gone, the logs stay
#   server.sh status DIR        which daemons run, and whether the server answers; exit code 0 if all is well
#   server.sh stop-gateway DIR  for tests of an outage: nothing listens; start-gateway DIR: it is back, with all that was stored
#
# `up` writes DIR/endpoint (the URL) and DIR/credentials, lines for a shell that boto3, the aws command and Ratchet read from the environment:
#
#   set -a; . DIR/credentials; set +a
#
# Buckets are addressed by path (http://127.0.0.1:PORT/BUCKET/KEY). Conditional writes are real: of many racing puts with If-None-Match: * one wins.
# Servers with different folders live side by side; each takes PORT and the 29 after it, and holds at most 4 GiB.
set -euo pipefail
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/../slurm/daemons.sh"

PACKAGES=(ceph-mon ceph-osd ceph-common radosgw)
PORTS=30
DAEMONS=(mon.a osd.0 client.rgw)

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; }

write_config() { # PORT
    cat >"$CEPH_CONF" <<CONF
[global]
fsid = $(cat /proc/sys/kernel/random/uuid)
mon host = $(monitor "$1")
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
ms bind port min = $(($1 + 3))
ms bind port max = $(($1 + PORTS - 1))
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = $STATE/keyring
run dir = $STATE/run
pid file = $STATE/run/\$name.pid
admin socket = $STATE/run/\$name.asok
log file = $STATE/log/\$name.log
# One copy, on one storage daemon, in memory.
osd data = $STATE/osd
osd objectstore = memstore
memstore device bytes = 4294967296
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
osd pool default pg num = 4
mon allow pool size one = true
mon max pg per osd = 1000
mon data = $STATE/mon
# There is one monitor, and nobody to agree with: each pool that radosgw makes at its start would wait a second for more to decide.
paxos propose interval = 0.01
paxos min wait = 0.01
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:$1
CONF
}

monitor() { echo "[v2:127.0.0.1:$(($1 + 1)),v1:127.0.0.1:$(($1 + 2))]"; }

add_key() { ceph-authtool "$STATE/keyring" --gen-key -n "$1" "${@:2}" >/dev/null; } # NAME --cap SERVICE CAPABILITY…

start_monitor() { # PORT
    ceph-authtool --create-keyring "$STATE/keyring" --gen-key -n mon. --cap mon 'allow *' >/dev/null
    add_key client.admin --cap mon 'allow *' --cap osd 'allow *'
    add_key client.rgw --cap mon 'allow *' --cap osd 'allow *'
    add_key osd.0 --cap mon 'allow profile osd' --cap osd 'allow *'
    monmaptool --create --addv a "$(monitor "$1")" "$STATE/monmap" >/dev/null
    ceph-mon --mkfs -i a --monmap "$STATE/monmap" --keyring "$STATE/keyring"
    ceph-mon -i a
}

start_storage() {
    ceph osd create >/dev/null
    ceph-osd -i 0 --mkfs --no-mon-config
    ceph-osd -i 0
}

add_user() { # PORT
    local access secret
    access=$(tr -dc 'A-Z0-9' </dev/urandom | head -c 20 || true)
    secret=$(tr -dc 'A-Za-z0-9' </dev/urandom | head -c 40 || true)
    radosgw-admin -n client.rgw user create --uid=ratchet --display-name=Ratchet --access-key="$access" --secret="$secret" >/dev/null
    echo "http://127.0.0.1:$1" >"$STATE/endpoint"
    (umask 077 && printf '%s\n' AWS_ACCESS_KEY_ID="$access" AWS_SECRET_ACCESS_KEY="$secret" AWS_ENDPOINT_URL="http://127.0.0.1:$1" \
        AWS_DEFAULT_REGION=us-east-1 >"$STATE/credentials")
}

start_gateway() {
    radosgw -n client.rgw
    wait_until 60 answers
}

answers() { # a visitor without a name may list no buckets, and is told so in S3's words
    local port
    port=$(sed 's/.*://' "$STATE/endpoint" 2>/dev/null) || return 1
    (exec 3<>"/dev/tcp/127.0.0.1/$port" && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && timeout 5 grep -q ListAllMyBuckets <&3) 2>/dev/null
}

up() { # PORT
    local port=$1
    command -v ceph-mon ceph-osd radosgw >/dev/null || die "Ceph is not installed. Next: $0 install"
    if status >/dev/null; then
        local url
        url=$(cat "$STATE/endpoint")
        [ "$port" = 0 ] || [ "http://127.0.0.1:$port" = "$url" ] || die "a server is up in $STATE at $url. Next: $0 down $STATE"
        echo "already up: $url"
        return 0
    fi
    [ -O "$CEPH_CONF" ] || [ -z "$(ls -A "$STATE")" ] || die "DIR must be a folder that is empty or a server's; got $STATE, which holds other things"
    down
    [ "$port" != 0 ] || port=$(free_block $PORTS)
    block_is_free "$port" $PORTS || die "ports $port to $((port + PORTS - 1)) must be free. Next: another PORT, or none"
    rm -rf "${STATE:?}"/{mon,osd,run,log,keyring,monmap}
    mkdir -p "$STATE"/{mon,osd,run,log}
    trap 'down; echo "$(basename "$0"): the server did not come up. Next: see $STATE/log" >&2' EXIT
    write_config "$port"
    (start_monitor "$port"; start_storage; add_user "$port"; start_gateway) 2>"$STATE/log/up.log"
    trap - EXIT
    echo "up: $(cat "$STATE/endpoint"). Next: set -a; . $STATE/credentials; set +a"
}

down() {
    local number
    [ -O "$CEPH_CONF" ] || return 0
    rm -f "$STATE/credentials" "$STATE/endpoint"
    for ((number = ${#DAEMONS[@]} - 1; number >= 0; number--)); do stop "$STATE/run/${DAEMONS[$number]}.pid"; done
    sweep radosgw ceph-osd ceph-mon
    rm -rf "${STATE:?}"/{mon,osd}
}

status() {
    local daemon pid well=0
    for daemon in "${DAEMONS[@]}"; do
        if pid=$(pid_of "$STATE/run/$daemon.pid"); then echo "$daemon: runs as $pid"; else echo "$daemon: does not run"; well=1; fi
    done
    if answers; then echo "answers at $(cat "$STATE/endpoint")"; else echo "does not answer"; well=1; fi
    return $well
}

[ $# -ge 1 ] || { usage >&2; exit 2; }
verb=$1
case $verb in
    -h | --help | help) usage; exit 0 ;;
    install) need_root; need_packages --no-install-recommends -- "${PACKAGES[@]}"; exit 0 ;;
    up | down | status | stop-gateway | start-gateway) ;;
    *) die "no verb '$verb'. Next: $0 --help" ;;
esac
[ $# -ge 2 ] || die "$verb needs a folder. Next: $0 $verb DIR"
if ! [[ ${3:-0} =~ ^[0-9]{1,5}$ ]] || [ "${3:-0}" -gt 65000 ]; then die "PORT must be a number up to 65000, or 0 for a free one; got '$3'"; fi
need_root
[ "$verb" != up ] || mkdir -p "$2"
[ -d "$2" ] || die "there is no folder $2"
STATE=$(cd "$2" && pwd)
[ "${#STATE}" -le 60 ] || die "DIR must be at most 60 characters long, for the sockets below it; got $STATE"
export RATCHET_STATE=$STATE CEPH_CONF=$STATE/ceph.conf
case $verb in
    up) up "${3:-0}" ;;
    down) down ;;
    status) status ;;
    stop-gateway) stop "$STATE/run/client.rgw.pid" ;;
    start-gateway) runs "$STATE/run/osd.0.pid" || die "no server is up in $STATE. Next: $0 up $STATE"; start_gateway ;;
esac
