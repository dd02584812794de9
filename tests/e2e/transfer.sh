#!/usr/bin/env bash
# deploy/transfer: what it shows at a small size, what it leaves, what it refuses; at its own size with `full`.
# Usage: transfer.sh BIN_DIRECTORY [full]
set -euo pipefail
export BIN=$1
size=${2:-small}
transfer=$(dirname "$0")/../../deploy/transfer
work=$(mktemp -d "${TMPDIR:-/tmp}/performerd-test.XXXXXX")
trap 'rm -rf "$work"' EXIT

fail() {
    echo "FAILED: $*" >&2
    cat "$work/log" >&2 || true
    exit 1
}

# refused WORDS ARGUMENT...
refused() {
    local words=$1 code=0
    shift
    "$transfer" "$@" >"$work/out" 2>"$work/log" || code=$?
    [ "$code" -eq 2 ] || fail "$*: exit $code"
    grep -qF -- "$words" "$work/log" || fail "$*: does not say: $words"
}

if [ "$size" = small ]; then
    refused 'unexpected argument: fast' fast
    refused "--steps takes a number of 1 or more, not '0'" --steps 0
    refused '--steps must be a multiple of --every' --steps 30
    refused 'is there and not of an earlier transfer' --directory "$work"
    arguments=(--softmax-steps 80 --steps 20 --every 5 --set model.layers=2 --set model.width=32 --set model.mlp=64
        --set data.length=64 --set evaluate.batches=4)
fi
"$transfer" --json --directory "$work/transfer" "${arguments[@]}" >"$work/result.json" 2>"$work/log" || fail "exit $?"
# The same programs again give the same losses, so none of this is a matter of luck.
jq -e '
    [.runs[].name] == ["softmax", "softmax-positive-from-softmax", "softmax-trig-from-softmax", "softmax-positive-from-scratch"]
    and all(.runs[]; .state == "SUCCEEDED") and ([.runs[].transferred] == [false, true, true, false])
    and (.runs[0] as $softmax | .runs[1] as $heir | .runs[3] as $scratch
        | ($heir.first_loss - $softmax.last_loss | fabs) < 0.1 * ($scratch.first_loss - $softmax.last_loss)
        and $heir.recovered_step != null and $heir.loss < $scratch.loss
        and ($scratch.recovered_step == null or 2 * $heir.recovered_step < $scratch.recovered_step))
    and all(.runs[1, 2]; .kernel_error > 0)
' "$work/result.json" >/dev/null || fail "not as it should be: $(cat "$work/result.json")"
[ -s "$(jq -r .init "$work/result.json")" ] || fail "the checkpoint of exact softmax is not in $work/transfer"
echo "-- $(jq -c '.runs[] | [.name, .first_loss, .loss, .last_loss, .recovered_step]' "$work/result.json" | xargs)"
