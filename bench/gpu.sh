#!/usr/bin/env bash
# Everything there is to run on a machine with an NVIDIA GPU, inside the folder that `make bundle`
# made: facts, kernel tests, compute-sanitizer, the same small experiment on GPU and CPU, benchmarks.
# Nothing is built, installed or downloaded. A step that fails does not stop the others.
#
#   bash gpu.sh [--device cuda:N] [--out FOLDER] [--quick]
#
# --quick leaves out the 7B shapes, compute-sanitizer and PyTorch. Writes FOLDER/summary.txt,
# summary.json and one log per step. Exit code: 0 all passed; 1 something failed; 77 nothing failed,
# but no GPU could be used, so most was skipped.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ -x "$root/bin/ptq-host" ] || root=$root/build/ptq-gpu
if [ ! -x "$root/bin/ptq-host" ]; then
  echo "gpu.sh: no bin/ptq-host beside this script; make bundle makes the folder" >&2
  exit 1
fi
device=cuda:0 out= quick=
while [ $# -gt 0 ]; do
  case $1 in
    --device) device=$2 && shift ;;
    --out) out=$2 && shift ;;
    --quick) quick=1 ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" && exit 2 ;;
  esac
  shift
done
case $device in
  cuda) device=cuda:0 ;;
  cuda:[0-9] | cuda:[0-9][0-9]) ;;
  *) echo "gpu.sh: --device $device is neither cuda nor cuda:N" >&2 && exit 2 ;;
esac
out=$(realpath -m "${out:-gpu-$(date +%Y%m%d-%H%M%S)}")
mkdir -p "$out" || exit 1
cd "$root" || exit 1
unset PTQ_PLUGINS PTQ_MODELS
# Where the toolkit's libraries may be, when the bundle was made without them.
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}${LD_LIBRARY_PATH:+:}/usr/local/cuda/lib64
# The compiler's libraries of the machine, or those of the bundle (see bundle.sh).
bin/ptq-host --version >/dev/null 2>&1 || export LD_LIBRARY_PATH=$root/lib/gcc:$LD_LIBRARY_PATH
PATH=$PATH:/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer

steps= failed=0
json_text() { tr '\n\t' '  ' | tr -d '\000-\037' | sed 's/\\/\\\\/g; s/"/\\"/g; s/ *$//'; }
note() { tee -a "$out/summary.txt"; }
record() {  # NAME STATUS SECONDS SENTENCE
  printf '%-8s %-34s %6s s  %s\n' "$2" "$1" "$3" "$4" | note
  steps="$steps${steps:+,}
  {\"name\": \"$1\", \"status\": \"$2\", \"seconds\": $3, \"says\": \"$(json_text <<<"$4")\"}"
}
# step NAME LIMIT COMMAND...: runs it with a limit in seconds; its output goes to NAME.log, whose last
# line is what the summary says.
step() {
  local name=$1 limit=$2 start=$SECONDS code=0
  shift 2
  timeout -k 10 "$limit" "$@" >"$out/$name.log" 2>&1 </dev/null || code=$?
  local last
  last=$(grep -v '^ *$' "$out/$name.log" | tail -n 1 | cut -c 1-200)
  [ $code -eq 124 ] && last="stopped after $limit s"
  if [ $code -eq 0 ]; then
    record "$name" passed $((SECONDS - start)) "$last"
  else
    failed=$((failed + 1))
    record "$name" FAILED $((SECONDS - start)) "exit code $code: $last"
  fi
  return $code
}
skip() { record "$1" skipped 0 "$2"; }

: >"$out/summary.txt"
{
  echo "ptq on $(uname -m), $(date -u +%Y-%m-%dT%H:%M:%SZ)"
  bin/ptq-host --version
} | note
step doctor 120 bin/ptq-host doctor
sed -n '/^cuda/,/^plugin_folders/{/^plugin_folders/!p}' "$out/doctor.log" | note
why=$(sed -n 's/^cuda  *not used: //p' "$out/doctor.log")
gpu=1
grep -q '^cuda  *used' "$out/doctor.log" || gpu=
[ -n "$gpu" ] || why="no GPU can be used: ${why:-the program does not start, see doctor.log}"
[ -n "$gpu" ] || echo "$why" | note
command -v nvidia-smi >/dev/null && step nvidia-smi 60 nvidia-smi

# ---- kernels and engine --------------------------------------------------------------------------
# The N-th of those that are visible now; it alone is left, as cuda:0.
if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
  CUDA_VISIBLE_DEVICES=$(cut -d , -f $((${device#cuda:} + 1)) <<<"$CUDA_VISIBLE_DEVICES,")
else
  CUDA_VISIBLE_DEVICES=${device#cuda:}
fi
export CUDA_VISIBLE_DEVICES
visible=cuda:0
if [ -z "$gpu" ]; then
  skip kernel-tests "no GPU"
else
  step kernel-tests 1800 bin/ptq-cuda-tests
fi
for tool in memcheck racecheck initcheck; do
  if [ -z "$gpu" ]; then
    skip "sanitizer-$tool" "no GPU"
  elif [ -n "$quick" ]; then
    skip "sanitizer-$tool" "left out by --quick"
  elif ! command -v compute-sanitizer >/dev/null; then
    skip "sanitizer-$tool" "no compute-sanitizer on this machine"
  else  # the tests of single kernels
    step "sanitizer-$tool" 1800 compute-sanitizer --tool $tool --error-exitcode 9 \
      bin/ptq-cuda-tests "cuda: *"
  fi
done

# ---- the same cells on both devices --------------------------------------------------------------
# Bounds of the relative difference of perplexities. float32: other orders of sums, and codes on the
# border; bfloat16: activations are rounded in other places inside the fused kernels, too.
for compute in fp32 bf16; do
  bound=1e-3
  [ $compute = bf16 ] && bound=1e-2
  cells=(bin/ptq-host bench/gpu.toml --set "model.compute=\"$compute\"")
  if [ -z "$gpu" ]; then
    skip "cells-$compute-gpu" "no GPU"
  else
    step "cells-$compute-gpu" 1800 "${cells[@]}" --out "$out/cells-$compute-gpu" --device $visible
  fi
  step "cells-$compute-cpu" 3600 "${cells[@]}" --out "$out/cells-$compute-cpu" --device cpu
  if [ -z "$gpu" ]; then
    skip "compare-$compute" "no GPU"
  elif ! command -v python3 >/dev/null; then
    skip "compare-$compute" "no python3; the records are in cells-$compute-*"
  else
    step "compare-$compute" 60 python3 bench/compare_records.py \
      "$out/cells-$compute-cpu" "$out/cells-$compute-gpu" --bound $bound
  fi
done

# ---- speed ---------------------------------------------------------------------------------------
benches=
bench() {  # NAME LIMIT ARGUMENTS...
  local name=$1 limit=$2
  shift 2
  step "$name" "$limit" bin/ptq-bench --plugins plugins --json "$out/$name.json" "$@"
  sed 's/^/    /' "$out/$name.log" | note
  [ -s "$out/$name.json" ] && benches="$benches $name"
}
bench bench-tiny-cpu 1800 --model models/tiny-llama --device cpu
for model in tiny-llama Qwen2.5-7B Mistral-7B-v0.3 Llama-3.1-8B; do
  if [ -z "$gpu" ]; then
    skip "bench-$model" "no GPU"
  elif [ $model = tiny-llama ]; then
    bench bench-$model 1800 --model models/$model --device $visible
  elif [ -n "$quick" ]; then
    skip "bench-$model" "left out by --quick"
  else
    bench "bench-$model" 3600 --model "models/configs/$model" --device $visible --compute bf16
  fi
done
if [ -z "$gpu" ]; then
  skip torch "no GPU"
elif [ -n "$quick" ]; then
  skip torch "left out by --quick"
elif ! python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
  skip torch "no PyTorch with CUDA on this machine"
else
  for model in Qwen2.5-7B Mistral-7B-v0.3 Llama-3.1-8B; do
    step "torch-$model" 1800 python3 bench/torch_peer.py "models/configs/$model" \
      --ptq "$out/bench-$model.json"
    sed 's/^/    /' "$out/torch-$model.log" | note
  done
fi

# ---- summary -------------------------------------------------------------------------------------
{
  printf '{"gpu": %s, "why_not": "%s", "failed": %s, "steps": [%s\n], "benchmarks": {' \
    "$([ -n "$gpu" ] && echo true || echo false)" \
    "$([ -n "$gpu" ] || json_text <<<"$why")" "$failed" "$steps"
  comma=
  for name in $benches; do
    printf '%s\n"%s": ' "$comma" "$name" && cat "$out/$name.json"
    comma=,
  done
  echo '}}'
} >"$out/summary.json"
{
  echo
  if [ $failed -gt 0 ]; then
    echo "$failed steps FAILED; logs are in $out"
  elif [ -z "$gpu" ]; then
    echo "nothing failed, but $why"
  else
    echo "all steps passed; logs are in $out"
  fi
} | note
[ $failed -eq 0 ] || exit 1
[ -n "$gpu" ] || exit 77
