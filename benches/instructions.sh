#!/bin/sh
# How many instructions the steps of a DNS query take in a release build, beside the figures in
# benches/instructions.txt: a regression shows here before it shows in time, and on a busy machine
# too. Fails where a step takes 5 % more than noted; --write notes what was counted.
#
#   benches/instructions.sh [--write] [PORTCULLIS]      default target/release/portcullis
#
# The figures are those of one compiler and one kind of processor: note them anew with another.
# Needs the Debian packages valgrind, python3.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
write=
if [ "${1:-}" = --write ]; then
    write=--write
    shift
fi
program=${1:-$here/../target/release/portcullis}

for needed in valgrind python3; do
    command -v "$needed" > /dev/null || {
        echo "instructions.sh: install the Debian package $needed" >&2
        exit 2
    }
done
[ -x "$program" ] || {
    echo "instructions.sh: $program is not there: cargo build --release -p portcullis-cli" >&2
    exit 2
}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 "$here/instructions.py" "$program" "$folder" "$here/instructions.txt" $write
