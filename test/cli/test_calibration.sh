#!/usr/bin/env bash
# A cache method that learns from a calibration text: what the result says about it, when a cell is
# computed again, and what is said when there is nothing to learn from.
# shellcheck source=test/cli/common.bash
. test/cli/common.bash
plugin=$PTQ_BUILD/test-plugins/calibrated.so
[ -f "$plugin" ] || { echo "$plugin is not built"; exit 77; }
mkdir "$work/plugins" && cp "$plugin" "$work/plugins"
plugins=(--plugins "$work/plugins")
head -c 30000 datasets/embedded/calib.txt >"$work/calib.txt"

experiment fp16 calibrated >"$work/plain.toml"
sed 's/^hang_seconds.*/hang_seconds = 30/' "$work/plain.toml" >"$work/e.toml"
cat >>"$work/e.toml" <<TOML
[calibration]
text = "calib.txt"
sequences = 2
length = 256
TOML
run 0 "$work/e.toml" "${plugins[@]}" --out "$work/results"
says err "2 cells computed"
record=$(echo "$work"/results/*__calibrated__*/record.json)
for fact in '"text": "calib.txt"' '"sequences": 2' '"length": 256' '"seed": 0' '"loss": ' \
  '"sample_bytes": 4194304' "\"text_sha256\": \"$(sha256sum <"$work/calib.txt" | cut -c 1-64)\""; do
  grep -qF "$fact" "$record" || fail "the record lacks $fact"
done
grep -qE '"calibrate_seconds": 0\.0,?$' "$record" && fail "calibration took no time"
grep -q '"calibrate_seconds": 0.0' "$work"/results/*__fp16__*/record.json ||
  fail "the full-precision cell was calibrated"
grep -q '"calibration"' "$work"/results/*__fp16__*/record.json &&
  fail "the full-precision cell speaks of calibration"

# Another text, another cell; the full-precision one stays.
run 0 "$work/e.toml" "${plugins[@]}" --out "$work/results"
says err "0 cells computed, 2 kept"
head -c 29000 datasets/embedded/calib.txt >"$work/calib.txt"
run 0 "$work/e.toml" "${plugins[@]}" --out "$work/results"
says err "1 cells computed, 1 kept"

# Less memory than two sequences take: one is used, and the result says so.
run 0 "$work/e.toml" "${plugins[@]}" --out "$work/small" --set calibration.memory_gib=0.003
says "$(realpath --relative-to="$work" "$work"/small/*__calibrated__*)/result.md" \
  "calibrated on 1 of 2 sequences"

# Forward only: no gradients are wanted, no loss is known.
run 0 "$work/e.toml" "${plugins[@]}" --out "$work/forward" --set methods.calibrated.options.wants=1
grep -qF '"loss": null' "$work"/forward/*calibrated*/record.json || fail "a loss without gradients"

# The text that is measured on: said before anything is computed.
run 0 "$work/e.toml" "${plugins[@]}" --out "$work/none" --dry-run
grep -q "learn from the text" "$work/out" && fail "another text is spoken of as that of the evaluation"
run 0 "$work/e.toml" "${plugins[@]}" --out "$work/none" --dry-run \
  --set "calibration.text=\"$PWD/datasets/embedded/test.txt\""
says out "methods that learn from a text are shown the one that perplexity-disjoint is measured on"

# Nothing to learn from.
run 2 "$work/plain.toml" "${plugins[@]}" --out "$work/none"
says err "\`calibrated\` learns from a calibration text, and none is named"
head -c 500 datasets/embedded/calib.txt >"$work/short.txt"
run 2 "$work/e.toml" "${plugins[@]}" --out "$work/none" --set 'calibration.text="short.txt"' \
  --only calibrated
says err "the calibration text is too short"
run 4 "$work/e.toml" "${plugins[@]}" --out "$work/none" --set 'calibration.text="gone.txt"'
says err "the file \`gone.txt\` is nowhere"
finish
