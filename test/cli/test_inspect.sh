#!/usr/bin/env bash
# The commands that only look: methods, info, tokenize, logits, doctor.
# shellcheck source=test/cli/common.bash
. test/cli/common.bash

for command in methods info tokenize logits doctor; do
  run 0 "$command" --help
  says out "ptq-host $command"
done
run 0 run --help
run 0 --help
says out "ptq-host experiments/trackC.toml"
run 0 --version
says out "ABI 1."
run 0 methods
says out "kivi"
run 0 methods kivi
says out "residual_length"
run 0 methods --json
head -c 1 "$work/out" | grep -q '{' || fail "methods --json does not begin with an object"
run 0 info --model "$model"
says out "qwen2"
run 0 info --model "$model" --json
says out '"kv_bytes_per_token_fp16": 2048'
run 4 info --model "$work/none"
run 0 doctor
says out "kivi"

printf 'The passkey is 71432.\n\nzwei Zeilen\n' >"$work/text"
"$host" tokenize --model "$model" <"$work/text" >"$work/ids" || fail "tokenize"
[ "$(wc -l <"$work/ids")" -eq 3 ] || fail "not one array per line"
[ "$(sed -n 2p "$work/ids")" = "[]" ] || fail "an empty line is not an empty array"
"$host" tokenize --model "$model" --decode <"$work/ids" >"$work/back" || fail "tokenize --decode"
cmp -s "$work/text" "$work/back" || fail "decoding does not give the text back"
run 0 tokenize --model "$model" --text "$work/text"
[ "$(wc -l <"$work/out")" -eq 1 ] || fail "--text is not one array"
echo '[1, x]' >"$work/bad"
run 2 tokenize --model "$model" --decode --text "$work/bad"
says err "line 1"

run 0 logits --model "$model" --ids 5,6,7 --out "$work/a.safetensors"
says out "3 tokens"
run 2 logits --model "$model" --text datasets/embedded/test.txt --ids 1 --out "$work/x"
run 0 logits --model "$model" --ids 5,6,7 --method kivi --set bits=4 --out "$work/b.safetensors"
says out "regime streaming"
head -c 400 "$work/b.safetensors" | grep -aq '"logits":{"dtype":"F32"' || fail "no tensor logits"
run 2 logits --model "$model" --ids 5,6,7 --method kivi --set bots=4 --out "$work/c.safetensors"
says err "did you mean \`bits\`?"
run 2 logits --model "$model" --ids 5,999999 --out "$work/c.safetensors"
finish
