#!/usr/bin/env bash
# A plugin that crashes, throws, exits, fails or hangs loses its own cells and nothing else.
# shellcheck source=test/cli/common.bash
. test/cli/common.bash
bad=$PTQ_BUILD/test-plugins
for name in bad_crash bad_throw bad_exit bad_fail bad_hang bad_abi; do
  [ -f "$bad/$name.so" ] || { echo "$bad/$name.so is not built"; exit 77; }
  mkdir -p "$work/plugins" && cp "$bad/$name.so" "$work/plugins"
done

experiment fp16 bad_crash bad_throw bad_exit bad_fail bad_hang kivi >"$work/e.toml"
run 3 "$work/e.toml" --plugins "$work/plugins" --out "$work/results"
says err "2 cells computed, 0 kept from before, 5 failed"
says err "bad_abi.so"
says err "exit code 0 and without a result"
says err "limits.hang_seconds = $((2 * slow))"
says out "kivi"
[ "$(find "$work/results/failed" -name '*.json' | wc -l)" -eq 5 ] || fail "not 5 failure records"
[ -z "$(find "$work/results" -name '.tmp-*')" ] || fail "an attempt was left behind"

# The finished cells are kept, the failed ones tried again.
run 3 "$work/e.toml" --plugins "$work/plugins" --out "$work/results" --only 'bad_fail|kivi|fp16'
says err "0 cells computed, 2 kept from before, 1 failed"

# The others' figures are what they are without the bad ones.
experiment fp16 kivi >"$work/good.toml"
run 0 "$work/good.toml" --out "$work/good"
for name in fp16 kivi; do
  cmp -s "$work"/results/*"__${name}__"*/samples.jsonl "$work"/good/*"__${name}__"*/samples.jsonl ||
    fail "the samples of $name differ"
done
finish
