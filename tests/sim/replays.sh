#!/usr/bin/env bash
# A history replays to the last word from its seed, and another seed tells another. Usage: replays.sh SIM
set -euo pipefail
sim=$1
for seed in $(seq 1 15); do
    first=$("$sim" --seed "$seed" --trace)
    again=$("$sim" --seed "$seed" --trace)
    if [ "$first" != "$again" ] || [ "$first" = "${before-}" ]; then
        echo "seed $seed does not replay:"
        diff <(echo "$first") <(echo "$again") || true
        exit 1
    fi
    before=$first
done
[ "$(wc -l <<<"$first")" -gt 10 ]
