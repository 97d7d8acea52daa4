#!/usr/bin/env bash
# A real language model, where `make real` has fetched it: against tokenizers and transformers, and a grid in small.
# shellcheck source=test/cli/common.bash
. test/cli/common.bash
folder=$(bash models/fetch_smollm2.sh --cached) || { echo "SmolLM2 is not there; \`make real\` fetches it"; exit 77; }
model=$folder/SmolLM2-135M-Instruct.Q4_1.gguf
fixture=test/fixtures/smollm2

run 0 tokenize --model "$model" --text $fixture/text.txt
cmp -s "$work/out" $fixture/ids.json || fail "other ids than the tokenizers library gives"
run 0 tokenize --model "$model" --text datasets/embedded/test.txt
ids=$(tr -d '[]\n' <"$work/out" | cut -d, -f1-16)
run 0 trace --model "$model" --ids "$ids" --device cpu --against $fixture/trace.safetensors --bound 1e-4
says out "4 points agree"

# One window, whose loss transformers knows; the float16 of the cache is the difference.
experiment fp16 kivi >"$work/small.toml"
sed -i 's/^method = "kivi"/&\noptions = { bits = 2, group_size = 32, residual_length = 32 }/' "$work/small.toml"
run 0 run "$work/small.toml" --out "$work/small" --device cpu --set limits.hang_seconds=60
record() { cat "$work"/small/*__"$1"*__perplexity*/record.json; }
figure() { record "$1" | tr -d ' \n' | sed -n "s/.*\"$2\":\(-\?[0-9.e-]*\).*/\1/p"; }
near() { awk -v a="$1" -v b="$2" -v bound="$3" 'BEGIN { exit !(a - b < bound && b - a < bound && a != "") }'; }
want=$(sed 's/[^0-9.]//g' $fixture/loss.json)
near "$(figure fp16 nll)" "$want" 2e-3 || fail "loss $(figure fp16 nll) instead of $want"
near "$(figure kivi nll)" "$want" 2e-3 && fail "a 2-bit cache changes nothing"
finish
