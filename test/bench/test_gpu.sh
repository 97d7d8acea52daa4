#!/usr/bin/env bash
# bench/gpu.sh with stand-ins for the programs: which GPU they see.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0
mkdir -p "$work"/{bin,bench}
cp bench/gpu.sh "$work/bench/"
printf '#!/bin/sh\necho "cuda  used by --device auto"\n' >"$work/bin/ptq-host"
printf '#!/bin/sh\necho "sees ${CUDA_VISIBLE_DEVICES-all}"\n' >"$work/bin/ptq-cuda-tests"
printf '#!/bin/sh\necho "$@"\n' >"$work/bin/ptq-bench"
chmod +x "$work"/bin/*
PATH=/usr/bin:/bin

sees() {  # VISIBLE DEVICE WANTED
  CUDA_VISIBLE_DEVICES=$1 bash "$work/bench/gpu.sh" --quick --out "$work/out" ${2:+--device $2} >"$work/log" 2>&1
  grep -qE "^passed   kernel-tests .*  sees $3\$" "$work/log" && grep -q -- '--device cuda:0$' "$work/out/bench-tiny-llama.log" && return
  echo "FAILED: with CUDA_VISIBLE_DEVICES=$1 and --device $2 the tests should see $3:" && cat "$work/log"
  status=1
}
sees '' '' 0
sees '' cuda 0
sees '' cuda:0 0
sees '' cuda:3 3
sees 5 cuda 5
sees 4,5,6 cuda:1 5
sees GPU-ab,GPU-cd cuda:1 GPU-cd
for device in cpu cuda: cuda:x 1; do
  code=0
  bash "$work/bench/gpu.sh" --device "$device" --out "$work/refused" >"$work/log" 2>&1 || code=$?
  [ $code -eq 2 ] && [ ! -e "$work/refused" ] && grep -q -- "--device $device is neither" "$work/log" && continue
  echo "FAILED: --device $device: exit code $code" && cat "$work/log"
  status=1
done
[ $status -ne 0 ] || echo "gpu.sh: all as expected"
exit $status
