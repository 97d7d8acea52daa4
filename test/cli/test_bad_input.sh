#!/usr/bin/env bash
# Every mistake of the user ends in one message that says what to do, before anything is computed.
# shellcheck source=test/cli/common.bash
. test/cli/common.bash
experiment fp16 kivi >"$work/e.toml"
out=$work/results

run 2
says err "ptq-host experiments/trackC.toml"
run 2 mehtods
says err "did you mean \`methods\`?"
run 2 "$work/e.tmol"
says err "did you mean $work/e.toml?"
run 2 "$work/e.toml" --ouput x
says err "did you mean \`--out\`?"
run 2 "$work/e.toml" --out "$out" --set sed=1
says err "did you mean \`seed\`?"
run 2 "$work/e.toml" --out "$out" --set methods.kivi.options.bit=2
says err "did you mean \`bits\`?"
run 2 "$work/e.toml" --out "$out" --set methods.kivi.options.bits=17
says err "1, 2, 4, 8"
run 2 "$work/e.toml" --out "$out" --set methods.kivi.options.bits=nan
says err "not a finite number"
run 2 "$work/e.toml" --out "$out" --set methods.kivi.method=kvii
says err "did you mean \`kivi\`?"
says err "plugins were looked for in"
run 2 "$work/e.toml" --out "$out" --set evaluations.perplexity.window=100000
says err "context of tiny-qwen2 ends at"
run 2 "$work/e.toml" --out "$out" --only nothing
says err "no cell matches"
run 2 "$work/e.toml" --jobs 0
printf 'models = [4,}\n' >"$work/syntax.toml"
run 2 "$work/syntax.toml"
says err "syntax.toml:1:"

run 4 "$work/e.toml" --out "$out" --device cuda
says err "no GPU can be used"
run 4 "$work/e.toml" --out "$out" --set 'models=["models/none"]'
says err "models/none"
run 4 "$work/e.toml" --out "$out" --set 'models=["Org/Name-7B"]' --dry-run
says err "hf download Org/Name-7B"
says out "cells"
run 4 "$work/e.toml" --out "$out" --set 'evaluations.perplexity.text="none.txt"'
says err "none.txt"
run 4 "$work/e.toml" --plugins "$work/none"
cp -r "$model" "$work/cut"
truncate -s 100000 "$work/cut/model.safetensors"
run 4 "$work/e.toml" --out "$out" --set "models=[\"$work/cut\"]"
says err "model.safetensors"
[ -e "$out" ] && fail "something was written before the checks were done"

# A folder that cannot be written: a file in its way, and a file system without files.
: >"$work/file"
run 4 "$work/e.toml" --out "$work/file"
says err "--out DIR"
run 4 "$work/e.toml" --out /proc/ptq
[ -s "$work/out" ] && fail "errors do not belong on the standard output"

# Tensors do not replace a link, nor a pipe.
ln -s nowhere "$work/link"
mkfifo "$work/pipe"
for there in link pipe; do
  run 2 logits --model "$model" --ids 1,2 --out "$work/$there"
  says err "no plain file"
done
[ -L "$work/link" ] && [ -p "$work/pipe" ] || fail "a link or a pipe was replaced"

# What is printed and lost is said: a standard output that is full, or closed.
for words in "methods" "tokenize --model $model --text datasets/embedded/test.txt"; do
  # shellcheck disable=SC2086
  "$host" $words >/dev/full 2>/dev/null
  [ $? -eq 4 ] || fail "a full standard output: $words"
  # shellcheck disable=SC2086
  "$host" $words >&- 2>/dev/null
  [ $? -eq 4 ] || fail "a closed standard output: $words"
done

# A script for Slurm that could not run is not written.
run 2 slurm "$work/e.toml" --out "$work/a b" --device tpu
says err "unknown device"
run 2 slurm "$work/e.toml" --out "$work/a b" --sbatch "rm -rf /"
says err "no option of sbatch"
run 0 slurm "$work/e.toml" --out "$work/a b" --sbatch=--partition=cpu
says out "--output=\"$work/a b/%A_%a.log\""

# The record that is checked is not replaced by the check.
run 0 "$work/e.toml" --out "$out" --only fp16
record=$(ls -d "$out"/*__fp16__*)
run 2 reproduce "$record" --keep "$out"
says err "name another folder"
run 0 reproduce "$record" --keep "$work/kept"
# What is wrong with a record is said of the record.
sed 's/"window": [0-9]*/"window": -3/' "$record/record.json" >"$work/wrong.json"
run 2 reproduce "$work/wrong.json"
says err "$work/wrong.json"
grep -q 'cell\.toml' "$work/err" && fail "a file that is gone is named"

# The ending of a file and the form asked for contradict each other.
report=$PTQ_BUILD/bin/ptq-report
"$report" "$out" --format csv --out "$work/q.md" 2>"$work/err"
[ $? -eq 2 ] || fail "CSV was written into a file that ends in .md"
says err "file's ending"

# A pipe where results should be has no writer: it is found, not waited for.
for part in tokens.bin samples.jsonl record.json; do
  cp -r "$out" "$work/piped"
  piped=$(ls -d "$work"/piped/*__fp16__*)
  rm "$piped/$part" && mkfifo "$piped/$part"
  timeout 20 "$report" verify "$work/piped" >/dev/null 2>&1
  [ $? -eq 6 ] || fail "ptq-report verify of a pipe as $part"
  timeout 20 "$report" check "$work/piped" "$work/e.toml" >/dev/null 2>&1
  [ $? -eq 3 ] || fail "ptq-report check of a pipe as $part"
  timeout 60 "$host" "$work/e.toml" --out "$work/piped" --only fp16 >/dev/null 2>"$work/err" ||
    fail "a run over a pipe as $part"
  says err "1 cells computed"
  rm -r "$work/piped"
done
finish
