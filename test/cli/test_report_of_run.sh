#!/usr/bin/env bash
# What a run leaves for its reader: the baseline, the rows that are asked for, and a report whatever
# the folder is called, wherever temporary files go and whoever closes the pipe.
# shellcheck source=test/cli/common.bash
. test/cli/common.bash
[ -x "$PTQ_BUILD/bin/ptq-report" ] || { echo "ptq-report is not built"; exit 77; }
[ -f "$PTQ_BUILD/test-plugins/says_lossless.so" ] || { echo "the test plugins are not built"; exit 77; }
plugins=$work/plugins
mkdir "$plugins"
cp "$PTQ_BUILD/test-plugins/says_lossless.so" "$plugins"

# A plugin that calls itself lossless is measured like any other, and no baseline.
experiment says_lossless kivi >"$work/e.toml"
run 0 "$work/e.toml" --plugins "$plugins" --out "$work/r" --quiet
says out "no full-precision baseline"
says out "not full precision: the method calls itself lossless"
grep -q '"lossless": true' "$work"/r/*/record.json && fail "the record believes the plugin"
grep -q '"kl_mean": 0.[0-9]' "$work"/r/*says_lossless*/record.json || fail "no divergence was measured"
run 0 methods says_lossless --plugins "$plugins"
says out 'full precision \x1b[31m, it says'
run 0 methods --plugins "$plugins"
grep -q $'\x1b' "$work/out" && fail "a summary reaches the terminal as it is"

# The experiment's baseline; what is no longer asked for.
{ echo 'baseline = "kivi"'; experiment fp16 kivi; } >"$work/e.toml"
run 0 "$work/e.toml" --out "$work/base" --quiet
says out "kivi (baseline)"
cp "$PTQ_BUILD/test-plugins/bad_crash.so" "$plugins"
experiment fp16 bad_crash >"$work/e.toml"
run 3 "$work/e.toml" --plugins "$plugins" --out "$work/base" --quiet
grep -q '^bad_crash .*failed' "$work/out" || fail "a failure that counts is no row"
experiment fp16 >"$work/e.toml"
run 0 "$work/e.toml" --out "$work/base" --quiet
says out "fp16 (baseline)"
says out "kivi (not asked for)"
grep -q '^bad_crash' "$work/out" && fail "a failure of a method that is gone is a row"
grep -qs bad_crash "$work"/base/superseded/failed/*.json || fail "a failure that is gone was not put aside"
says out "computed with ptq "

# What an experiment leaves out are defaults, inside of its tables, too, and the name of a task.
{
  experiment fp16 kivi
  cat <<TOML
[[evaluations]]
kind = "passkey"
keys = 2
depths = [0.5]
context_length = 256
max_new_tokens = 2
decide = { margin = 0.5 }
[[evaluations]]
kind = "choices"
task = "arc_challenge"
data = "$PWD/datasets/embedded/tasks/arc_challenge.jsonl"
rows = "0:4"
TOML
} >"$work/asked.toml"
run 0 "$work/asked.toml" --out "$work/asked" --quiet
"$PTQ_BUILD/bin/ptq-report" check "$work/asked" "$work/asked.toml" >"$work/out" || fail "an honest run does not pass its check"
says out "6 ok"

# A closed pipe, a missing TMPDIR, a folder that is called like a command.
for ignored in "" "trap '' PIPE;"; do
  rm -f "$work/base/report.html"
  bash -c "$ignored \"$host\" \"$work/e.toml\" --out \"$work/base\" --quiet 2>\"$work/err\" | true"
  [ -s "$work/base/report.html" ] || fail "no report.html behind a closed pipe"
  grep -q error "$work/err" && fail "a closed pipe is called an error"
done
rm -f "$work/base/report.html"
TMPDIR=$work/nowhere run 0 "$work/e.toml" --out "$work/base" --quiet
[ -s "$work/base/report.html" ] || fail "no report.html without TMPDIR"
sed -i "s|^text = .*|text = \"$PWD/datasets/embedded/test.txt\"|" "$work/e.toml"
cd "$work" || exit 1
for name in run diff check verify leaderboard pruning -x; do
  run 0 e.toml "--out=$name" --quiet
  [ -s "./$name/report.html" ] || fail "no report in a folder called $name"
done
finish
