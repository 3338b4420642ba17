#!/bin/sh
# What a sandbox costs that somebody else has made, when one daemon serves many of them: network namespaces,
# each attached by a process in it, as root. Bars:
#
#   median attach at most 5 ms of the daemon's and the holder's CPU; the rest of the time until the answer is the
#   kernel's, which waits for all its cores when packet rules change
#   memory of an idle one at most 100 KB: the daemon's and the holder's share (PSS)
#   a cached lookup in one of them at most 1.2 times what it takes in a daemon's only one, at equal load
#   another policy in force in all of them in less than a second, over the daemon's API
#   a killed daemon serves all of them again within a second (of as many as RESTARTED says), and in the meantime
#   nothing leaves: a packet socket in the daemon's own namespace sees every packet there
#
#   benches/attached.sh [PORTCULLIS]   a release build; default target/release/portcullis
#   COUNT=1000 RESTARTED=100 ROUNDS=9  how many, and how long it takes
#   FOLDER=/dev/shm                    where the daemon keeps its state and its records
#
# Needs root, and the Debian packages dnsperf, unbound, util-linux (nsenter, unshare), iproute2, python3.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
program=${1:-$here/../target/release/portcullis}

PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH
export PATH
for needed in dnsperf:dnsperf unbound:unbound nsenter:util-linux ip:iproute2 python3:python3; do
    command -v "${needed%%:*}" > /dev/null || {
        echo "attached.sh: install the Debian package ${needed##*:}" >&2
        exit 2
    }
done
[ -x "$program" ] || {
    echo "attached.sh: $program is not there: cargo build --release -p portcullis-cli" >&2
    exit 2
}
[ "$(id -u)" = 0 ] || {
    echo "attached.sh: only root may enter network namespaces that are not its own" >&2
    exit 2
}

# In memory: how long a disk takes to keep what the daemon writes is the disk's own time.
folder=$(mktemp -d -p "${FOLDER:-/dev/shm}")
trap 'rm -rf "$folder"' EXIT INT TERM
cp "$program" "$folder/portcullis"
cd "$folder"
# A network of its own: whatever leaves the daemon is seen there, and nothing else is.
unshare --net python3 -B "$here/attached.py"
