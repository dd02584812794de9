#!/usr/bin/env bash
# Holds the includes of every file against the include rule of ARCHITECTURE.md. Usage: includes.sh SOURCE_DIRECTORY
set -euo pipefail
cd "$1"

libc='^<(assert|ctype|errno|fcntl|float|getopt|grp|inttypes|limits|locale|math|dirent|libgen|poll|pthread|pwd|sched|signal|spawn|stdalign|stdarg|stdatomic|stdbool|stddef|stdint|stdio|stdlib|string|strings|termios|time|unistd|wchar|langinfo|cpuid|immintrin|sys/[a-z/]+|linux/[a-z]+|netinet/[a-z]+|arpa/inet|features|ftw|endian)\.h>$'
ours_proto='^"proto/[a-z_0-9.-]+"$'

# folder, then which includes it may have besides libc, as one extended expression
declare -A may=(
    [proto]="$ours_proto|^<(protobuf-c/protobuf-c|jansson)\.h>$"
    [kernels]='^"kernels/[a-z_0-9/]+\.(h|cuh|def)"$|^"proto/(status|choice|whole_number)\.h"$'
    [worker]="$ours_proto|^\"(kernels|worker)/[a-z_0-9]+\.(h|def)\"$|^<(zlib|xxhash|jansson)\.h>$"
    [daemon]="$ours_proto|^\"daemon/[a-z_0-9]+\.(h|def)\"$|^<jansson\.h>$"
    [cli]="$ours_proto|^\"cli/[a-z_0-9]+\.(h|def)\"$|^<jansson\.h>$"
)

# the one or few files that may know a library
declare -A knows=(
    ['<nng/']='proto/client.c daemon/endpoint.c'
    ['<toml++/']='proto/jobspec.cpp'
    ['<uv.h']='daemon/performerd.c daemon/endpoint.c daemon/launch_local.c daemon/launch_slurm.c daemon/subprocess.c daemon/endpoint.h daemon/launch_local.h daemon/launcher.h'
    ['<sqlite3.h']='daemon/store.c'
    ['<mpi.h']='worker/collective_mpi.c worker/collective_bench.c'
    ['<nccl.h']='worker/collective_nccl.c'
    ['"kernels/cuda/gpu.h']='worker/collective_nccl.c'
    ['<dnnl']='kernels/cpu/gemm.c'
    ['<oneapi/']='kernels/cpu/gemm.c'
    ['<omp.h']='kernels/cpu/gemm.c'
    ['<cuda_runtime.h']='kernels/cuda/gpu.h'
    ['<cublasLt.h']='kernels/cuda/gpu.h'
    ['<ptx_twins.h']='kernels/cuda/ptx.cuh' # of tests/cudashim, where no nvcc compiles
)

# Standard C++ headers are for the one C++ file.
cxx='^<[a-z_]+>$'

failures=0
checked=0
while IFS=: read -r file line what; do
    folder=${file%%/*}
    checked=$((checked + 1))
    [[ $what =~ $libc ]] && continue
    [[ $what =~ ${may[$folder]} ]] && continue
    [[ $file == proto/jobspec.cpp && $what =~ $cxx ]] && continue
    allowed=""
    for prefix in "${!knows[@]}"; do
        [[ $what == "$prefix"* ]] && allowed=${knows[$prefix]}
    done
    [[ " $allowed " == *" $file "* ]] && continue
    echo "$file:$line: $folder/ may not include $what (ARCHITECTURE.md, include rule)"
    failures=$((failures + 1))
done < <(git ls-files -- 'proto/*' 'kernels/*' 'worker/*' 'daemon/*' 'cli/*' | grep -E '\.(c|h|cpp|def|cu|cuh)$' |
    xargs grep -nHE '^[[:space:]]*#[[:space:]]*include' |
    sed -E 's/:[[:space:]]*#[[:space:]]*include[[:space:]]*/:/; s/[[:space:]]*(\/[*\/].*)?$//')

echo "$checked includes, $failures not allowed"
[ "$checked" -gt 100 ] && [ "$failures" -eq 0 ]
