#!/bin/sh
# How fast a guest's bytes go, without a machine around it that would hide the gateway: the guest is a network
# namespace whose TAP a small bridge joins to what is measured. Two figures in one run:
#
#   behind `run --tap`: a TAP pair, frames with the virtio-net header; beside haproxy (TCP mode, one fixed address, no
#   records), a relay by the kernel that listens at the other end of the same pair. Bar: 0.77 of it
#   on the socket of `vm-socket` (stream framing, MTU 65520), beside passt on its own. Bar: as much as passt
#
#   benches/machines.sh [PORTCULLIS]   a release build; default target/release/portcullis
#   ROUNDS=7 BYTES=300000000 FLOWS=4   how long it takes
#
# The guest's end and the bridge take as much of the machine as what is measured. Where others work on the machine, run
# it with `chrt --fifo 1`, or the figures are theirs.
#
# Needs root, /dev/net/tun, and the Debian packages haproxy, passt, util-linux (nsenter, unshare, setpriv), iproute2,
# python3.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
program=${1:-$here/../target/release/portcullis}

PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH
export PATH
for needed in haproxy:haproxy passt:passt nsenter:util-linux setpriv:util-linux ip:iproute2 python3:python3; do
    command -v "${needed%%:*}" > /dev/null || {
        echo "machines.sh: install the Debian package ${needed##*:}" >&2
        exit 2
    }
done
[ -x "$program" ] || {
    echo "machines.sh: $program is not there: cargo build --release -p portcullis-cli" >&2
    exit 2
}
[ "$(id -u)" = 0 ] || {
    echo "machines.sh: only root may make the namespaces that it measures in" >&2
    exit 2
}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
chmod 755 "$folder"
cp "$program" "$folder/portcullis"
cp "$here/machines.py" "$here/machine.py" "$folder"
cd "$folder"
# A network and mounts of its own: whatever is made here goes with it.
unshare --net --mount --propagation private python3 machines.py
