#!/usr/bin/env bash
# The reference is computed once for all methods, and no number differs from computing it each time.
# shellcheck source=test/cli/common.bash
. test/cli/common.bash
command -v python3 >/dev/null || { echo "no python3"; exit 77; }

{
  experiment fp16 kivi rtn q4_0 forge streaming_llm | sed 's/^hang_seconds.*/hang_seconds = 60/'
  cat <<TOML
[[evaluations]]
kind = "passkey"
keys = 1
depths = [0.5]
context_length = 512
max_new_tokens = 3
regime = "prefill-exact"
[[evaluations]]
kind = "retrieval"
tasks = ["single"]
haystacks = ["prose"]
lengths = [512]
depths = [0.5]
samples = 1
regime = "prefill-exact"
question = "context_only"
[[evaluations]]
kind = "generation"
texts = "$PWD/datasets/embedded/books.jsonl"
samples = 1
prompt_tokens = 128
continuation_tokens = 32
regime = "prefill-exact"
TOML
} >"$work/e.toml"
run 0 "$work/e.toml" --out "$work/kept" --jobs 2 --threads 1
run 0 "$work/e.toml" --out "$work/each" --threads 1 --set limits.kept_mib=0
python3 bench/same_records.py "$work/each" "$work/kept" || fail "the numbers differ"
kept=$(grep -l '"reference": "kept"' "$work"/kept/*/record.json | wc -l)
[ "$kept" -eq 20 ] || fail "$kept records with a kept reference instead of 20"
prompts=$(grep -l '"prompts": "kept"' "$work"/kept/*/record.json | wc -l)
[ "$prompts" -eq 8 ] || fail "$prompts records with kept prompts instead of 8: passkey and retrieval of 4 cache methods"
grep -q '"prompts"' "$work"/kept/*__fp16__*/record.json "$work"/kept/*__rtn__*/record.json &&
  fail "prompts of full precision, or of changed weights, were not run"
grep -q '"reference": "kept"' "$work"/each/*/record.json && fail "kept although kept_mib is 0"

# Prompts that fit in part: the others are run by each cell. Where no method changes the cache alone, none are kept.
run 0 "$work/e.toml" --threads 1 --out "$work/some" --only passkey --set evaluations.passkey.keys=2 \
  --set limits.prompts_mib=1.5
run 0 "$work/e.toml" --threads 1 --out "$work/none" --only passkey --set evaluations.passkey.keys=2 \
  --set limits.prompts_mib=0
python3 bench/same_records.py "$work/none" "$work/some" || fail "prompts that are kept in part change numbers"
grep -q '"prompts": "kept"' "$work"/some/*/record.json || fail "no prompt of 1.5 MiB was kept"
grep -q '"prompts"' "$work"/none/*/record.json && fail "kept although prompts_mib is 0"

# Logits that do not fit, and a single method: each cell computes the reference itself.
run 0 "$work/e.toml" --threads 1 --out "$work/small" --only perplexity --set limits.kept_mib=0.5
says err "nothing was kept of the reference"
run 0 "$work/e.toml" --threads 1 --out "$work/alone" --only perplexity --set limits.kept_mib=0
python3 bench/same_records.py "$work/alone" "$work/small" || fail "a small limit changes numbers"
run 0 "$work/e.toml" --out "$work/one" --only 'kivi'
grep -q '"reference": "kept"' "$work"/small/*/record.json "$work"/one/*/record.json &&
  fail "kept where it cannot be or is of no use"
[ -z "$(find "$work" -name '.tmp-*')" ] || fail "something was left behind"
finish
