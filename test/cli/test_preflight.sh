#!/usr/bin/env bash
# What can be known before computing is said before computing: exit code 2 with the place in the
# experiment, under --dry-run and in the run, and nothing is written.
# shellcheck source=test/cli/common.bash
. test/cli/common.bash
out=$work/results

# refused FILE TEXT WORD...: both ways end with 2 and the text, and name the file.
refused() {
  local file=$1 text=$2
  shift 2
  run 2 "$file" --out "$out" --dry-run "$@"
  says err "$text"
  run 2 "$file" --out "$out" "$@"
  says err "$text"
  grep -qE -- "--> (--set|.*$(basename "$file"))" "$work/err" || fail "no place in the file"
  [ -e "$out" ] && fail "something was written before the checks were done"
}

experiment fp16 >"$work/e.toml"
e=$work/e.toml
ppl=evaluations.perplexity
sed 's/^window = .*/protocol = "half_overlap"\nwindow = 255/' "$e" >"$work/odd.toml"
refused "$work/odd.toml" "half_overlap needs an even number"
says err "odd.toml:8:1"

: >"$work/empty.txt"
refused "$e" "the text file is empty" --set "$ppl.text=\"$work/empty.txt\""
printf 'caf\xe9 and more\n' >"$work/latin1.txt"
refused "$e" "not valid UTF-8 at byte 3" --set "$ppl.text=\"$work/latin1.txt\""
echo 'A few words.' >"$work/short.txt"
refused "$e" "too short for one window" --set "$ppl.text=\"$work/short.txt\""

# evaluation TEXT: the same experiment with another evaluation.
evaluation() {
  sed '/^\[\[evaluations/,/^max_windows/d' "$e"
  printf '[[evaluations]]\n%s\n' "$1"
}
printf '{"text": "A few words."}\n{"text": "And more."}\n' >"$work/few.jsonl"
printf '{"text": "A few words."}\n{"txet": "And more."}\n' >"$work/key.jsonl"
evaluation 'kind = "generation"
texts = "few.jsonl"
samples = 2
prompt_tokens = 64
continuation_tokens = 8' >"$work/generation.toml"
refused "$work/generation.toml" "the text is too short"
refused "$work/generation.toml" "the file holds 2 texts, 3 are asked for" \
  --set evaluations.generation.samples=3
refused "$work/generation.toml" "key.jsonl:2" --set 'evaluations.generation.texts="key.jsonl"'
evaluation 'kind = "cached-decode"
texts = "few.jsonl"
samples = 1
lengths = [64]' >"$work/cached.toml"
refused "$work/cached.toml" "the text is too short"

# A prompt is longer than asked for at depth 0: what counts is what is fed. Byte by byte (there is no
# tokenizer.json) it has 488 tokens.
mkdir "$work/short"
sed 's/"max_position_embeddings": *[0-9]*/"max_position_embeddings": 460/' "$model/config.json" \
  >"$work/short/config.json"
evaluation 'kind = "passkey"
keys = 2
depths = [0]
context_length = 440' >"$work/passkey.toml"
refused "$work/passkey.toml" "but the context of short ends at 460" --set 'models=["short"]'
refused "$work/passkey.toml" "the needle and the question alone need" \
  --set 'models=["models/configs/Llama-3.1-8B"]' --set evaluations.passkey.context_length=64
run 0 "$work/passkey.toml" --dry-run

evaluation 'kind = "retrieval"
tasks = ["multikey-16"]
lengths = [256]
samples = 1' >"$work/retrieval.toml"
refused "$work/retrieval.toml" "the needles, the question and the answer alone need"
refused "$work/retrieval.toml" "multikey-K (K 2 to 255)" \
  --set 'evaluations.retrieval.tasks=["multikey-256"]'
run 0 "$work/retrieval.toml" --dry-run --set 'evaluations.retrieval.lengths=[1024]'

# Options that a method refuses, or that do not fit one of the models.
experiment fp16 kivi >"$work/m.toml"
refused "$work/m.toml" "residual_length = 33 is not a multiple of group_size = 32" \
  --set methods.kivi.options.residual_length=33
mkdir "$work/m80"
sed 's/"head_dim": *[0-9]*,//; s/{/{"head_dim": 80,/' "$model/config.json" >"$work/m80/config.json"
refused "$work/m.toml" "head_dim must be a power of two" \
  --set "models=[\"$model\",\"$work/m80\"]" --set methods.kivi.options.rotate=true
run 0 "$work/m.toml" --dry-run --set "models=[\"$model\",\"$work/m80\"]"
experiment fp16 streaming_llm >"$work/s.toml"
refused "$work/s.toml" "drops rows" --set "$ppl.regime=prefill-encoded"
experiment fp16 kvquant >"$work/k.toml"
refused "$work/k.toml" "learns from a calibration text, and none is named"

# Two folders of one name.
mkdir -p "$work/a/hf" "$work/b/hf"
cp "$model"/* "$work/a/hf" && cp "$model"/* "$work/b/hf"
refused "$e" 'name = "other"' --set 'models=["a/hf", "b/hf"]'
run 0 "$e" --out "$work/named" --set 'models=[{ model = "a/hf", name = "first" }, "b/hf"]'
says out "first"
[ -n "$(find "$work/named" -maxdepth 1 -name 'first__fp16__*')" ] || fail "no record of that name"
refused "$e" "names no folder" --set 'models=[{ name = "first" }]'
refused "$e" 'did you mean `name`?' --set 'models=[{ model = "a/hf", nmae = "first" }]'

# A text that a C string would cut, and keys deeper than any reader.
refused "$e" "NUL" --set 'models=["a/hf\u0000b"]'
python3 -c "print('['+'.'.join(['a']*20000)+']')" >"$work/deep.toml" 2>/dev/null &&
  refused "$work/deep.toml" "more than 64 parts"
run 2 "$e" --set "$(printf 'a.%.0s' {1..2000})a=1"
says err "64 levels"
finish
