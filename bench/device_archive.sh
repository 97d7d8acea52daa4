#!/usr/bin/env bash
# Puts what one call on a borrowed machine with a GPU needs into one small archive: programs, CUDA
# engine, plugins, shared libraries, and the records that the cells of bench/gpu.toml have on a CPU.
# Models, data and bench/device_run.sh, which runs it there, come from the tree that travels with it.
#
#   bench/device_archive.sh BUILD ARCHIVE
#
# BUILD: of the preset `device`. The libraries of the CUDA toolkit are left out: device_run.sh finds
# those of the machine. Fails, and leaves no archive, when it or it and the tree are larger than what
# such a machine takes in; PTQ_DEVICE_ARCHIVE_MIB and PTQ_DEVICE_TOTAL_MIB are the limits.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. bench/libraries.bash
build=$1 archive=$2
most_archive=${PTQ_DEVICE_ARCHIVE_MIB:-25} most_total=${PTQ_DEVICE_TOTAL_MIB:-60}
fail() { echo "device-archive: $*" >&2 && exit 1; }

programs=("$build"/bin/{ptq-host,ptq-bench,ptq-cuda-tests})
for file in "${programs[@]}" "$build/lib/libptq-engine-cuda.so"; do
  [ -f "$file" ] || fail "$file is not built"
done
rm -f "$archive"
work=$(mktemp -d)
trap 'rm -rf "$work" "$archive.part"' EXIT
folder=$work/gpu
mkdir -p "$folder"/{bin,lib,plugins,records}
cp "${programs[@]}" "$folder/bin/"
cp "$build/lib/libptq-engine-cuda.so" "$folder/lib/"
cp "$build"/plugins/*.so "$folder/plugins/"
copy_libraries without "$folder/lib" "$folder"/bin/* "$folder/lib/libptq-engine-cuda.so" "$folder"/plugins/*.so
strip "$folder"/bin/* "$folder"/lib/*.so* "$folder"/lib/gcc/* "$folder"/plugins/*.so

for compute in fp32 bf16; do
  # As device_run.sh runs them on the GPU.
  "$build/bin/ptq-host" bench/gpu.toml --only '^tiny-llama ' --set "model.compute=\"$compute\"" \
    --device cpu --jobs "$(nproc)" --plugins "$build/plugins" --out "$work/$compute" >"$work/log" 2>&1 \
    || { cat "$work/log" >&2; fail "the cells on the CPU failed ($compute)"; }
  for record in "$work/$compute"/*/record.json; do
    cell=$folder/records/$compute/$(basename "$(dirname "$record")")
    mkdir -p "$cell"
    cp "$record" "$cell/"
  done
done

{
  "$build/bin/ptq-host" --version
  echo "glibc: $(newest GLIBC "$folder"/bin/* "$folder"/lib/*.so* "$folder"/plugins/*) or newer;" \
    "$(newest GLIBC "$folder"/lib/gcc/*) where lib/gcc is needed"
  echo "left out, to be found on the machine:$left"
} >"$folder/MANIFEST.txt"

# Uncompressed kernels resemble each other: xz sees that, and nvcc's own compression would hide it.
tar -C "$folder" --sort=name --owner=0 --group=0 -cf - . | xz -9e -T1 >"$archive.part"
size=$(stat -c %s "$archive.part")
# What travels: files that git knows, and new ones that it does not ignore.
tree=$(git ls-files -z --cached --others --exclude-standard | xargs -0 stat -c %s 2>/dev/null |
  awk '{ sum += $1 } END { print sum + 0 }')
[ "$tree" -gt 0 ] || fail "the size of the tree is unknown: this is no git checkout"
mib() { awk -v n="$1" 'BEGIN { printf "%.1f MiB", n / 1048576 }'; }
sum="archive $(mib "$size") + tree $(mib "$tree") = $(mib $((size + tree)))"
[ "$size" -le $((most_archive << 20)) ] || fail "$sum: the archive is larger than $most_archive MiB"
[ $((size + tree)) -le $((most_total << 20)) ] || fail "$sum: larger than $most_total MiB together"
mv "$archive.part" "$archive"
echo "device-archive: $archive, $sum of at most $most_total MiB; unpacked $(du -sm "$folder" | cut -f1) MiB"
