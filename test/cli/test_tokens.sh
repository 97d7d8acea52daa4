#!/usr/bin/env bash
# The scores of the tokens: written with the record, held against it, measured for the noise floor.
# shellcheck source=test/cli/common.bash
. test/cli/common.bash
report=$PTQ_BUILD/bin/ptq-report
[ -x "$report" ] || { echo "ptq-report is not built"; exit 77; }

# verify CODE: ptq-report verify of the results.
verify() {
  local code=0
  "$report" verify "$work/r" >"$work/out" 2>"$work/err" || code=$?
  [ "$code" -eq "$1" ] || fail "exit code $code instead of $1: ptq-report verify"
}

{ echo 'noise_floor = true'; experiment fp16 kivi; } >"$work/e.toml"
run 0 "$work/e.toml" --out "$work/r" --quiet
for name in fp16 kivi; do
  cell=$(echo "$work"/r/*"__${name}__"*)
  [ "$(stat -c %s "$cell/tokens.bin")" -eq $((32 + 12 + 24 * 255)) ] || fail "tokens.bin of $name has another size"
  grep -q "\"tokens_sha256\": \"$(sha256sum "$cell/tokens.bin" | cut -d' ' -f1)\"" "$cell/record.json" ||
    fail "the record of $name has not the hash of its tokens"
  grep -q '"nonfinite_tokens": 0' "$cell/record.json" || fail "void tokens of $name are not counted"
done
grep -q '"noise_floor"' "$work"/r/*__kivi__*/record.json && fail "a method has a noise floor"
floor=$(grep -A 4 '"noise_floor"' "$work"/r/*__fp16__*/record.json | sed -n 's/.*"kl_mean": \([^,]*\),*/\1/p')
awk -v x="$floor" 'BEGIN { exit !(x > 1e-8 && x < 0.01) }' || fail "the noise floor is $floor"
verify 0

# Without the floor it is another cell, with the same figures.
run 0 "$work/e.toml" --out "$work/r" --set noise_floor=false
says err "1 cells computed, 1 kept"

# Whoever changes, cuts or takes away the scores is found out.
cell=$(echo "$work"/r/*__kivi__*)
cp "$cell/tokens.bin" "$work/tokens.bin"
printf '\x7f' | dd of="$cell/tokens.bin" bs=1 seek=60 conv=notrunc status=none
verify 6
says out "is not the file whose hash stands in the record"
head -c 1000 "$work/tokens.bin" >"$cell/tokens.bin"
verify 6
says out "cannot be read"
rm "$cell/tokens.bin"
verify 6
says out "is missing"
cp "$work/tokens.bin" "$cell/tokens.bin"
verify 0
finish
