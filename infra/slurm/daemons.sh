# shellcheck shell=bash
# What cluster.sh and ../s3/server.sh share: packages, free ports, and daemons that are ended by the pid files they wrote. Sourced, not run.
# Every daemon is started with RATCHET_STATE in its environment: a pid file whose number meanwhile belongs to someone else ends nothing.

die() {
    echo "$(basename "$0"): $*" >&2
    exit 2
}

need_root() {
    [ "$(id -u)" = 0 ] || die "needs root: it starts system daemons; got user $(id -un). Next: sudo $0 …"
}

# need_packages OPTION… -- PACKAGE…: installs what is missing with `apt-get install OPTION…`; nothing is asked of the network if nothing is missing.
need_packages() {
    local options=() missing=() package
    while [ "$1" != -- ]; do options+=("$1"); shift; done
    shift
    command -v dpkg-query apt-get >/dev/null || die "installs with apt-get, which is not here. Next: run it on Debian 12, or install yourself: $*"
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return 0
    echo "installing ${missing[*]}" >&2
    # Packages may not start their services: what runs here is started by these scripts, in folders of their own.
    local policy=/usr/sbin/policy-rc.d made='' log code=0
    log=$(mktemp --tmpdir ratchet-apt-XXXXXX.log)
    [ -e $policy ] || { made=$policy; printf '#!/bin/sh\nexit 101\n' >$policy; chmod 755 $policy; }
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes "${options[@]}" "${missing[@]}"; } >"$log" 2>&1 || code=$?
    [ -z "$made" ] || rm -f "$made"
    [ "$code" = 0 ] || die "cannot install ${missing[*]}: $(tail -n 1 "$log"). Next: see $log"
    rm -f "$log"
}

# wait_until SECONDS COMMAND…: true as soon as COMMAND is, false if it never was.
wait_until() {
    local until=$((SECONDS + $1)); shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$until" ] || return 1
        sleep 0.1
    done
}

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# block_is_free FIRST COUNT: nothing listens on these ports of this machine.
block_is_free() {
    local port
    for ((port = $1; port < $1 + $2; port++)); do
        if listens "$port"; then return 1; fi
    done
}

# free_block COUNT: the first of COUNT neighbouring ports on which nothing listens, below the ports that the kernel hands out by itself.
free_block() {
    local first
    for _ in {1..100}; do
        first=$((20000 + RANDOM % 10000))
        if block_is_free "$first" "$1"; then echo "$first"; return 0; fi
    done
    die "found no $1 free ports next to each other between 20000 and 30000"
}

is_ours() { tr '\0' '\n' 2>/dev/null <"/proc/$1/environ" | grep -qxF "RATCHET_STATE=$STATE"; } # PID

# pid_of PID_FILE: the daemon that wrote it, if it lives and is ours.
pid_of() {
    local pid
    pid=$(cat "$1" 2>/dev/null) && [ -n "$pid" ] && is_ours "$pid" && echo "$pid"
}

runs() { pid_of "$1" >/dev/null; }

# stop PID_FILE [SIGNAL]: end the daemon that wrote it and wait until it is gone; SIGKILL after ten seconds.
stop() {
    local pid
    pid=$(pid_of "$1") || return 0
    end "$pid" "${2:-TERM}"
    rm -f "$1"
}

end() { # PID SIGNAL
    kill "-$2" "$1" 2>/dev/null || true
    wait_until 10 gone "$1" || { kill -KILL "$1" 2>/dev/null || true; wait_until 10 gone "$1"; }
}

# sweep NAME…: end what of these is ours and has no pid file any more.
sweep() {
    local name pid
    for name in "$@"; do
        while read -r pid; do
            if is_ours "$pid"; then end "$pid" TERM; fi
        done < <(grep -lx "$name" /proc/[0-9]*/comm 2>/dev/null | cut -d/ -f3)
    done
}

gone() { ! kill -0 "$1" 2>/dev/null || grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null; }
