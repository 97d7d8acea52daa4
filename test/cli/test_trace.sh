#!/usr/bin/env bash
# Every point of a pass, and where two traces part.
# shellcheck source=test/cli/common.bash
. test/cli/common.bash

ids=1,17,200,5,99,301
run 0 trace --model "$model" --ids $ids --device cpu --out "$work/plain.safetensors"
says out "points of 6 tokens, regime independent"
# The reference implementation's trace, as a user would hold a wrong logit against it.
run 0 trace --model "$model" --ids $ids --device cpu --against test/fixtures/trace/tiny-qwen2.safetensors
says out "points agree within 0.001"
# A compressed cache parts from full precision where attention reads it, and not before.
run 6 trace --model "$model" --ids $ids --device cpu --method kivi --set bits=1 --set residual_length=4 \
  --set group_size=4 --against "$work/plain.safetensors"
says out "the traces part at model.layers.0.self_attn.o_proj.input"
run 0 trace --model "$model" --ids $ids --device cpu --method fp16 --against "$work/plain.safetensors" --bound 0.01

run 2 trace --model "$model" --ids $ids
says err "neither --out nor --against is given"
run 2 trace --model "$model" --ids 1,2 --against "$work/plain.safetensors"
says err "has the shape"
run 2 trace --model "$model" --ids 1,2 --against "$work/plain.safetensors" --bound x
says err "is no number above 0"
run 4 trace --model "$model" --ids 1,2 --against "$work/none.safetensors"
run 2 logits --model "$model" --ids 1,2
says err "out is missing"
finish
