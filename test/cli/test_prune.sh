#!/usr/bin/env bash
# Pruning from end to end: the command and its folder, cells that compose it with weights and cache
# methods, measurements that are made once, and the report's pages of these records.
# shellcheck source=test/cli/common.bash
. test/cli/common.bash
report=$PTQ_BUILD/bin/ptq-report
[ -x "$report" ] || { echo "$report is not built"; exit 77; }
model=models/tiny-llama
calib=datasets/embedded/calib.txt

# --- the command ---------------------------------------------------------------------------------
run 0 prune --model $model --method magnitude --set ratio=0 --out "$work/same"
for folder in $model "$work/same"; do
  run 0 trace --model "$folder" --ids 1,2,3,4,5 --device cpu --out "$work/$(basename "$folder").trace"
done
cmp -s "$work/tiny-llama.trace" "$work/same.trace" || fail "ratio 0 changes what the model computes"
grep -q layer_sizes "$work/same/config.json" &&
  fail "ratio 0 changes the sizes of layers"

run 0 prune --model $model --method taylor --set ratio=0.25 --set seq_len=32 --set num_samples=8 \
  --calibration $calib --json --out "$work/pruned"
cp "$work/out" "$work/plan.json"
python3 - "$work/plan.json" "$work/pruned" <<'PY' || fail "the plan is not what was written"
import json, os, struct, sys
plan, folder = json.load(open(sys.argv[1])), sys.argv[2]
with open(os.path.join(folder, "model.safetensors"), "rb") as f:
    header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
numbers = 0
for name, t in header.items():
    n = 1
    for s in t.get("shape", [0]):
        n *= s
    numbers += n if name != "__metadata__" else 0
assert numbers == plan["parameters_after"], (numbers, plan["parameters_after"])
assert 0.2 < plan["removed"] <= 0.251, plan["removed"]
sizes = json.load(open(os.path.join(folder, "config.json")))["layer_sizes"]
assert [l["channels"] for l in plan["layers"]] == [s["intermediate_size"] for s in sizes]
assert plan["grad_nonfinite"] == 0 and plan["grad_norm_ratio"] > 1
PY
run 0 logits --model "$work/pruned" --ids 1,2,3 --out "$work/l.safetensors"
run 0 quantize --model "$work/pruned" --method rtn --set group_size=0 --set grid=sym_full \
  --format compressed-tensors --out "$work/both"
run 0 logits --model "$work/both" --ids 1,2,3 --out "$work/l.safetensors"

run 2 prune --model $model --method magnitude --out "$work/pruned"
says err "not empty"
run 2 prune --model $model --method rtn --out "$work/none"
says err "does not prune"
run 2 prune --model $model --method taylor --out "$work/none"
says err "learns from a calibration text"
[ ! -e "$work/none" ] || fail "a refusal leaves a folder"

# --- cells ---------------------------------------------------------------------------------------
cat >"$work/x.toml" <<TOML
name = "x"
track = "pruning"
models = ["$PWD/$model"]
methods = [
  { label = "fp16", method = "fp16" },
  { method = "taylor", options = { seq_len = 16, num_samples = 8 } },
  { method = "layerwise", options = { seq_len = 16, num_samples = 8 } },
  { method = "taylor", options = { seq_len = 32, num_samples = 8 } },
  { method = "magnitude" },
  { label = "all", parts = [
    { method = "kivi", options = { bits = 4, group_size = 32, residual_length = 32 } },
    { method = "rtn", options = { bits = 4, group_size = 32 } },
    { method = "taylor", options = { seq_len = 16, num_samples = 8 } } ] },
]
[calibration]
text = "$PWD/$calib"
[[evaluations]]
kind = "perplexity"
name = "ppl"
text = "$PWD/datasets/embedded/test.txt"
protocol = "disjoint"
window = 128
max_windows = 2
regime = "streaming"
TOML
for task in boolq piqa hellaswag winogrande arc_easy arc_challenge openbookqa; do
  [ $task = boolq ] && form=boolq_words || form=$task
  printf '[[evaluations]]\nkind = "choices"\nname = "%s"\ntask = "%s"\nrows = "0:6"\ndata = "%s"\n' $task $form \
    "$PWD/datasets/embedded/tasks/$task.jsonl" >>"$work/x.toml"
  [ $task = piqa ] && printf 'labels = "%s"\n' "$PWD/datasets/embedded/tasks/piqa-labels.lst" >>"$work/x.toml"
done
run 0 "$work/x.toml" --out "$work/r" --device cpu
kept=$(ls "$work"/r/.measured/*.json | wc -l)
# Gradients of two lengths, losses without layers of one.
[ "$kept" = 3 ] || fail "$kept measurements were kept, not 3"
[ -z "$(find "$work/r" -name 'pruned-*')" ] || fail "pruned models stay behind"
python3 - "$work/r" <<'PY' || fail "a record is not what it should be"
import glob, json, sys
records = [json.load(open(f)) for f in glob.glob(sys.argv[1] + "/*/record.json")]
assert len(records) == 6 * 8, len(records)
for r in records:
    m, label = r["metrics"], r["method"]["label"]
    assert ("pruning" in m) == (label != "fp16"), label
    if label == "fp16":
        continue
    p = m["pruning"]
    assert p["parameters_after"] < p["parameters_before"] == r["model"]["parameters"]
    w = m["weights"]
    assert w["encoded_scalars"] + w["dense_scalars"] == p["parameters_after"]
    assert (w["encoded_scalars"] > 0) == (label == "all")
    assert ("grad_norm_ratio" in p) == (label != "magnitude")
by = {(r["method"]["label"], r["evaluation"]["name"]): r["metrics"] for r in records}
taylor, all_ = by["taylor seq_len=16 num_samples=8", "ppl"], by["all", "ppl"]
assert taylor["pruning"]["layers"] == all_["pruning"]["layers"]
assert all_["cache"]["bytes_encoded"] > 0 and all_["cache"]["bytes_per_token"] < taylor["cache"]["bytes_per_token"]
whole = by["fp16", "ppl"]
heads = sum(l["key_value_heads"] for l in taylor["pruning"]["layers"])
before = sum(l["key_value_heads_before"] for l in taylor["pruning"]["layers"])
assert taylor["cache"]["bytes_per_token"] * before == whole["cache"]["bytes_per_token"] * heads
assert taylor["kl_mean"] > 0 and taylor["ppl"] > whole["ppl"]
PY

# --- the report ----------------------------------------------------------------------------------
"$report" pruning "$work/r" --compat --language en >"$work/page" 2>&1 || fail "report pruning: $(cat "$work/page")"
for section in "TINY-LLAMA model analysis" "MAGNITUDE" "LAYERWISE" "grad_mean_ratio" "extreme_pruning_layers"; do
  grep -q "$section" "$work/page" || fail "the page has no $section"
done
"$report" verify "$work/r" >"$work/log" 2>&1 || fail "verify: $(grep -v holds "$work/log" | head)"
"$report" "$work/r" >"$work/log" 2>&1 || fail "the report: $(tail -5 "$work/log")"
finish
