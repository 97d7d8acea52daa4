#!/usr/bin/env bash
# A GGUF file where a model folder is expected.
# shellcheck source=test/cli/common.bash
. test/cli/common.bash
file=$PWD/test/fixtures/gguf/llama.gguf
ids=$(seq -s, 3 40)

run 0 info --model "$file"
says out "llama.gguf"
says out '"Q4_0":1'
says out "weight_bytes             197632"
run 0 logits --model "$file" --ids "$ids" --device cpu --out "$work/a.safetensors"
run 0 logits --model "$file" --ids "$ids" --device cpu --out "$work/b.safetensors" --method kivi \
  --set bits=2 --set residual_length=16 --set group_size=16
cmp -s "$work/a.safetensors" "$work/b.safetensors" && fail "a 2-bit cache changes nothing"
run 0 logits --model "$file" --ids "$ids" --device cpu --out "$work/c.safetensors" --method rtn \
  --set bits=2
cmp -s "$work/a.safetensors" "$work/c.safetensors" && fail "2-bit weights change nothing"
run 0 logits --model "$file" --ids "$ids" --device cpu --out "$work/i.safetensors" --compute int8
says out "compute int8"
cmp -s "$work/a.safetensors" "$work/i.safetensors" && fail "inputs of 8 bits change nothing"
run 0 trace --model "$file" --ids "$ids" --device cpu --out "$work/trace.safetensors"
run 0 trace --model "$file" --ids "$ids" --device cpu --against "$work/trace.safetensors"

# The fixture has no tokenizer: ids are enough, a text is not.
run 4 logits --model "$file" --text datasets/embedded/test.txt --out "$work/d.safetensors"
says err "put the tokenizer.json of the same model beside the file"
experiment fp16 | sed "s|^models = .*|models = [\"$file\"]\nmodel.random = true|" >"$work/random.toml"
run 2 run "$work/random.toml" --out "$work/random" --device cpu
says err "random weights are made for a folder"

head -c 3000 "$file" >"$work/cut.gguf"
run 4 info --model "$work/cut.gguf"
says err "the file ends before"
echo text >"$work/text.gguf"
run 4 logits --model "$work/text.gguf" --ids 1 --out "$work/e.safetensors"
says err "does not begin with \`GGUF\`"
run 4 info --model "$work"
says err "name the GGUF file itself"
finish
