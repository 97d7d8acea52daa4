#!/usr/bin/env bash
# A packed checkpoint as a model, and against the model that it was made of.
# shellcheck source=test/cli/common.bash
. test/cli/common.bash
packed=$PWD/test/fixtures/packed
base=$packed/base

run 0 import --check "$base" "$packed/ct-group-asym"
says out "14 packed layers"
says out "0 problems"
run 0 info --model "$packed/awq"
says out '"i32":28'
ids=$(seq -s, 3 40)
run 0 logits --model "$packed/gptq" --ids "$ids" --device cpu --out "$work/a.safetensors"
run 0 logits --model "$packed/gptq-v2" --ids "$ids" --device cpu --out "$work/b.safetensors"
cmp -s "$work/a.safetensors" "$work/b.safetensors" || fail "two labels of the same numbers differ"

# The wrong label.
mkdir "$work/wrong"
cp "$packed/gptq-v2/model.safetensors" "$work/wrong"
sed 's/"gptq_v2"/"gptq"/' "$packed/gptq-v2/config.json" >"$work/wrong/config.json"
run 6 import --check "$base" "$work/wrong"
says out "not stored as the label says: zero points stored as they are"
says out "14 problems"

run 2 import --check "$base"
says err "import needs --check and two folders"
run 2 import --check "$base" "$base"
says err "the checkpoint is not packed"
run 4 import --check "$model" "$packed/awq"
says err "config.json needs"
finish
