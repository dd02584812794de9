#!/usr/bin/env bash
# What nvcc and its assembler say of kernels/cuda, without a GPU: no warning, no spill, registers within what a block may have,
# and the tensor cores' instruction in the PTX; and that host code compiles. Skipped where there is no nvcc.
# Usage: cuda_gates.sh SOURCE_DIRECTORY
set -euo pipefail
cd "$1"
command -v nvcc >/dev/null || { echo "there is no nvcc here"; exit 77; }

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failures=0
kernels=0

say() {
    echo "$*"
    failures=$((failures + 1))
}

for source in kernels/cuda/*.cu; do
    for arch in 80 90 100; do
        object=$scratch/$(basename "$source" .cu).$arch
        if ! nvcc -std=c++17 -O3 -I. -Werror all-warnings -gencode "arch=compute_$arch,code=sm_$arch" -Xptxas -v \
            -c "$source" -o "$object" >"$object.log" 2>&1; then
            cat "$object.log"
            say "$source does not compile for sm_$arch"
            continue
        fi
        kernels=$((kernels + $(grep -c 'Compiling entry function' "$object.log")))
        # Sines of large arguments have a stack frame; that is no spill.
        grep -E '[1-9][0-9]* bytes spill' "$object.log" && say "$source spills on sm_$arch"
        while read -r registers; do
            # 256 threads a block, 65536 registers an SM
            [ "$registers" -le 255 ] || say "$source: $registers registers a thread on sm_$arch"
        done < <(grep -oE 'Used [0-9]+ registers' "$object.log" | grep -oE '[0-9]+')
    done
done

for source in favor softmax; do
    nvcc -std=c++17 -I. -arch=sm_90 -ptx "kernels/cuda/$source.cu" -o "$scratch/$source.ptx"
    grep -q 'mma.sync.aligned.m16n8k16.row.col.f32.bf16' "$scratch/$source.ptx" || say "$source: no bf16 product on tensor cores"
done

# The host's side with the headers of the toolkit and of NCCL, from which those of tests/cudashim must not drift.
headers=$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")/include
for source in kernels/cuda/*.c worker/collective_nccl.c; do
    if [[ $source == worker/* ]] && ! cc -E -isystem "$headers" -include nccl.h -x c /dev/null >/dev/null 2>&1; then
        echo "there is no nccl.h here: $source is not looked at"
        continue
    fi
    cc -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -I. -isystem "$headers" -fsyntax-only "$source" ||
        say "$source does not compile"
done

echo "$kernels kernels, $failures faults"
[ "$kernels" -gt 60 ] && [ "$failures" -eq 0 ]
