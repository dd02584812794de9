#!/usr/bin/env bash
# What deploy/bench-pytorch does before PyTorch has a say: whom it refuses and why, and what it hands on. Needs no Python.
# Usage: bench_pytorch.sh BENCH-PYTORCH DIRECTORY-OF-PERFORMER-BENCH
set -euo pipefail
bench=$1
export BIN=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    echo "bench_pytorch: $*" >&2
    exit 1
}

# What answers as a Python does whose PyTorch is of this version, or that has none; the table is what it was given.
python_with() {
    cat >"$work/python" <<END
#!/usr/bin/env bash
if [ "\$1" = -c ]; then [ -n '$1' ] && echo '$1'; exit; fi
printf '%s\n' "\$@" "coretype \${OPENBLAS_CORETYPE-none}" "isa \${ONEDNN_MAX_CPU_ISA-none}" "threads \${OMP_NUM_THREADS-none}"
END
    chmod +x "$work/python"
    export PYTHON=$work/python
}

# EXIT WORDS ARGUMENT...
refused() {
    local code=$1 words=$2 got=0
    shift 2
    "$bench" "$@" >"$work/out" 2>"$work/errors" || got=$?
    [ "$got" -eq "$code" ] || fail "$*: exit $got instead of $code: $(cat "$work/errors")"
    grep -qF -- "$words" "$work/errors" || fail "$*: said $(cat "$work/errors")"
    [ ! -s "$work/out" ] || fail "$*: printed $(cat "$work/out")"
}

"$bench" --help | grep -q '^usage: .*--cells' || fail "no help"
export PYTHON=$work/nowhere
refused 3 "there is no $work/nowhere; PYTHON=... names"
python_with ''
refused 3 "$work/python has no PyTorch"
for version in 1.13.1+cpu 2.0.1 2.4.1; do
    python_with "$version"
    refused 3 "PyTorch $version is older than 2.5"
done
python_with nightly
refused 3 "is 'nightly', which is no version"
python_with 2.10.0a0+git1234
refused 2 'unexpected argument: fast' fast
refused 2 "--minutes takes a number of 1 or more, not '0'" --minutes 0
refused 2 "--threads takes a number of 1 or more, not ''" --threads
refused 2 '--cells takes a list' --cells
BIN=$work refused 1 "no $work/performer-bench: build first"

given=$(OPENBLAS_CORETYPE=Haswell ONEDNN_MAX_CPU_ISA=AVX2 OMP_NUM_THREADS=1 "$bench" --cells favor --json --minutes 3)
[ "$given" = "$(printf '%s\n' deploy/bench/table.py --bin "$BIN" --cells favor --json --minutes 3 'coretype none' 'isa none' 'threads none')" ] ||
    fail "handed on: $given"
