#!/bin/sh
# Builds the fuzz target under the address and undefined-behaviour sanitizers: build.sh DIRECTORY [fuzzer]
# With "fuzzer" (needs clang) it becomes a libFuzzer target, else a program that damages chunks by itself.
set -eu
out=$1
mode=${2:-standalone}
here=$(cd "$(dirname "$0")" && pwd)
source=$here/../../analysis/dada/kernels
flags="-std=c11 -O1 -g -fno-omit-frame-pointer -fno-sanitize-recover=all -I$source"
if [ "$mode" = fuzzer ]; then
    CC=${CC:-clang}
    flags="$flags -fsanitize=address,undefined,fuzzer-no-link"
    link="-fsanitize=address,undefined,fuzzer"
else
    CC=${CC:-cc}
    flags="$flags -fsanitize=address,undefined -DSTANDALONE"
    link="-fsanitize=address,undefined"
fi
avx2="-mavx2 -mbmi -mbmi2 -mpopcnt -mlzcnt"
avx512="$avx2 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vbmi -mavx512vbmi2 -mavx512vpopcntdq -mavx512bitalg
    -mgfni"
case $(uname -m) in
x86_64)
    flags="$flags -DDADA_X86"
    # shellcheck disable=SC2086
    {
        $CC $flags $avx2 -c "$source/simd_avx2.c" -o "$out/simd_avx2.o" &
        $CC $flags $avx512 -c "$source/simd_avx512.c" -o "$out/simd_avx512.o" &
        $CC $flags $avx512 -c "$source/lz4_avx512.c" -o "$out/lz4_avx512.o" &
    }
    ;;
esac
# shellcheck disable=SC2086
{
    for name in plan chunk lz4_stream batch block tile portable; do
        $CC $flags -c "$source/$name.c" -o "$out/$name.o"
    done
    $CC $flags -c "$here/fuzz_chunk.c" -o "$out/fuzz_chunk.o"
    wait
    $CC "$out"/*.o $link -llz4 -o "$out/fuzz_chunk"
}
