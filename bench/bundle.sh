#!/usr/bin/env bash
# Puts everything that a machine with an NVIDIA GPU needs into one folder: programs, CUDA engine,
# plugins, small models, data, and every shared library that is neither of glibc nor of the driver.
# That machine needs x86-64 with AVX2, a glibc at least as new as the one named in MANIFEST.txt, and
# a driver; nothing is built or installed there. `bash gpu.sh` in the folder runs everything.
#
# The compiler's own libraries want the newest glibc of all, so they lie apart, in lib/gcc: gpu.sh uses
# them where the machine has none that are new enough.
#
#   bench/bundle.sh BUILD FOLDER [--without-cuda]
#
# BUILD: of the preset `cuda`, whose programs look for libraries in ../lib (DT_RPATH, which holds for
# the libraries' own needs and for what is loaded later, too). --without-cuda leaves out the
# libraries of the CUDA toolkit, by far the largest part: where a toolkit of the same major version
# is installed they are found there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=$1 folder=$2 cuda=with
[ "${3:-}" = --without-cuda ] && cuda=without

for file in bin/ptq-host bin/ptq-report bin/ptq-bench bin/ptq-cuda-tests lib/libptq-engine-cuda.so; do
  [ -f "$build/$file" ] || { echo "bundle: $build/$file is not built" >&2; exit 1; }
done

rm -rf "$folder"
mkdir -p "$folder"/{bin,lib/gcc,plugins,models,datasets,bench}
cp "$build"/bin/{ptq-host,ptq-report,ptq-bench,ptq-cuda-tests} "$folder/bin/"
cp "$build/lib/libptq-engine-cuda.so" "$folder/lib/"
cp "$build"/plugins/*.so "$folder/plugins/"
cp -r models/tiny-* models/configs "$folder/models/"
cp -r datasets/embedded "$folder/datasets/"
cp -r experiments LICENSE "$folder/"
cp bench/gpu.sh bench/gpu.toml bench/compare_records.py bench/torch_peer.py "$folder/bench/"
printf '#!/bin/sh\nexec bash "$(dirname "$0")/bench/gpu.sh" "$@"\n' >"$folder/gpu.sh"
chmod +x "$folder/gpu.sh"

# Path and name of each library that the loader finds for our files, also for libraries of libraries.
# Of glibc: what the kernel's loader and it must agree on. Of the driver: libcuda.
libraries=$(ldd "$build"/bin/ptq-* "$build/lib/libptq-engine-cuda.so" "$build"/plugins/*.so |
  awk '$2 == "=>" { print $1, $3 }' | sort -u)
if grep -q ' not$' <<<"$libraries"; then  # "NAME => not found"
  echo "bundle: not found: $(sed -n 's/ not$//p' <<<"$libraries" | xargs)" >&2
  exit 1
fi
left=
while read -r name path; do
  case $name in
    libc.so.* | libm.so.* | libdl.so.* | libpthread.so.* | librt.so.* | libresolv.so.* | \
      libutil.so.* | ld-linux* | libcuda.so.*) continue ;;
    libcublas* | libcudart* | libnvrtc* | libnvJitLink*)
      if [ $cuda = without ]; then
        left="$left $name ($(($(stat -L -c %s "$path") / 1000000)) MB)"
        continue
      fi ;;
    libstdc++.so.* | libgcc_s.so.*)
      cp -L "$path" "$folder/lib/gcc/$name"
      continue ;;
  esac
  cp -L "$path" "$folder/lib/$name"
done <<<"$libraries"

# newest PREFIX FILE...: the newest symbol version with the prefix that the files ask for.
newest() {
  local prefix=$1
  shift
  for f in "$@"; do objdump -T "$f"; done 2>/dev/null | grep 'UND' | grep -o "${prefix}_[0-9.]*" | sort -uV |
    tail -n 1 | sed "s/${prefix}_//"
}
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
