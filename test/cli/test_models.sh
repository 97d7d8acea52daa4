#!/usr/bin/env bash
# Where models come from: the Hugging Face cache, and folders without weights.
# shellcheck source=test/cli/common.bash
. test/cli/common.bash

# A cache as the hub's client makes it: snapshots of links to blobs, whose names are hashes.
cache=$work/hub/models--Qwen--Qwen2.5-7B
snapshot=$cache/snapshots/d149729398750b98c0af14eb82c78cfe92750796
mkdir -p "$cache/blobs" "$cache/refs" "$snapshot"
printf d149729398750b98c0af14eb82c78cfe92750796 >"$cache/refs/main"
for file in "$model"/*; do
  blob=$(sha256sum "$file" | cut -c 1-40)
  cp "$file" "$cache/blobs/$blob"
  ln -s "../../blobs/$blob" "$snapshot/$(basename "$file")"
done
export HF_HUB_CACHE=$work/hub
run 0 info --model Qwen/Qwen2.5-7B
says out "$snapshot"
run 0 info --model Qwen/Qwen2.5-7B@d1497293
says out "qwen2"
echo 'The passkey is 71432.' >"$work/text"
run 0 tokenize --model Qwen/Qwen2.5-7B --text "$work/text"
cp "$work/out" "$work/ids"
run 0 tokenize --model "$model" --text "$work/text"
cmp -s "$work/out" "$work/ids" || fail "other ids from the cache"
run 0 logits --model Qwen/Qwen2.5-7B --ids 5,6,7 --out "$work/a.safetensors"
run 0 logits --model "$model" --ids 5,6,7 --out "$work/b.safetensors"
cmp -s "$work/a.safetensors" "$work/b.safetensors" || fail "other logits from the cache"
experiment fp16 | sed "s|\"$model\"|\"Qwen/Qwen2.5-7B\"|" >"$work/hub.toml"
run 0 "$work/hub.toml" --dry-run
says out "Qwen2.5-7B"
# A blob that is missing, and a link that leaves the cache.
mv "$cache/blobs" "$cache/gone"
run 4 info --model Qwen/Qwen2.5-7B
mv "$cache/gone" "$cache/blobs"
ln -sf "$model/model.safetensors" "$snapshot/model.safetensors"
run 4 info --model Qwen/Qwen2.5-7B
says err "leaves the model folder"
run 4 info --model Qwen/Qwen2.5-7B-Instruct
says err "hf download Qwen/Qwen2.5-7B-Instruct"
unset HF_HUB_CACHE

# Compute mode.
run 0 logits --model "$model" --ids 5,6,7 --compute bf16 --out "$work/c.safetensors"
says out "compute bf16"
cmp -s "$work/a.safetensors" "$work/c.safetensors" && fail "bf16 changes nothing"
run 2 logits --model "$model" --ids 5 --compute bf61 --out "$work/x"
says err "did you mean \`bf16\`?"

# The three models of the study from their config.json alone.
for row in "Qwen2.5-7B 7615616512 15231233024 57344 5.164" \
  "Mistral-7B-v0.3 7248023552 14496047104 131072 3.852" \
  "Llama-3.1-8B 8030261248 16060522496 131072 5.309"; do
  read -r name parameters bytes cached four <<<"$row"
  run 0 info --model "models/configs/$name"
  grep -Eq "^parameters +$parameters\$" "$work/out" || fail "$name: parameters"
  grep -Eq "^weight_bytes +$bytes\$" "$work/out" || fail "$name: weight_bytes"
  grep -Eq "^kv_bytes_per_token_fp16 +$cached\$" "$work/out" || fail "$name: bytes per token"
  says out "$four GiB"
  says out "+ 32768 tokens"
  says out "random weights"
done

# A small shape without weights and tokenizer runs through a cell, and its results say so.
mkdir "$work/shape"
cat >"$work/shape/config.json" <<'JSON'
{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
 "num_key_value_heads": 2, "vocab_size": 512, "intermediate_size": 128, "rms_norm_eps": 1e-5,
 "rope_theta": 10000.0, "hidden_act": "silu", "max_position_embeddings": 1024}
JSON
run 0 logits --model "$work/shape" --ids 5,6,7 --out "$work/d.safetensors"
says err "random weights"
run 0 logits --model "$work/shape" --ids 5,6,7 --threads 1 --out "$work/e.safetensors"
[ "$(stat -c %s "$work/d.safetensors")" -eq "$(stat -c %s "$work/e.safetensors")" ] || fail "sizes"
experiment fp16 kivi rtn | sed "s|\"$model\"|\"$work/shape\"|" >"$work/shape.toml"
run 0 "$work/shape.toml" --dry-run
says out "random weights"
run 0 "$work/shape.toml" --out "$work/shape-results" --set model.compute=bf16
says out "random weights"  # the report
for record in "$work"/shape-results/shape__*/record.json; do
  grep -q '"compute": "bf16"' "$record" || fail "$record: compute"
  grep -q '"weights": "random"' "$record" || fail "$record: weights"
  grep -q 'random weights (seed 0)' "$record" || fail "$record: no warning"
done
grep -q "random weights" "$work"/shape-results/shape__fp16__*/result.md || fail "result.md"

# The same by wish, for a folder that has weights; other weights and another mode are other cells.
experiment fp16 >"$work/tiny.toml"
run 0 "$work/tiny.toml" --out "$work/tiny-results" --quiet
run 0 "$work/tiny.toml" --out "$work/tiny-results" --set model.random=true
says out "random weights"
run 0 "$work/tiny.toml" --out "$work/tiny-results" --set model.random=true --set model.random_seed=1
run 0 "$work/tiny.toml" --out "$work/tiny-results" --set model.compute=bf16
says err "1 cells computed"
run 0 "$work/tiny.toml" --out "$work/tiny-results" --set model.compute=bf16
says err "1 kept from before"
run 2 "$work/tiny.toml" --out "$work/tiny-results" --set model.compute=bf61
says err "did you mean"
finish
