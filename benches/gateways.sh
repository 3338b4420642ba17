#!/bin/sh
# Many gateways in one process: the memory of each, and how long one takes until it is served. Bars: at
# most 100 KiB of resident memory each when idle, half of them served within 5 ms, a cached lookup in one of
# them within 1.2 times what it takes in a lone one, another policy in force in all within a second.
#
#   benches/gateways.sh [THOUSAND]   default target/release/examples/thousand, from
#                                    cargo build --release -p portcullis-gateway --example thousand
#
# Each gateway has listeners of its own on this host's loopback, a policy, a record, a live view of its
# decisions and counters. Eleven descriptors each: raise `ulimit -n` for more than a thousand.
#
# Settings: COUNT (1000).
set -eu

thousand=${1:-$(dirname "$0")/../target/release/examples/thousand}
count=${COUNT:-1000}

[ -x "$thousand" ] || {
    echo "gateways.sh: $thousand is not there: cargo build --release -p portcullis-gateway --example thousand" >&2
    exit 2
}
needed=$((count * 11 + 100))
[ "$(ulimit -n)" = unlimited ] || [ "$(ulimit -n)" -ge "$needed" ] || ulimit -n "$needed"
exec "$thousand" "$count"
