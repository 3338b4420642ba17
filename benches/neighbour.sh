#!/bin/sh
# What a noisy neighbour does to a sandbox: a flood of lookups at full speed, and one of connections, in one sandbox of a
# daemon, and the p99 of cached lookups in another, beside what the same flood by one client of unbound does to another.
# Bar: it raises the p99 by at most 1.5 times what it does there.
#
#   benches/neighbour.sh [PORTCULLIS]   a release build; default target/release/portcullis
#   ROUNDS=7 SECONDS_EACH=2             how long it takes
#
# Needs root, and the Debian packages dnsperf, unbound, util-linux (nsenter, unshare), iproute2, python3.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
program=${1:-$here/../target/release/portcullis}

PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH
export PATH
for needed in dnsperf:dnsperf unbound:unbound nsenter:util-linux ip:iproute2 python3:python3; do
    command -v "${needed%%:*}" > /dev/null || {
        echo "neighbour.sh: install the Debian package ${needed##*:}" >&2
        exit 2
    }
done
[ -x "$program" ] || {
    echo "neighbour.sh: $program is not there: cargo build --release -p portcullis-cli" >&2
    exit 2
}
[ "$(id -u)" = 0 ] || {
    echo "neighbour.sh: only root may enter network namespaces that are not its own" >&2
    exit 2
}

folder=$(mktemp -d -p "${FOLDER:-/dev/shm}")
trap 'rm -rf "$folder"' EXIT INT TERM
cp "$program" "$folder/portcullis"
cd "$folder"
# A network of its own: whatever leaves the daemon is seen there, and nothing else is.
unshare --net python3 -B "$here/neighbour.py"
