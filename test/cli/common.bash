# shellcheck shell=bash
# Helpers of test/cli/test_*.sh: source it first. Gives $host, $work (a folder that is removed at the
# end) and the checks below. Ends the test as skipped where the program is not built.
set -uo pipefail
PTQ_BUILD=${PTQ_BUILD:-$PWD/build}
host=$PTQ_BUILD/bin/ptq-host
model=$PWD/models/tiny-qwen2
[ -x "$host" ] || { echo "$host is not built"; exit 77; }
[ -f "$model/model.safetensors" ] || { echo "$model is not there"; exit 77; }
[ -f "$PTQ_BUILD/plugins/fp16.so" ] || { echo "the plugins are not built"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PTQ_PLUGINS
failures=0
# How many times slower than a release build the program may be, as with a sanitizer.
slow=${PTQ_SLOW:-1}

fail() {
  echo "FAILED: $*"
  failures=$((failures + 1))
}

# run CODE WORD...: the program must end with CODE; its output is in $work/out and $work/err.
run() {
  local expected=$1 code=0
  shift
  "$host" "$@" >"$work/out" 2>"$work/err" </dev/null || code=$?
  [ "$code" -eq "$expected" ] && return
  fail "exit code $code instead of $expected: ptq-host $*"
  tail -n 20 "$work/out" "$work/err"
}

# says FILE TEXT: the file contains the text.
says() {
  grep -qF -- "$2" "$work/$1" && return
  fail "no \"$2\" in the output:"
  tail -n 20 "$work/$1"
}

# experiment METHOD...: a small experiment with these methods, one short window each.
experiment() {
  cat <<TOML
models = ["$model"]
$(printf '[[methods]]\nmethod = "%s"\n' "$@")
[[evaluations]]
kind = "perplexity"
text = "$PWD/datasets/embedded/test.txt"
window = 256
max_windows = 1
[limits]
cell_seconds = $((60 * slow))
hang_seconds = $((2 * slow))
TOML
}

finish() {
  [ "$failures" -eq 0 ] && echo "all well"
  exit $((failures > 0))
}
