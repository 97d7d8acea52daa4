#!/usr/bin/env bash
# Folders as they are in the world: names that are not UTF-8, a working folder that is gone, several
# experiments in one folder of results.
# shellcheck source=test/cli/common.bash
. test/cli/common.bash

# A working folder whose name is not UTF-8, with everything named relative to it.
odd=$work/$(printf 'caf\351')
mkdir -p "$odd/models" && ln -s "$model" "$odd/models/m"
experiment kivi | sed 's#^models.*#models = ["models/m"]#' >"$odd/e.toml"
(cd "$odd" && run 0 e.toml --out r && [ "$failures" -eq 0 ]) || fail "a working folder that is not UTF-8"
ls "$odd"/r/m__kivi__*/record.json >/dev/null || fail "no result in a folder that is not UTF-8"

# A working folder that is gone.
mkdir "$work/gone"
(cd "$work/gone" && rmdir "$work/gone" && run 0 info --model "$model" && [ "$failures" -eq 0 ]) ||
  fail "an absolute path needs no working folder"
mkdir "$work/gone"
(cd "$work/gone" && rmdir "$work/gone" && run 4 info --model models/m && says err "the working folder does not exist" &&
  [ "$failures" -eq 0 ]) || fail "a working folder that is gone"

# Two experiments in one folder: both results stay, and the old failures of one are put aside.
{ echo 'name = "one"'; experiment fp16; } >"$work/one.toml"
{ echo 'name = "two"'; experiment fp16; } | sed 's/^window.*/window = 128/' >"$work/two.toml"
run 0 "$work/one.toml" --out "$work/r"
run 0 "$work/two.toml" --out "$work/r"
says out "one: tiny-qwen2"
says out "two: tiny-qwen2"
[ "$(find "$work/r" -maxdepth 1 -name 'tiny-qwen2__*' | wc -l)" -eq 2 ] || fail "one experiment hides the other"
compgen -G "$work/r/experiments/one__*.json" >/dev/null || fail "the first experiment's experiment.json is lost"
# The same cell under two names is computed once, and that is said.
sed 's/"one"/"three"/' "$work/one.toml" >"$work/three.toml"
run 0 "$work/three.toml" --out "$work/r"
says err "computed by the experiment \`one\`"
finish
