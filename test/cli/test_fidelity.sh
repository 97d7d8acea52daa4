#!/usr/bin/env bash
# Reference bundles, and which layer a method hurts.
# shellcheck source=test/cli/common.bash
. test/cli/common.bash
ids=$(seq -s, 1 96)
bundle=$work/reference.bundle
# figure KEY [low|high]: of the JSON in $work/out.
figure() {
  grep -A 2 "^  \"$1\":" "$work/out" | if [ $# -eq 1 ]; then head -n 1; else grep "\"$2\""; fi |
    sed 's/.*: //; s/,$//'
}

run 0 fidelity --model "$model" --ids "$ids" --device cpu --regime streaming --window 64 --write "$bundle"
says out "96 tokens in windows of 64"
[ "$(stat -c %s "$bundle")" -le $((400 * 96 + 1024)) ] || fail "more than 400 bytes a token"

# Against itself nothing is lost; what is not known stays open.
run 0 fidelity --model "$model" --device cpu --regime streaming --against "$bundle" --json
[ "$(figure tokens)" = 94 ] || fail "not 63 + 31 positions"
[ "$(figure top1_agreement)" = 1.0 ] || fail "the model does not agree with itself"
[ "$(figure kl_mean low)" = 0.0 ] || fail "the model is apart from itself"

# The interval contains what the same tokens give exactly.
run 0 fidelity --model "$model" --device cpu --method kivi --set bits=2 --set residual_length=32 \
  --ids "$ids" --against "$bundle" --json
low=$(figure kl_mean low) high=$(figure kl_mean high)
awk -v a="$low" -v b="$high" 'BEGIN { exit !(a > 0 && a < b && b < 20) }' || fail "KL in $low .. $high"
run 0 fidelity --model "$model" --device cpu --method kivi --set bits=2 --against "$bundle"
says out "KL mean (nats)"

# What is no reference for this.
run 2 fidelity --model "$model" --device cpu --ids 1,2,3 --against "$bundle"
says err "the bundle is of other tokens: they part at number 3"
mkdir "$work/other"
cp "$model"/config.json "$model"/model.safetensors "$work/other"
# The tokens A and B with each other's ids.
sed 's/"A": \([0-9]*\)/"A": B\1/; s/"B": \([0-9]*\)/"A": \1/; s/"A": B/"B": /' "$model/tokenizer.json" >"$work/other/tokenizer.json"
cmp -s "$model/tokenizer.json" "$work/other/tokenizer.json" && fail "the tokenizer of this test is the model's"
run 2 fidelity --model "$work/other" --device cpu --against "$bundle"
says err "written with another tokenizer"
cp "$bundle" "$work/vocabulary.bundle"
printf '\x00\x20' | dd of="$work/vocabulary.bundle" bs=1 seek=12 conv=notrunc status=none
run 2 fidelity --model "$model" --device cpu --against "$work/vocabulary.bundle"
says err "of a vocabulary of 8192 tokens"
head -c 5000 "$bundle" >"$work/cut.bundle"
run 4 fidelity --model "$model" --device cpu --against "$work/cut.bundle"
says err "this is no reference bundle"
run 4 fidelity --model "$model" --device cpu --against "$work/nowhere.bundle"
run 2 fidelity --model "$model" --device cpu --ids "$ids"
says err "either --write or --against"
run 2 fidelity --model "$model" --device cpu --write "$work/x.bundle"
[ -e "$work/x.bundle" ] && fail "a bundle of nothing"

# Parts of a cache, and of the weights.
run 0 sensitivity --model "$model" --device cpu --ids "$ids" --method kivi --set bits=2 \
  --set residual_length=32 --json
layers=$(sed -n 's/.*"num_hidden_layers": *\([0-9]*\).*/\1/p' "$model/config.json")
[ "$(grep -c '"part": "\(keys\|values\)"' "$work/out")" -eq $((2 * layers)) ] || fail "not two parts of each layer"
awk -v a="$(figure kl_sum)" -v b="$(figure kl_all)" 'BEGIN { exit !(a > 0 && b > 0 && a < 10 * b && b < 10 * a) }' ||
  fail "the parts have nothing to do with the whole"
run 0 sensitivity --model "$model" --device cpu --ids 1,2,3,4,5,6,7,8 --method rtn --set bits=2 --by linear
says out "down_proj"
says out "sum of the parts"
run 2 sensitivity --model "$model" --device cpu --ids "$ids" --method kivi --by linear
says err "has no linear layers"
run 2 sensitivity --model "$model" --device cpu --ids "$ids" --method streaming_llm
says err "drops rows"
run 2 sensitivity --model "$model" --device cpu --ids "$ids"
says err "exactly one method"
finish
