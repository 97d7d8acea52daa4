#!/usr/bin/env bash
# Puts everything that a machine with an NVIDIA GPU needs into one folder: programs, CUDA engine,
# plugins, small models, data, and every shared library that is neither of glibc nor of the driver.
# That machine needs x86-64 with AVX2, a glibc at least as new as the one named in MANIFEST.txt, and
# a driver; nothing is built or installed there. `bash gpu.sh` in the folder runs everything.
#
#   bench/bundle.sh BUILD FOLDER [--without-cuda]
#
# BUILD: of the preset `cuda`, whose programs look for libraries in ../lib (DT_RPATH, which holds for
# the libraries' own needs and for what is loaded later, too). --without-cuda leaves out the
# libraries of the CUDA toolkit, by far the largest part: where a toolkit of the same major version
# is installed they are found there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. bench/libraries.bash
build=$1 folder=$2 cuda=with
[ "${3:-}" = --without-cuda ] && cuda=without

for file in bin/ptq-host bin/ptq-report bin/ptq-bench bin/ptq-cuda-tests lib/libptq-engine-cuda.so; do
  [ -f "$build/$file" ] || { echo "bundle: $build/$file is not built" >&2; exit 1; }
done

rm -rf "$folder"
mkdir -p "$folder"/{bin,lib/gcc,plugins,models,datasets,bench,test/fixtures}
cp "$build"/bin/{ptq-host,ptq-report,ptq-bench,ptq-cuda-tests} "$folder/bin/"
cp "$build/lib/libptq-engine-cuda.so" "$folder/lib/"
cp "$build"/plugins/*.so "$folder/plugins/"
cp -r models/tiny-* models/configs "$folder/models/"
cp -r datasets/embedded "$folder/datasets/"
cp -r test/fixtures/gguf test/fixtures/packed "$folder/test/fixtures/"
cp -r experiments LICENSE "$folder/"
cp bench/gpu.sh bench/gpu.toml bench/compare_records.py bench/torch_peer.py "$folder/bench/"
printf '#!/bin/sh\nexec bash "$(dirname "$0")/bench/gpu.sh" "$@"\n' >"$folder/gpu.sh"
chmod +x "$folder/gpu.sh"

copy_libraries $cuda "$folder/lib" "$build"/bin/ptq-* "$build/lib/libptq-engine-cuda.so" "$build"/plugins/*.so
files=("$folder"/bin/* "$folder"/lib/*.so* "$folder"/plugins/*)
glibc=$(newest GLIBC "${files[@]}")
{
  "$build/bin/ptq-host" --version
  echo "processor: x86-64 with AVX2 (x86-64-v3)"
  echo "glibc: $glibc or newer; $(newest GLIBC "$folder"/lib/gcc/*) where lib/gcc is needed, that is, where the"
  echo "  machine's libstdc++ does not have GLIBCXX_$(newest GLIBCXX "${files[@]}")"
  echo "CUDA libraries: $([ $cuda = with ] && echo included || echo "left out:$left")"
  echo "size: $(du -sm "$folder" | cut -f1) MiB"
  echo
  (cd "$folder" && find . -type f ! -name MANIFEST.txt | sort | xargs sha256sum)
} >"$folder/MANIFEST.txt"

echo "bundle: $folder, $(du -sm "$folder" | cut -f1) MiB, needs glibc $glibc or newer"
[ -z "$left" ] || echo "bundle: left out, to be found on the other machine:$left"
