#!/usr/bin/env bash
# The resources of every kernel of the CUDA engine as Markdown tables, one per architecture; fails
# when a hot kernel keeps something in local memory, which is device memory by another name.
#
#   bench/kernels.sh BUILD
#
# The figures are the assembler's own (ptxas -v), from compiling the device half of the engine once
# more with the flags of the build. Not those of cuobjdump --dump-resource-usage: its LOCAL stays 0
# however much is spilled, only STACK, which holds the spills too, shows it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=$(realpath "$1")

# These run for every token or block: nothing of theirs may be on the stack. Extended regular
# expressions; each must find a kernel, so that a kernel with a new name does not go unwatched.
hot=('^attention_kernel<Bf16, 128,' '^linear_dense_kernel<Bf16,' '^linear_packed_kernel<Bf16,'
  '^linear_tiles_kernel<Bf16' '^rms_norm_kernel<' '^rope_kernel<' '^append_rows_kernel<'
  '^encode_rows_kernel' '^encode_columns_kernel')

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
objects=$(ninja -C "$build" -t targets all |
  sed -n 's/^\(.*\/ptq-cuda-kernels\.dir\/.*\.cu\.o\):.*/\1/p' | sort)
[ -n "$objects" ] || { echo "kernels: this build has no CUDA engine (nvcc was not found)" >&2; exit 1; }
command_of() { ninja -C "$build" -t commands "$1" | tail -n 1; }
# compile OBJECT ARCHITECTURE: its source once more; -c FILE -o OBJECT and the architectures of the
# build are replaced.
compile() {
  local command flags source
  command=$(command_of "$1")
  source=$(sed -E 's/.* -x cu -c ([^ ]+) .*/\1/' <<<"$command")
  flags=$(sed -E 's/--generate-code=[^ ]*//g; s/ -MD .*//; s/ -x cu .*//; s/^[^ ]* //' <<<"$command")
  (cd "$build" && eval "${command%% *} $flags -arch=$2 -Xptxas -v -x cu -cubin '$source' -o '$work/cubin'")
}
status=0
for arch in $(command_of "${objects%%$'\n'*}" | grep -oE 'sm_[0-9]+a?' | sort -u); do
  : >"$work/log"
  for object in $objects; do
    if ! compile "$object" "$arch" >"$work/one" 2>&1; then
      cat "$work/one" >&2
      exit 1
    fi
    cat "$work/one" >>"$work/log"
  done
  # Lines "name|registers|stack|spill stores|spill loads|shared".
  awk '
    /Compiling entry function/ { split($0, part, "\x27"); name = part[2] }
    /bytes stack frame/ { stack = $1; stores = $5; loads = $9 }
    /Used [0-9]+ registers/ && name != "" {
      shared = 0
      for (i = 1; i <= NF; ++i) {
        if ($i == "registers,") registers = $(i - 1)
        if ($i ~ /^smem/) shared = $(i - 2)
      }
      print name "|" registers "|" stack "|" stores "|" loads "|" shared
      name = ""
    }' "$work/log" | c++filt |
    sed -E 's/^void //; s/ptq::cuda:://g; s/\(anonymous namespace\):://g; s/\((int|bool)\)//g; s/\([^|]*\)\|/|/' |
    LC_ALL=C sort -u >"$work/table"  # a kernel of no template is in several files
  echo
  echo "$arch, $(wc -l <"$work/table") kernels:"
  echo
  echo "| kernel | registers | stack | spill stores | spill loads | static shared |"
  echo "|---|---:|---:|---:|---:|---:|"
  sed 's/|/` | /; s/|/ | /g; s/  */ /g; s/^/| `/; s/$/ |/' "$work/table"
  for pattern in "${hot[@]}"; do
    if ! grep -qE "$pattern" "$work/table"; then
      echo "kernels: $arch: no kernel is named $pattern" >&2
      status=1
    fi
    bad=$(awk -F'|' '$3 + $4 + $5 > 0 { print $1 }' "$work/table" | grep -E "$pattern" || true)
    if [ -n "$bad" ]; then
      printf 'kernels: %s uses local memory:\n%s\n' "$arch" "$bad" >&2
      status=1
    fi
  done
done
exit $status
