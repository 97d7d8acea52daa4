#!/usr/bin/env bash
# bench/device_run.sh with an archive of stand-ins: what it writes when there is no GPU, when something
# fails or hangs, and when it is stopped.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0
fail() { echo "FAILED: $*" && status=1; }
says() { grep -qE -- "$2" "$1" || { fail "no line \"$2\" in $1:" && sed 's/^/    /' "$1"; }; }

# stand_in PROGRAM: its text comes from stdin, after a line that makes it a script.
mkdir -p "$work"/gpu/{bin,lib,plugins,records} "$work/tools"
stand_in() { { echo '#!/bin/bash' && cat; } >"$work/$1" && chmod +x "$work/$1"; }
archive() { tar -C "$work/gpu" -cJf "$work/$1.tar.xz" .; }
echo "ptq-host 9.9" >"$work/gpu/MANIFEST.txt"
stand_in gpu/bin/ptq-bench <<'END'
case " $* " in
  *" --kernels "*) echo '{"rows": []}' >"${@: -1}"; echo "gemv 9 GB/s" ;;
  *" --long-only "*) echo "decode behind a long cache" ;;
  *) echo "prefill 1 tokens/s"; echo "no memory" >&2; exit 5 ;;
esac
END
stand_in gpu/bin/ptq-cuda-tests <<'END'
names=('cuda engine: logits' 'cuda: linear layers, dense and packed' 'cuda: limits are measured'
  'cuda: attention over [all]' 'cuda: tile products')
case "$1" in
  --list-test-names-only) printf '%s\n' "${names[@]}"; exit 5 ;;
  *linear*) [ "$1" = 'cuda: linear layers\, dense and packed' ] || exit 3
    printf 'x.cpp:7: FAILED:\n  REQUIRE( 1 == 2 )\n'; exit 1 ;;
  *attention*) [ "$1" = 'cuda: attention over \[all\]' ] || exit 3
    echo "attention_kernel grid 7" >"$PTQ_CUDA_TRACE"; sleep 60 ;;
  *) [ -n "$PTQ_CUDA_SYNC" ] || exit 3; echo "1 passed, 0 failed" ;;
esac
END
stand_in gpu/bin/ptq-host <<'END'
[ "$1" != doctor ] || { echo "cuda             not used: the driver is missing"; exit; }
echo "a cell failed"; exit 7
END
archive none
sed -i 's/not used: .*"/used by --device auto"/' "$work/gpu/bin/ptq-host"
archive some
stand_in tools/compute-sanitizer <<<'echo "========= Invalid __global__ read of size 4 bytes"; exit 9'
stand_in tools/nvidia-smi <<<'echo "GPU 0: a stand-in"'
stand_in tools/python3 <<<'exit 1'
PATH=$work/tools:$PATH
run() {  # CODE OUT ARGUMENTS...
  local want=$1 code=0
  export OUT=$work/$2
  bash bench/device_run.sh "${@:3}" >"$OUT.printed" 2>&1 || code=$?
  [ $code -eq "$want" ] || { fail "exit code $code, not $want, of $2" && cat "$OUT.printed"; }
}

# Without a driver: each step in one line with the reason, and all three files.
mv "$work/tools/nvidia-smi" "$work/nvidia-smi"
run 77 none "$work/none.tar.xz"
says "$OUT/summary.txt" '^ptq-host 9.9, '
says "$OUT/summary.txt" '^skipped  nvidia-smi .*no nvidia-smi on this machine'
for step in cases kernels parity bench torch perplexity long ncu races; do
  says "$OUT/summary.txt" "^skipped  $step .*no GPU can be used: the driver is missing"
done
[ "$(ls "$OUT" | xargs)" = "logs.tar.gz results.json summary.txt" ] || fail "files: $(ls "$OUT" | xargs)"
tar -tzf "$OUT/logs.tar.gz" | grep '^logs/doctor.log$' >/dev/null || fail "doctor's log is not in the archive"
mv "$work/nvidia-smi" "$work/tools/nvidia-smi"

# A program that refuses the GPU which nvidia-smi lists is not believed.
run 0 disbelief "$work/none.tar.xz" kernels
says "$OUT/summary.txt" '^passed   kernels .*gemv 9 GB/s'

# Failures, a case and a step that hang: each cut at its limit, nothing stops the next.
run 1 some "$work/some.tar.xz" cases=2 kernels bench=3 perplexity long
says "$OUT/summary.txt" '^passed   case: tile products '
says "$OUT/summary.txt" '^skipped  case: limits are measured .*no time is left'  # alone, after the others
says "$OUT/summary.txt" '^passed   case: cuda engine: logits '
says "$OUT/summary.txt" '^FAILED   case: linear layers, dense and packed .*exit code 1: x.cpp:7: FAILED: REQUIRE\( 1 == 2 \)'
says "$OUT/summary.txt" '^CUT      case: attention over \[all\] .*last launch: attention_kernel grid 7'
says "$OUT/summary.txt" '^FAILED   memcheck: linear layers, .*Invalid __global__ read'
says "$OUT/summary.txt" '^FAILED   bench .*exit code 5: no memory'
says "$OUT/summary.txt" '^FAILED   perplexity .*exit code 7: a cell failed'
says "$OUT/summary.txt" '^passed   long '
grep -q 'parity' "$OUT/summary.txt" && fail "a step ran that was not asked for"
says "$OUT/results.json" '"name": "case: linear layers, dense and packed", "status": "FAILED"'
says "$OUT/results.json" '"kernels": \{"rows"'
[ ! -x /usr/bin/python3 ] || /usr/bin/python3 -m json.tool "$OUT/results.json" >/dev/null || fail "results.json is no JSON"

# The time of the whole run ends everything that is left.
PTQ_DEVICE_SECONDS=5 run 1 deadline "$work/some.tar.xz" cases long
says "$OUT/summary.txt" '^CUT      case: attention'
says "$OUT/summary.txt" '^skipped  long .*no time is left of 5 s'

# Stopped: TERM leaves all files and no process, KILL every line that was finished.
for signal in TERM KILL; do
  export OUT=$work/$signal
  setsid bash bench/device_run.sh "$work/some.tar.xz" cases >/dev/null 2>&1 &
  pid=$!
  for _ in {1..1200}; do  # a loaded machine takes its time; a quiet one 0.2 s
    [ "$(cat "$OUT/summary.txt" 2>/dev/null | grep -c ' case: ')" -lt 3 ] || break
    sleep 0.05
  done
  kill -$signal $pid
  wait $pid
  code=$?
  says "$OUT/summary.txt" '^passed   case: tile products '
  if [ $signal = TERM ]; then
    [ $code -eq 143 ] || fail "exit code $code after TERM"
    says "$OUT/summary.txt" '^stopped by a signal'
    tar -tzf "$OUT/logs.tar.gz" | grep '^logs/case-' >/dev/null || fail "no log of a case after TERM"
  else
    tar -tzf "$OUT/logs.tar.gz" | grep '^logs/doctor.log$' >/dev/null || fail "no log of the step that was finished"
  fi
  # What the stand-in hangs in; after KILL its own limit ends it.
  [ $signal = KILL ] && pkill -s $pid 2>/dev/null
  for _ in {1..100}; do
    left=$(ps -o stat=,args= -s $pid | grep -v '^Z')
    [ -n "$left" ] || break
    sleep 0.05
  done
  [ -z "$left" ] || fail "left after $signal: $left"
done

run 2 usage
run 2 usage "$work/no.tar.xz"
run 2 usage "$work/some.tar.xz" kernel
says "$OUT.printed" 'there is no step kernel$'
run 2 usage "$work/some.tar.xz" kernels=x
echo x >"$work/broken.tar.xz"
run 1 broken "$work/broken.tar.xz"
says "$OUT/summary.txt" '^FAILED   unpack '
[ $status -ne 0 ] || echo "device_run.sh: all as expected"
exit $status
