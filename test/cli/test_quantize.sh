#!/usr/bin/env bash
# A model quantized here, written in the layouts of other programs: it loads again, gives the same logits and
# leaves alone what it does not quantize.
# shellcheck source=test/cli/common.bash
. test/cli/common.bash
model=models/tiny-llama
ids=1,5,9,200,7,42,42,5
options=(--set group_size=32)

method_trace() { # [options]: what the method gives in memory
  run 0 trace --model $model --ids $ids --device cpu --regime independent --out "$work/want.safetensors" "$@"
}
same() { # NAME: the checkpoint against it
  run 0 trace --model "$work/$1" --ids $ids --device cpu --against "$work/want.safetensors" --bound 1e-5
  says out "points agree"
}

# The layouts byte by byte: test_packed_write.cpp.
for case in "4 asym_gptq compressed-tensors gptq gptq_v2 awq" "4 sym_full compressed-tensors" "8 asym_gptq gptq"; do
  read -r bits grid formats <<<"$case"
  method=(--method rtn --set bits="$bits" --set grid="$grid" "${options[@]}")
  method_trace "${method[@]}"
  for format in $formats; do
    name=$format-$bits-$grid
    run 0 quantize --model $model "${method[@]}" --format "$format" --out "$work/$name"
    says out "$bits bits, groups of 32"
    same "$name"
    cmp -s $model/tokenizer.json "$work/$name/tokenizer.json" || fail "$name: another tokenizer"
    run 0 import --check $model "$work/$name"
    says out " 0 problems"
  done
done

# Methods that learn: columns in another order, scales moved into norms.
calibration=(--calibration datasets/embedded/calib.txt --calibration-sequences 4 --calibration-length 128)
for case in "gptq gptq act_order=true" "gptq compressed-tensors act_order=true" "awq awq grid=asym_awq"; do
  read -r name format set <<<"$case"
  method=(--method "$name" --set bits=4 --set group_size=64 --set "$set" "${calibration[@]}")
  method_trace "${method[@]}"
  run 0 quantize --model $model "${method[@]}" --format "$format" --out "$work/$name-$format"
  same "$name-$format"
done
grep -q '"desc_act": true' "$work/gptq-gptq/config.json" || fail "desc_act is not said"

# What a format cannot hold is refused, with those that can, and no folder is left.
refused() { # MESSAGE FORMAT SETTING...
  local message=$1 format=$2 set=()
  shift 2
  local method=rtn
  for setting in "$@"; do
    if [[ $setting = method=* ]]; then method=${setting#method=}; else set+=(--set "$setting"); fi
  done
  run 2 quantize --model $model --method "$method" "${set[@]}" --format "$format" --out "$work/refused"
  says err "$message"
  [ ! -e "$work/refused" ] || fail "a folder was left: $message"
}
refused "cannot hold 3 bits" compressed-tensors bits=3
refused "gptq_v2 hold 4 and 8 bits, awq 4" awq bits=2
refused "compressed-tensors, gptq and gptq_v2 can" awq bits=8
refused "in groups of 100" gptq bits=4 group_size=100
refused 'did you mean `gptq`' gptg bits=4
refused "no codebooks" gptq method=nf4
run 2 quantize --model $model --method fp16 --format gptq --out "$work/refused"
says err "encoded no layer"
run 2 quantize --model "$work/awq-4-asym_gptq" --method rtn --format awq --out "$work/refused"
says err "quantized already"
run 2 quantize --model $model --method rtn --format awq --out "$work/awq-4-asym_gptq"
says err "not empty"
finish
