#!/bin/sh
# What a connection costs: Portcullis (`serve --http`, records on, into a file) beside haproxy (TCP
# mode, splice, one fixed address, no records), squid and tinyproxy, in one run; and from inside a
# sandbox to a server on the host's loopback beside pasta, slirp4netns and no sandbox at all.
# All as an ordinary user. Prints a table, and which bars are met:
#
#   CPU a CONNECT connection at most tinyproxy's (goal 1.2 of haproxy's)
#   CPU a GB at most haproxy's (goal 0.8 of it)
#   memory an idle tunnel at most 16 KB (goal 8 KB)
#   p99 of a new connection below 2,000 idle tunnels at most 1.5 of that without them
#   throughput out of a sandbox at least pasta's (goal 1.3 of it) and 1.3 of slirp4netns's
#
#   benches/connections.sh [PORTCULLIS [LOAD]]  release builds; default target/release/portcullis{,-load}
#   ROUNDS=9 SECONDS_EACH=1                     how long it takes
#   ONLY=connections,bulk,idle,inside           parts of it
#   CLIENTS=16 PIN=0                            connections at once; everybody on all cores
#
# Needs the Debian packages haproxy, squid, tinyproxy, passt, slirp4netns, util-linux (setpriv,
# unshare), python3.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
program=${1:-$here/../target/release/portcullis}
load_program=${2:-$here/../target/release/portcullis-load}

# The system's own programs first: an ordinary user may not be able to run root's.
PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH
export PATH
for needed in haproxy:haproxy squid:squid tinyproxy:tinyproxy pasta:passt slirp4netns:slirp4netns \
    setpriv:util-linux unshare:util-linux python3:python3; do
    command -v "${needed%%:*}" > /dev/null || {
        echo "connections.sh: install the Debian package ${needed##*:}" >&2
        exit 2
    }
done
for built in "$program:portcullis-cli" "$load_program:portcullis-testkit"; do
    [ -x "${built%:*}" ] || {
        echo "connections.sh: ${built%:*} is not there: cargo build --release -p ${built##*:}" >&2
        exit 2
    }
done

# Where root measures, an ordinary user is measured, who may not be able to read root's folders.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
cp "$program" "$folder/portcullis"
cp "$load_program" "$folder/load"
cp "$here/connections.py" "$folder/connections.py"
chmod 755 "$folder" "$folder/portcullis" "$folder/load"
chmod 644 "$folder/connections.py"
as_user=
if [ "$(id -u)" = 0 ]; then
    chown 65534:65534 "$folder"
    as_user="setpriv --reuid 65534 --regid 65534 --clear-groups"
fi
cd "$folder"
HOME=$folder
export HOME
$as_user python3 connections.py
