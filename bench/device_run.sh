#!/usr/bin/env bash
# One call on a borrowed machine with an NVIDIA GPU: ten minutes, nothing can be installed, a few small
# files come back. Runs in this tree with the archive that `make device-archive` made.
#
#   bench/device_run.sh ARCHIVE [STEP[=SECONDS]...]
#
# Without steps: all of the table below, in its order. `start` always runs. A step that fails or hangs
# does not stop the next; each has its limit and, together, PTQ_DEVICE_SECONDS (540). In the folder $OUT:
#
#   summary.txt   a line for everything that ended, written at once
#   results.json  the same lines, and what ptq-bench measured
#   logs.tar.gz   everything else; renewed after every step, also when the script is stopped
#
# Exit code: 0 nothing failed, 1 something did, 2 wrong usage, 77 no GPU could be used.
set -uo pipefail
#      step      seconds  what it tells
table='start          10  does anything start: driver, libraries, doctor
       cases          60  which kernel is wrong: each test case in a process of its own
       kernels        40  how far each kernel is from its limit
       parity         45  do the cells of bench/gpu.toml have the records of the CPU
       bench          90  prefill, decode, kivi and packed weights of the 7B shape
       torch          30  the same shape with PyTorch
       perplexity     40  how an evaluation of the 7B shape divides its time
       long           40  decoding behind 32768 tokens, 16 bit and kivi 2-bit
       ncu            60  why a kernel is slow: one launch of each under Nsight Compute
       races          90  races, then memory errors that no test sees'
model=models/configs/Qwen2.5-7B

usage() {
  printf '%s\n\nusage: bench/device_run.sh ARCHIVE [STEP[=SECONDS]...]\n\n%s\n' "$1" "$table" >&2
  exit 2
}
[ $# -gt 0 ] || usage "no archive is named"
[ -f "$1" ] || usage "there is no archive $1 (make device-archive makes one)"
archive=$(realpath "$1")
shift
declare -A limit=()
steps=()
while read -r name seconds _; do
  limit[$name]=$seconds
  [ $# -gt 0 ] && [ "$name" != start ] || steps+=("$name")
done <<<"$table"
for step in "$@"; do
  [ -n "${limit[${step%%=*}]:-}" ] || usage "there is no step $step"
  [[ $step != *=* ]] || { [[ ${step#*=} =~ ^[1-9][0-9]*$ ]] || usage "no seconds: $step" && limit[${step%%=*}]=${step#*=}; }
  [ "${step%%=*}" = start ] || steps+=("${step%%=*}")
done
budget=${PTQ_DEVICE_SECONDS:-540}
out=$(realpath -m "${OUT:-device-$(date +%Y%m%d-%H%M%S)}")
mkdir -p "$out" && cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
work=$(mktemp -d)
logs=$work/logs gpu=$work/gpu
mkdir "$logs" "$gpu"
: >"$out/summary.txt"
unset PTQ_PLUGINS PTQ_MODELS PTQ_CUDA_SYNC PTQ_CUDA_TRACE
export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0}
PATH=$PATH:/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer
declare -A count=([passed]=0 [FAILED]=0 [CUT]=0 [skipped]=0)
items=

# ---- what comes back ------------------------------------------------------------------------------
note() { printf '%s\n' "$1" >>"$out/summary.txt" && printf '%s\n' "$1"; }
json_text() { tr '\n\t' '  ' <<<"$1" | tr -d '\000-\037' | sed 's/\\/\\\\/g; s/"/\\"/g; s/ *$//'; }
record() {  # STATUS NAME SECONDS SENTENCE
  note "$(printf '%-8s %-44s %4s s  %s' "$1" "$2" "$3" "$4")"
  count[$1]=$((${count[$1]} + 1))
  items="$items${items:+,}
  {\"name\": \"$(json_text "$2")\", \"status\": \"$1\", \"seconds\": $3, \"says\": \"$(json_text "$4")\"}"
}
pack() {
  {
    printf '{"summary": [%s\n]' "$items"
    for name in kernels bench long; do
      [ -s "$work/$name.json" ] && printf ',\n"%s": ' $name && cat "$work/$name.json"
    done
    echo '}'
  } >"$out/results.part" && mv "$out/results.part" "$out/results.json"
  # 16 MiB may come back: of a log that fills the disk, its two ends.
  find "$logs" -type f -size +4M ! -name '*.ncu-rep' | while read -r file; do
    { head -c 1000000 "$file" && echo && echo "[...]" && tail -c 1000000 "$file"; } >"$work/ends" && mv "$work/ends" "$file"
  done
  tar -C "$work" -czf "$out/logs.part" logs && mv "$out/logs.part" "$out/logs.tar.gz"
}
finish() {
  local code=${stopped:-$?}
  trap '' TERM INT HUP
  # A signal that comes while bash 5.2 expands a command substitution ends the script with a syntax
  # error instead of running the trap.
  [ -n "$whole" ] || code=143
  # shellcheck disable=SC2046
  kill $(jobs -p) 2>/dev/null  # each is a `timeout`, which ends what it runs
  [ $code -lt 128 ] || note "stopped by a signal after $SECONDS s"
  note "${count[passed]} passed, ${count[FAILED]} failed, ${count[CUT]} cut, ${count[skipped]} skipped in $SECONDS s"
  pack
  rm -rf "$work"
  [ $code -eq 0 ] || exit $code
  [ $((count[FAILED] + count[CUT])) -eq 0 ] || exit 1
  [ -z "$why" ] || exit 77
}
why= stopped= whole= had=0  # whole: all steps had their turn
trap finish EXIT
trap 'stopped=143; exit 143' TERM INT HUP

# ---- running things -------------------------------------------------------------------------------
# spawn SECONDS LOG COMMAND...: starts it in the background as $pid; it ends at its limit, at the end of
# the step or at that of the whole run.
spawn() {
  local seconds=$1 log=$logs/$2.log
  shift 2
  ((seconds <= step_end - SECONDS)) || seconds=$((step_end - SECONDS))
  if ((seconds > 0)); then
    timeout -k 3 "$seconds" "$@" >"$log" 2>&1 </dev/null &
  else
    sh -c 'exit 75' &
  fi
  pid=$!
}
# ended CODE LOG NAME START: the line for something that ran.
ended() {
  local log=$logs/$2.log last says seconds=$((SECONDS - $4))
  last=$(grep -av '^ *$' "$log" 2>/dev/null | tail -n 1)
  case $1 in
    0) record passed "$3" $seconds "${last:0:200}" ;;
    75) record skipped "$3" 0 "no time is left" && return ;;
    124 | 137)
      [ -s "$log.launches" ] && last="last launch: $(tail -n 1 "$log.launches")"
      record CUT "$3" $seconds "stopped; $last" ;;
    *)  # a failed check of a test, what compute-sanitizer found, an error
      says=$(grep -aEm 1 -A 4 'FAILED:|^=+ (Invalid|Uninit|Error|Potential|Race|Program hit)|[Ee]rror' "$log" | tr -s ' \n' ' ')
      says=${says:-$last}
      record FAILED "$3" $seconds "exit code $1: ${says:0:400}" ;;
  esac
  return "$1"
}
run() {  # NAME SECONDS COMMAND...
  local name=$1 start=$SECONDS code=0
  spawn "$2" "$name" "${@:3}"
  wait $pid || code=$?
  ended $code "$name" "$name" $start
}
run_noted() {  # the same, for figures that belong into the summary
  run "$@"
  local code=$?
  while read -r line; do note "    $line"; done < <(head -n 150 "$logs/$1.log")
  return $code
}
missing() {  # NAME PROGRAM: records that there is none
  command -v "$2" >/dev/null && return 1
  record skipped "$1" 0 "no $2 on this machine"
}
# each_case JOBS SECONDS LABEL COMMAND...: the test cases in `cases`, JOBS at once, each in a process of
# its own. Leaves those that did not pass in `failing`.
each_case() {
  local jobs=$1 seconds=$2 label=$3 name
  local -A running=() began=()
  failing=()
  for name in "${cases[@]}"; do
    while ((${#running[@]} >= jobs)); do reap; done
    local log=$label-${name//[^A-Za-z0-9]/-}
    # Catch2 reads commas and brackets in a name as its own.
    local -x PTQ_CUDA_TRACE=$logs/$log.log.launches
    spawn "$seconds" "$log" "${@:4}" "$gpu/bin/ptq-cuda-tests" "$(sed 's/[],[\\]/\\&/g' <<<"$name")"
    running[$pid]=$name began[$pid]=$SECONDS
  done
  while ((${#running[@]})); do reap; done
}
reap() {
  local pid code log name
  for pid in "${!running[@]}"; do
    kill -0 "$pid" 2>/dev/null && continue
    code=0 name=${running[$pid]}
    wait "$pid" || code=$?
    log=$label-${name//[^A-Za-z0-9]/-}
    ended $code "$log" "$label: ${name#cuda: }" "${began[$pid]}" || failing+=("$name")
    [ $code -ne 0 ] || rm -f "$logs/$log.log.launches"
    unset "running[$pid]" "began[$pid]"
  done
  sleep 0.1
}

# ---- steps ----------------------------------------------------------------------------------------
step_start() {
  note "$(sed -n 1p "$gpu/MANIFEST.txt" 2>/dev/null), $(date -u +%Y-%m-%dT%H:%M:%SZ), $(uname -sr), $(nproc) cores, $(ldd --version 2>&1 | sed -n 1p)"
  missing nvidia-smi nvidia-smi ||
    run nvidia-smi 5 sh -c 'nvidia-smi; nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader'
  # The toolkit's libraries: of the loader, of the toolkit, of a PyTorch.
  local folders=(/usr/local/cuda/lib64 /usr/local/cuda/targets/x86_64-linux/lib)
  while read -r folder; do folders+=("$folder"); done < <(timeout 5 python3 -c '
import glob, sysconfig
print(*sorted(glob.glob(sysconfig.get_path("purelib") + "/nvidia/*/lib")), sep="\n")' 2>/dev/null)
  local wanted
  wanted=$(ldd "$gpu/bin/ptq-cuda-tests" 2>/dev/null | sed -n 's/^\s*\(libcublasLt[^ ]*\) => not found.*/\1/p')
  for folder in "${folders[@]}"; do
    [ -n "$wanted" ] && [ -e "$folder/$wanted" ] || continue
    export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder
    record passed "find $wanted" 0 "$folder" && wanted= && break
  done
  [ -z "$wanted" ] || record FAILED "find $wanted" 0 "not in ${folders[*]}"
  # The compiler's libraries of the machine, or those of the archive.
  "$gpu/bin/ptq-host" --version >/dev/null 2>&1 || export LD_LIBRARY_PATH=$gpu/lib/gcc${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  for file in "$gpu"/bin/* "$gpu"/lib/*.so "$gpu"/plugins/*.so; do ldd "$file" 2>&1 | sed "s|^|${file#"$gpu"/}: |"; done >"$logs/ldd.log"
  if grep -q 'not found' "$logs/ldd.log"; then
    record FAILED ldd 0 "$(grep 'not found' "$logs/ldd.log" | tr -s '\t\n' ' ' | cut -c 1-400)"
  else
    record passed ldd 0 "every library is found"
  fi
  run doctor 10 "$gpu/bin/ptq-host" doctor
  sed -n '/^cuda/{s/^/    /;p}' "$logs/doctor.log" | while read -r line; do note "    $line"; done
  grep -q '^cuda  *used' "$logs/doctor.log" && return
  # Where the driver has a GPU and the program does not, the other steps say more.
  why=$(sed -n 's/^cuda  *not used: //p' "$logs/doctor.log")
  why="no GPU can be used: ${why:-doctor does not say why}"
  ! nvidia-smi -L 2>/dev/null | grep -q '^GPU' || { note "$why, but nvidia-smi lists one: trying" && why=; }
}
step_cases() {
  local all name pattern
  spawn 10 cases-list "$gpu/bin/ptq-cuda-tests" --list-test-names-only
  wait $pid  # its exit code is the number of names
  all=$(grep -a '^cuda' "$logs/cases-list.log")
  [ -n "$all" ] || { record FAILED cases 0 "no test case is listed: $(tail -n 1 "$logs/cases-list.log")" && return; }
  # What others are made of first; what watches the memory of the whole device, alone and last.
  local alone ordered=
  alone=$(grep -E 'memory|limits' <<<"$all")
  all=$(grep -vE 'memory|limits' <<<"$all")
  for pattern in '^cuda: .*tile' '^cuda: .*norm' '^cuda: .*linear' '^cuda: .*encod' '^cuda: .*attention' \
    '^cuda: .*cache' '^cuda: ' ''; do
    ordered+=$(grep -E "$pattern" <<<"$all")$'\n'
    all=$(grep -vE "$pattern" <<<"$all")
  done
  local bad=()
  mapfile -t cases < <(grep . <<<"$ordered")
  PTQ_CUDA_SYNC=1 each_case 4 20 case
  bad+=("${failing[@]}")
  mapfile -t cases < <(grep . <<<"$alone")
  PTQ_CUDA_SYNC=1 each_case 1 20 case
  cases=("${bad[@]}" "${failing[@]}")
  [ ${#cases[@]} -gt 0 ] || return
  missing memcheck compute-sanitizer && return
  step_end=$((SECONDS + 45 < budget ? SECONDS + 45 : budget))  # beyond the step's own limit
  PTQ_CUDA_SYNC=1 each_case 4 45 memcheck compute-sanitizer --tool memcheck --error-exitcode 9
}
step_kernels() { run_noted kernels 600 "$gpu/bin/ptq-bench" --kernels --device cuda:0 --json "$work/kernels.json"; }
step_parity() {
  for compute in fp32 bf16; do
    run "parity-$compute" $(((step_end - SECONDS) / ($([ $compute = fp32 ] && echo 2 || echo 1)))) "$gpu/bin/ptq-host" \
      bench/gpu.toml --only '^tiny-llama ' --set "model.compute=\"$compute\"" --plugins "$gpu/plugins" \
      --device cuda:0 --jobs 4 --out "$work/$compute"
    cp -r "$work/$compute" "$logs/" 2>/dev/null
    missing "compare-$compute" python3 && continue
    # Bounds as in gpu.sh.
    run_noted "compare-$compute" 10 python3 bench/compare_records.py "$gpu/records/$compute" "$work/$compute" \
      --bound "$([ $compute = fp32 ] && echo 1e-3 || echo 1e-2)"
  done
}
bench() { run_noted "$1" 600 "$gpu/bin/ptq-bench" --plugins "$gpu/plugins" --model $model --device cuda:0 --compute bf16 --json "$work/$1.json" "${@:2}"; }
step_bench() { bench bench --long-context 0; }
step_long() { bench long --long-only; }
step_torch() {
  if timeout 20 python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>"$logs/torch.log"; then
    run_noted torch 600 python3 bench/torch_peer.py $model --ptq "$work/bench.json"
  else
    record skipped torch 0 "no PyTorch with CUDA: $(tail -n 1 "$logs/torch.log")"
  fi
}
step_perplexity() {
  run perplexity 600 "$gpu/bin/ptq-host" bench/gpu.toml --set "models=[\"$model\"]" --only ' (fp16|kivi-2bit) ' \
    --set evaluations.perplexity.window=2048 --set evaluations.perplexity.max_windows=4 \
    --set 'model.compute="bf16"' --plugins "$gpu/plugins" --device cuda:0 --out "$work/perplexity"
  cp -r "$work/perplexity" "$logs/" 2>/dev/null
  missing perplexity-split python3 || run_noted perplexity-split 10 python3 bench/time_split.py "$work/perplexity" "$work/bench.json"
}
step_ncu() {
  missing ncu ncu && return
  local name row kernel
  while IFS='|' read -r name row kernel; do
    # With --kill its exit code says nothing; the report does.
    run "ncu-$name" 30 sh -c '"$@"; [ -s "$0" ]' "$logs/$name.ncu-rep" ncu --clock-control none --set full --kill yes \
      -c 1 --kernel-name-base demangled -k "regex:$kernel" -o "$logs/$name" "$gpu/bin/ptq-bench" --kernels "$row" --device cuda:0
    timeout 10 ncu --import "$logs/$name.ncu-rep" --page details >"$logs/ncu-$name.txt" 2>&1 </dev/null
  done <<'END'
attention-decode|attention decode|attention_kernel<.*128, (\(int\))?1,
attention-prefill|attention prefill|attention_kernel<.*128, (\(int\))?4,
linear-dense|linear_small bf16|linear_dense_kernel<
linear-packed|linear_small W4|linear_packed_kernel<
END
}
step_races() {
  missing races compute-sanitizer && return
  local all
  spawn 10 cases-list "$gpu/bin/ptq-cuda-tests" --list-test-names-only
  wait $pid
  all=$(grep -a '^cuda' "$logs/cases-list.log")
  mapfile -t cases < <(grep -E '^cuda: .*(tile|attention)' <<<"$all")
  each_case 4 60 racecheck compute-sanitizer --tool racecheck --error-exitcode 9
  mapfile -t cases <<<"$all"
  each_case 4 60 memcheck compute-sanitizer --tool memcheck --error-exitcode 9
}

# ---- the run --------------------------------------------------------------------------------------
tar -C "$gpu" -xJf "$archive" || { record FAILED unpack $SECONDS "$archive cannot be unpacked" && whole=yes && exit 1; }
for step in "${steps[@]}"; do
  step_end=$((SECONDS + limit[$step]))
  ((step_end <= budget)) || step_end=$budget
  if ((SECONDS >= budget)); then
    record skipped "$step" 0 "no time is left of $budget s"
  elif [ "$step" != start ] && [ -n "$why" ]; then
    record skipped "$step" 0 "$why"
  else
    "step_$step"
  fi
  pack
  had=$((had + 1))
done
# A loop that such a signal ended (see finish) comes here, too.
[ $had -lt ${#steps[@]} ] || whole=yes
