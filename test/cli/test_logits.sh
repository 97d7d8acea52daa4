#!/usr/bin/env bash
# The logits of one sequence under every kind of method: cache, weights, both, and those that learn
# from a text.
# shellcheck source=test/cli/common.bash
. test/cli/common.bash
ids=$(seq -s, 1 96)
# logits CODE NAME WORD...: writes $work/NAME.safetensors.
logits() {
  local code=$1 name=$2
  shift 2
  run "$code" logits --model "$model" --ids "$ids" --device cpu --out "$work/$name.safetensors" "$@"
}
same() { cmp -s "$work/$1.safetensors" "$work/$2.safetensors"; }
learned=(--method kvquant --calibration datasets/embedded/calib.txt --calibration-sequences 2
  --calibration-length 256)

logits 0 plain --regime streaming
logits 0 cache --method kivi --set bits=2 --set residual_length=32
says out "regime streaming"
same plain cache && fail "a 2-bit cache changes nothing"
logits 0 weights --method rtn --set bits=2
logits 0 both --method rtn --method kivi --set rtn.bits=2 --set kivi.bits=2 --set kivi.residual_length=32
same both weights && fail "beside a weights method the cache method changes nothing"
same both cache && fail "beside a cache method the weights method changes nothing"
logits 0 again --method kivi --method rtn --set rtn.bits=2 --set kivi.bits=2 --set kivi.residual_length=32
same both again || fail "the order of two methods matters"

# A method that learns from a text gets it, and its seed chooses the pieces.
logits 0 learned "${learned[@]}"
same plain learned && fail "kvquant changes nothing"
logits 0 other "${learned[@]}" --seed 1
same learned other && fail "the calibration does not depend on the seed"
logits 2 none --method kvquant
says err "\`kvquant\` learns from a calibration text, and none is named"
says err "add --calibration FILE"
[ -e "$work/none.safetensors" ] && fail "logits of a method that was not calibrated"
logits 4 none --method kvquant --calibration gone.txt
says err "the file \`gone.txt\` is nowhere"

# A method that had another name is found under both.
logits 0 before --method kivi_seed
logits 0 now --method kivi_study
same before now || fail "kivi_seed is another method than kivi_study"

# Mistakes.
logits 2 none --method kivi --method kvquant_lite
says err "both want to encode the cache"
logits 2 none --method rtn --method kivi --set bits=2
says err "\`bits\` is none of the methods"
logits 2 none --method kivii
says err "did you mean \`kivi\`?"
logits 2 none --set bits=2
says err "--set needs --method"
finish
