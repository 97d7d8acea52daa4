#!/usr/bin/env bash
# The logits of a text are the same file for any number of threads, and with AVX2 and AVX-512.
# shellcheck source=test/cli/common.bash
. test/cli/common.bash
head -c 3000 datasets/embedded/test.txt > "$work/text.txt"

digest() {  # KERNELS THREADS METHOD...
  local kernels=$1 threads=$2
  shift 2
  PTQ_KERNELS=$kernels "$host" logits --model "$model" --text "$work/text.txt" \
    --regime streaming --threads "$threads" --out "$work/logits" "$@" >"$work/log" 2>&1 || {
    cat "$work/log"
    echo "failed with $kernels, $threads threads"
    return
  }
  sha256sum < "$work/logits"
}

seen=""
for method in fp16 q4_0 kivi rtn w8a8 w4a8; do
  first=$(digest "" 1 --method $method)
  for threads in 2 3 64; do
    other=$(digest "" $threads --method $method)
    [ "$other" = "$first" ] || { fail "$method: $threads threads give other logits"; }
  done
  case $seen in *"$first"*) fail "$method changed nothing" ;; esac
  seen+=$first
  if grep -qw avx2 /proc/cpuinfo && grep -qw avx512_vnni /proc/cpuinfo; then
    [ "$(digest avx2 2 --method $method)" = "$(digest avx512 2 --method $method)" ] ||
      { fail "$method: AVX2 and AVX-512 give different logits"; }
  fi
  [ "$(digest plain 1 --method $method)" = "$(digest plain 3 --method $method)" ] ||
    { fail "$method: the plain kernels' logits depend on the threads"; }
done
finish
