#!/bin/sh
# What a cached answer costs: Portcullis (policy and records on) beside unbound, dnsmasq and a bare
# UDP echo with batches of 64, the ceiling, on the same 1,000 names. dnsperf asks them in turn, as
# an ordinary user. Bars: CPU a query at most unbound's (goal 0.85 of it), queries a second at least
# unbound's, p99 at 1,000 queries/s at most unbound's, a denial at most an answer.
#
#   benches/dns.sh [PORTCULLIS [ECHO]]  release builds; default target/release/portcullis{,-echo}
#   ROUNDS=7 SECONDS_EACH=4             how long it takes
#
# Needs the Debian packages dnsperf, unbound, dnsmasq-base, util-linux (setpriv, taskset), python3.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
program=${1:-$here/../target/release/portcullis}
echo_program=${2:-$here/../target/release/portcullis-echo}

# The system's own programs first: an ordinary user may not be able to run root's.
PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH
export PATH
for needed in dnsperf:dnsperf unbound:unbound dnsmasq:dnsmasq-base setpriv:util-linux \
    taskset:util-linux python3:python3; do
    command -v "${needed%%:*}" > /dev/null || {
        echo "dns.sh: install the Debian package ${needed##*:}" >&2
        exit 2
    }
done
for built in "$program:portcullis-cli" "$echo_program:portcullis-testkit"; do
    [ -x "${built%:*}" ] || {
        echo "dns.sh: ${built%:*} is not there: cargo build --release -p ${built##*:}" >&2
        exit 2
    }
done

# Where root measures, an ordinary user is measured, who may not be able to read root's folders.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
cp "$program" "$folder/portcullis"
cp "$echo_program" "$folder/echo"
cp "$here/dns.py" "$folder/dns.py"
chmod 755 "$folder" "$folder/portcullis" "$folder/echo"
chmod 644 "$folder/dns.py"
as_user=
if [ "$(id -u)" = 0 ]; then
    chown 65534:65534 "$folder"
    as_user="setpriv --reuid 65534 --regid 65534 --clear-groups"
fi
cd "$folder"
$as_user python3 dns.py
