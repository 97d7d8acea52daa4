#!/bin/bash
# The logits of a text are the same file for any number of threads, and with AVX2 and AVX-512.
set -euo pipefail
host=${PTQ_BUILD:?}/bin/ptq-host
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
head -c 3000 datasets/embedded/test.txt > "$work/text.txt"

digest() {  # KERNELS THREADS METHOD...
  local kernels=$1 threads=$2
  shift 2
  PTQ_KERNELS=$kernels "$host" logits --model models/tiny-llama --text "$work/text.txt" \
    --regime streaming --threads "$threads" --out "$work/logits" "$@" > "$work/log" 2>&1 || {
    cat "$work/log"
    return 1
  }
  sha256sum < "$work/logits"
}

seen=""
for method in fp16 q4_0 kivi rtn w8a8; do
  first=$(digest "" 1 --method $method)
  for threads in 2 3 64; do
    other=$(digest "" $threads --method $method)
    [ "$other" = "$first" ] || { echo "$method: $threads threads give other logits"; exit 1; }
  done
  case $seen in *"$first"*) echo "$method changed nothing"; exit 1 ;; esac
  seen+=$first
  if grep -qw avx2 /proc/cpuinfo && grep -qw avx512_vnni /proc/cpuinfo; then
    [ "$(digest avx2 2 --method $method)" = "$(digest avx512 2 --method $method)" ] ||
      { echo "$method: AVX2 and AVX-512 give different logits"; exit 1; }
  fi
  [ "$(digest plain 1 --method $method)" = "$(digest plain 3 --method $method)" ] ||
    { echo "$method: the plain kernels' logits depend on the threads"; exit 1; }
done
