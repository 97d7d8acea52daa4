# shellcheck shell=bash
# Helpers of test/hostile/test_*.sh: plugins that are compiled with a fault, and cells with them.
# shellcheck source=test/cli/common.bash
. test/cli/common.bash
command -v cc >/dev/null || { echo "no C compiler"; exit 77; }
plugins=$work/plugins
mkdir "$plugins"

# plugin [-DAT_..=CODE]...: plugins/hostile.so
plugin() {
  cc -std=gnu11 -O1 -w -shared -fPIC -fvisibility=hidden -I include "$@" test/hostile/hostile.c \
    -o "$plugins/hostile.so" -lm || fail "hostile.c is not compiled with $*"
}
# weights ANSWER: plugins/weights.so
weights() {
  cc -std=gnu11 -O1 -w -shared -fPIC -fvisibility=hidden -I include "-DANSWER=$1" \
    test/hostile/weights.c -o "$plugins/weights.so" || fail "weights.c is not compiled with $1"
}
# cells CODE METHOD... [--OPTION...]: an experiment of these methods with the plugins, to results/
cells() {
  local code=$1 methods=()
  shift
  while [ $# -gt 0 ] && [[ $1 != --* ]]; do
    methods+=("$1")
    shift
  done
  rm -rf "$work/results"
  experiment "${methods[@]}" >"$work/e.toml"
  run "$code" "$work/e.toml" --plugins "$plugins" --out "$work/results" --quiet "$@"
}
loss() { grep -h -o '"nll": [-0-9.e]*' "$work"/results/*"__$1__"*/record.json; }
