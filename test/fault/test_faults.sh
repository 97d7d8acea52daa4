#!/usr/bin/env bash
# ptq-host and ptq-report while single file operations fail: the k-th open, read, write, fsync,
# rename, mkdir, close or truncate, with EIO, ENOSPC, EACCES, EINTR or EMFILE (test/fault/fault.c).
# Whatever fails: never exit code 0 with something missing and unsaid, never part of a file under its
# final name, no crash, and the same command without the fault brings what was missing.
#
# PTQ_FAULTS=all tries every position instead of a few; PTQ_FAULTS=report or host only one program.
set -uo pipefail
PTQ_BUILD=${PTQ_BUILD:-$PWD/build}
host=$PTQ_BUILD/bin/ptq-host
report=$PTQ_BUILD/bin/ptq-report
model=$PWD/models/tiny-qwen2
{ [ -x "$host" ] && [ -x "$report" ]; } || { echo "the programs are not built"; exit 77; }
[ -f "$model/model.safetensors" ] || { echo "$model is not there"; exit 77; }
command -v cc >/dev/null || { echo "no C compiler"; exit 77; }
"$host" doctor 2>&1 | grep -q asan && { echo "a sanitizer must be loaded first"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PTQ_PLUGINS
mkdir "$work/path" && ln -s "$(command -v sh)" "$work/path/sh" # without gnuplot, which takes a second
size=${PTQ_FAULTS:-some}
failures=0 tried=0 failed_runs=0 only=

fail() {
  echo "FAILED: $*"
  failures=$((failures + 1))
}
cc -shared -fPIC -O1 -o "$work/fault.so" test/fault/fault.c -ldl || { echo "no preload library"; exit 77; }

# faulty KIND AT ERRNO PROGRAM WORD...: output in $work/out and $work/err, exit code in $code.
faulty() {
  local kind=$1 at=$2 number=$3
  shift 3
  head -c 8 /dev/zero >"$work/counter"
  code=0
  timeout 120 env LD_PRELOAD="$work/fault.so" FAULT_COUNTER="$work/counter" FAULT_KIND="$kind" \
    FAULT_AT="$at" FAULT_ERRNO="$number" FAULT_ONLY="$only" PATH="$work/path" "$@" >"$work/out" \
    2>"$work/err" </dev/null || code=$?
}
count() { od -An -td8 "$work/counter" | tr -d ' '; }
what() { echo "$1 number $2 with errno $3 (exit $code)"; }

# In every run, whatever its end: no crash, and what fails is put into words.
sound() {
  [ "$code" -lt 124 ] || fail "crash or hang: $1"
  [ "$code" -eq 0 ] || grep -qE 'error|warning|FAILED|note' "$work/err" || fail "no words: $1"
  grep -q 'this is a bug of ptq' "$work/err" && fail "called a bug: $1: $(head -n 1 "$work/err")"
  [ "$code" -eq 0 ] || failed_runs=$((failed_runs + 1))
}

# --- ptq-report ---------------------------------------------------------------------------------
cat >"$work/e.toml" <<TOML
models = ["$model"]
[[methods]]
method = "fp16"
[[methods]]
method = "kivi"
[[evaluations]]
kind = "perplexity"
text = "$PWD/datasets/embedded/test.txt"
window = 64
max_windows = 2
TOML
"$host" "$work/e.toml" --out "$work/base" --quiet --threads 1 >"$work/out" 2>"$work/err" ||
  { cat "$work/err"; fail "no run without faults"; exit 1; }
pages="report.html report.md results.csv results.json"
for page in $pages; do rm -f "$work/base/$page"; done
rm -rf "$work/base/plots"
base=$work/base
fresh() { rm -rf "$work/r" && cp -r "$base" "$work/r"; }
fresh
faulty none 0 0 "$report" "$work/r"
[ "$code" -eq 0 ] || fail "ptq-report under the preload library ends with $code"
cp -r "$work/r" "$work/right"
cp "$work/out" "$work/right.out"

try_report() { # KIND AT ERRNO
  fresh
  faulty "$1" "$2" "$3" "$report" "$work/r"
  tried=$((tried + 1))
  local about whole=1
  about="ptq-report: $(what "$1" "$2" "$3")"
  sound "$about"
  cmp -s "$work/out" "$work/right.out" || whole=0
  for page in $pages; do
    cmp -s "$work/r/$page" "$work/right/$page" && continue
    whole=0
    [ -e "$work/r/$page" ] || continue
    case $page in # another page, then: with a warning about what could not be read
      *.html) tail -c 20 "$work/r/$page" | grep -q '</html>' || fail "part of $page: $about" ;;
      *.json) tail -n 1 "$work/r/$page" | grep -qx '}' || fail "part of $page: $about" ;;
      *) [ -z "$(tail -c 1 "$work/r/$page")" ] || fail "part of $page: $about" ;;
    esac
  done
  [ "$code" -eq 0 ] && [ "$whole" -eq 0 ] &&
    ! grep -vq 'gnuplot is not installed' "$work/err" &&
    ! grep -qE 'NOT CONSISTENT|cannot be|Damaged records|not readable' "$work/out" &&
    fail "something is missing and unsaid: $about"
}

# --- ptq-host -----------------------------------------------------------------------------------
try_host() { # KIND AT ERRNO
  local about
  rm -rf "$work/h"
  faulty "$1" "$2" "$3" "$host" "$work/e.toml" --out "$work/h" --quiet --threads 1
  tried=$((tried + 1))
  about="ptq-host: $(what "$1" "$2" "$3")"
  sound "$about"
  local records=("$work"/h/tiny-qwen2__*/record.json)
  [ -e "${records[0]}" ] || records=()
  [ "$code" -eq 0 ] && [ "${#records[@]}" -ne 2 ] && fail "a result is missing: $about"
  [ "$code" -eq 0 ] && ! grep -q kivi "$work/out" && ! grep -qE 'note|warning|error' "$work/err" &&
    fail "the tables are missing and that is unsaid: $about"
  if [ "${#records[@]}" -gt 0 ]; then
    "$report" verify "$work/h" >"$work/verify" 2>&1 || fail "a part of a result: $about: $(cat "$work/verify")"
  fi
  [ "$code" -eq 0 ] && return
  "$host" "$work/e.toml" --out "$work/h" --quiet --threads 1 >"$work/out" 2>"$work/err" ||
    fail "it cannot be finished afterwards: $about: $(head -n 3 "$work/err")"
  "$report" verify "$work/h" >/dev/null 2>&1 || fail "a wrong result afterwards: $about"
}

numbers=(5 28 13 4 24) # EIO ENOSPC EACCES EINTR EMFILE
# positions TRY KIND EACH: a few positions with changing errors, or all of them. EACH=every: with
# every error.
positions() {
  local try=$1 kind=$2 each=$3 total few=$4 at number i
  fresh
  rm -rf "$work/h"
  case $try in
    try_report) faulty "$kind" 0 0 "$report" "$work/r" ;;
    *) faulty "$kind" 0 0 "$host" "$work/e.toml" --out "$work/h" --quiet --threads 1 ;;
  esac
  total=$(count)
  [ "$total" -gt 0 ] || return
  if [ "$size" = some ]; then
    for ((i = 0; i < few; ++i)); do
      at=$((1 + (2 * i + 1) * total / (2 * few)))
      [ "$at" -le "$total" ] && "$try" "$kind" "$at" "${numbers[(at + i) % 5]}"
    done
    return
  fi
  echo "${try#try_}: $kind: $total positions"
  for ((at = 1; at <= total; ++at)); do
    if [ "$each" = every ]; then
      for number in "${numbers[@]}"; do "$try" "$kind" "$at" "$number"; done
    else
      "$try" "$kind" "$at" "${numbers[at % 5]}"
    fi
  done
}

if [ "$size" != host ]; then
  for kind in open read write fsync rename mkdir close truncate; do
    positions try_report $kind every 5
  done
fi
if [ "$size" != report ]; then
  only=$work/h # of the files of the results; the others are read before anything is computed
  for kind in write fsync rename mkdir close truncate; do positions try_host $kind every 1; done
  positions try_host open every 3
  # A file system without fsync (EOPNOTSUPP, ENOSYS) keeps results all the same.
  for number in 95 38; do
    rm -rf "$work/h"
    faulty fsync 2 "$number" "$host" "$work/e.toml" --out "$work/h" --quiet --threads 1
    [ "$code" -eq 0 ] || fail "fsync that is not supported: exit code $code: $(head -n 3 "$work/err")"
  done
  only=
  [ "$size" = some ] || for kind in open read; do positions try_host $kind one 0; done
fi
echo "$tried runs with a fault, $failed_runs of them said so with their exit code"
[ "$failures" -eq 0 ]
