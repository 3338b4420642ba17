#!/bin/sh
# A policy that includes a plain list of a million names, beside one of ten: how long it takes to load,
# what it costs in memory, and how long a decision takes. Bars: loads under 2 s, at most 200 MiB
# resident at any time, a decision within twice that with ten rules.
#
#   benches/policy.sh [MEASURE]      default target/release/examples/measure, from
#                                    cargo build --release -p portcullis-policy --example measure
#
# The million are asked for in two ways: by a program that uses a thousand of them, which is how lists
# are used, and in random order over all of them, which is what no cache of a processor can help with.
#
# Processor time is what counts, so that other programs that run do not; they still take their share
# of the caches, and with it time from a decision that has a million names to look among. The rounds
# take turns; the median of each figure is shown.
#
# Needs the Debian package python3. Settings: NAMES (1000000), ROUNDS (5).
set -eu

measure=${1:-$(dirname "$0")/../target/release/examples/measure}
names=${NAMES:-1000000}
rounds=${ROUNDS:-5}

command -v python3 > /dev/null || {
    echo "policy.sh: install the Debian package python3" >&2
    exit 2
}
[ -x "$measure" ] || {
    echo "policy.sh: $measure is not there: cargo build --release -p portcullis-policy --example measure" >&2
    exit 2
}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM

# The same list in each run: names of registrable domains and of hosts below them, 5 to 22 letters.
python3 - "$folder" "$names" << 'END'
import random, sys

folder, count = sys.argv[1], int(sys.argv[2])
some = random.Random(7)
words = 'ads track cdn img api static shop news data cloud mail best free click stat game'.split()
ends = 'com net org io co.uk de xyz info'.split()
letters = 'abcdefghijklmnopqrstuvwxyz0123456789'
seen = {}
while len(seen) < count:
    name = some.choice(words) + ''.join(some.choices(letters, k=some.randint(3, 8)))
    name += '.' + some.choice(ends)
    if some.random() < 0.4:
        name = some.choice(words) + str(some.randrange(100)) + '.' + name
    seen[name] = None
every = list(seen)
for file, part in [('many', every), ('ten', every[:10])]:
    with open(f'{folder}/{file}.txt', 'w') as out:
        out.write('\n'.join(part) + '\n')
    with open(f'{folder}/{file}.toml', 'w') as out:
        out.write(f'version = 1\ninclude = ["{file}.txt"]\n')
END

round=0
while [ "$round" -lt "$rounds" ]; do
    round=$((round + 1))
    "$measure" "$folder/ten.toml" "$folder/many.txt" 10 >> "$folder/ten.out"
    "$measure" "$folder/many.toml" "$folder/many.txt" 1000 >> "$folder/used.out"
    "$measure" "$folder/many.toml" "$folder/many.txt" "$names" >> "$folder/many.out"
done

python3 - "$folder" << 'END'
import statistics, sys

def read(file):
    rows = [dict(pair.split('=') for pair in line.split()) for line in open(file)]
    return {key: statistics.median(float(row[key]) for row in rows) for key in rows[0]}

ten, used, many = (read(f'{sys.argv[1]}/{file}.out') for file in ('ten', 'used', 'many'))
print(f"{many['rules']:,.0f} names: loaded in {many['load_ms']:.0f} ms "
      f"({many['load_cpu_ms']:.0f} ms of processor time), "
      f"{many['rss_kib'] / 1024:.0f} MiB resident, {many['peak_kib'] / 1024:.0f} MiB at most")
print(f"{'ns for':32}{'ten rules':>10}{'1000 used':>10}{'ratio':>7}{'all used':>10}{'ratio':>7}")
for key, what in [('question_allowed_ns', 'a question, allowed'),
                  ('question_denied_ns', 'a question, denied'),
                  ('lookup_allowed_ns', 'decide(lookup), allowed'),
                  ('lookup_denied_ns', 'decide(lookup), denied'),
                  ('connect_allowed_ns', 'decide(connection), allowed'),
                  ('connect_denied_ns', 'decide(connection), denied')]:
    print(f"{what:32}{ten[key]:10.0f}{used[key]:10.0f}{used[key] / ten[key]:7.2f}"
          f"{many[key]:10.0f}{many[key] / ten[key]:7.2f}")
END
