#!/usr/bin/env bash
# --device and the lines about CUDA in doctor, on machines with and without a GPU.
# shellcheck source=test/cli/common.bash
. test/cli/common.bash
experiment fp16 >"$work/e.toml"

run 0 doctor
for line in 'cuda  ' 'cuda_engine  ' 'cuda_devices  '; do says out "$line"; done
usable=no
grep -q '^cuda  *used by --device auto' "$work/out" && usable=yes
run 0 doctor --json
says out '"cuda_devices"'

run 2 "$work/e.toml" --device cdua --out "$work/a"
says err 'unknown device `cdua`'
says err 'did you mean `cuda`?'
run 2 "$work/e.toml" --device cuda:x --out "$work/a"
run 4 "$work/e.toml" --device cuda:99 --out "$work/a"
[ -e "$work/a" ] && fail "a folder of results was made although nothing could run"

if [ $usable = yes ]; then
  says err "there is no CUDA device 99"
  run 0 "$work/e.toml" --device cuda --out "$work/gpu"
  grep -rq '"device": "cuda:0' "$work/gpu" || fail "the record does not name the GPU"
else
  run 4 "$work/e.toml" --device cuda --out "$work/a"
  says err "no GPU can be used: "
  says err "--device cpu runs the same experiment on the processor"
  [ "$(grep -c '^error:' "$work/err")" -eq 1 ] || fail "more than one error for one reason"
  [ -s "$work/out" ] && fail "something was printed before the error"
  if [ -x "$PTQ_BUILD/bin/ptq-bench" ]; then
    host=$PTQ_BUILD/bin/ptq-bench run 4 --kernels "linear,rope" --json "$work/kernels.json"
    says err "no GPU can be used: "
    [ "$(grep -c '^error:' "$work/err")" -eq 1 ] || fail "more than one error for one reason"
    [ -e "$work/kernels.json" ] && fail "results were written although nothing could run"
    host=$PTQ_BUILD/bin/ptq-bench run 2 --kernels --device cpu
    says err "--kernels measures CUDA kernels"
  fi
  run 0 "$work/e.toml" --device auto --out "$work/auto"
  grep -rq '"device": "cpu' "$work/auto" || fail "auto did not run on the CPU"
  if ! ldconfig -p | grep -q libcuda.so.1; then
    LD_DEBUG=files "$host" "$work/e.toml" --device auto --fresh --out "$work/auto" 2>&1 >"$work/out" |
      grep -q 'libptq-engine-cuda\|libcublas' && fail "the CUDA engine is loaded where there is no driver"
  fi
fi
finish
