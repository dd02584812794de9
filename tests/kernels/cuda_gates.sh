#!/usr/bin/env bash
# What nvcc and its assembler say of kernels/cuda, without a GPU: no warning, no spill, no more registers than REGISTERS beside
# each kernel says, and the tensor cores' instruction in the PTX; and that host code compiles. Skipped where there is no nvcc.
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

declare -A budget
while read -r most name; do
    [ -z "${budget[$name]:-}" ] || say "two kernels are named $name"
    budget[$name]=$most
done < <(cat kernels/cuda/*.cu kernels/cuda/*.cuh | tr -s ' \n' ' ' | grep -oE 'REGISTERS\([0-9]+\) [a-z_]+' | sed -E 's/REGISTERS\(|\)//g')

for source in kernels/cuda/*.cu; do
    for arch in 80 90 100; do
        object=$scratch/$(basename "$source" .cu).$arch
        if ! nvcc -std=c++17 -O3 -I. -Werror all-warnings -gencode "arch=compute_$arch,code=sm_$arch" -Xptxas -v \
            -c "$source" -o "$object" >"$object.log" 2>&1; then
            cat "$object.log"
            say "$source does not compile for sm_$arch"
            continue
        fi
        # Sines of large arguments have a stack frame; that is no spill.
        grep -E '[1-9][0-9]* bytes spill' "$object.log" && say "$source spills on sm_$arch"
        while read -r name registers; do
            kernels=$((kernels + 1))
            [ "$registers" -le "${budget[$name]:-0}" ] ||
                say "$source: $name takes $registers registers on sm_$arch, and may have ${budget[$name]:-none}"
        done < <(awk -F "'" '/Compiling entry/ { name = $2 }
            /Used [0-9]+ registers/ { match($0, /Used [0-9]+/); print name, substr($0, RSTART + 5, RLENGTH - 5) }' "$object.log" |
            sed -E 's/^_ZL?[0-9]+([a-z_]+_kernel)[^ ]*/\1/')
    done
done

for source in favor linformer reformer softmax; do
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
[ "$kernels" -gt 100 ] && [ "$failures" -eq 0 ]
