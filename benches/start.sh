#!/bin/sh
# How long `portcullis run` takes to start a program, beside bubblewrap with the same namespaces,
# in one run of hyperfine, as an ordinary user. Bar: at most twice; goal: 1.2 times.
#
#   benches/start.sh [PORTCULLIS]      a release build; default target/release/portcullis
#
# Needs the Debian packages hyperfine, bubblewrap, util-linux (setpriv), python3.
set -eu

program=${1:-$(dirname "$0")/../target/release/portcullis}
rounds=${ROUNDS:-10}
runs=${RUNS:-20}

for needed in hyperfine:hyperfine bwrap:bubblewrap setpriv:util-linux python3:python3; do
    command -v "${needed%%:*}" > /dev/null || {
        echo "start.sh: install the Debian package ${needed##*:}" >&2
        exit 2
    }
done
[ -x "$program" ] || {
    echo "start.sh: $program is not there: cargo build --release -p portcullis-cli" >&2
    exit 2
}

# Where root measures, an ordinary user is measured, who may not be able to read root's folders.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
cp "$program" "$folder/portcullis"
chmod 755 "$folder" "$folder/portcullis"
as_user=
if [ "$(id -u)" = 0 ]; then
    chown 65534:65534 "$folder"
    as_user="setpriv --reuid 65534 --regid 65534 --clear-groups"
fi
cd "$folder"

# No traffic leaves: nothing asks for x.example. The resolver is named so that none is needed.
run="./portcullis run --allow x.example --resolver 203.0.113.53 --"
cage="bwrap --unshare-all --ro-bind / / --dev /dev --proc /proc"

# `true` is the whole time; `echo` into a pipe is the first byte of output and the end. The pairs
# take turns, so that what else the machine does falls on both.
round=0
while [ "$round" -lt "$rounds" ]; do
    round=$((round + 1))
    $as_user hyperfine --shell=none --warmup 3 --runs "$runs" --export-json "result-$round.json" \
        "$cage true" "$run true" "$cage echo" "$run echo" > hyperfine.log 2>&1 || {
        cat hyperfine.log >&2
        exit 1
    }
done

python3 - result-*.json <<'END'
import json, statistics, sys

names = ['bwrap true', 'run true', 'bwrap echo', 'run echo']
times = [[] for _ in names]
for file in sys.argv[1:]:
    for all_times, result in zip(times, json.load(open(file))['results']):
        all_times.extend(1000 * seconds for seconds in result['times'])
medians = [statistics.median(all_times) for all_times in times]
for name, all_times, median in zip(names, times, medians):
    print(f'{name:10}  median {median:6.2f} ms  min {min(all_times):6.2f} ms  of {len(all_times)}')
print(f'ratio true  {medians[1] / medians[0]:.2f}  (bar 2.0, goal 1.2)')
print(f'ratio echo  {medians[3] / medians[2]:.2f}')
sys.exit(0 if medians[1] <= 2 * medians[0] else 1)
END
