#!/usr/bin/env bash
# Runs every fuzz target for a number of seconds: test/fuzz/run.sh BUILD_FOLDER SECONDS [TARGET...]
# New inputs that reach new code stay in BUILD_FOLDER/corpus and are the start of the next run; the
# saved inputs of test/corpus are read, never changed. FUZZ_RUNS=N ends each target after N executions
# at the latest, FUZZ_LENGTH=N keeps inputs that short. Exit 1 if any target has a finding.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=$1 seconds=$2
shift 2
targets=${*:-config safetensors gguf index tokenizer toml bundle tokens record store csv task packed encoding}

mkdir -p "$build/corpus" "$build/findings"
total=0 failed=
[ -d /dev/shm ] && export TMPDIR=/dev/shm # for readers that take files
for target in $targets; do
  log=$build/fuzz_$target.log
  dictionary=test/fuzz/json.dict
  case $target in toml | task) dictionary=test/fuzz/toml.dict ;; esac
  [ "$target" = gguf ] && dictionary=test/fuzz/gguf.dict
  # What was a finding once starts the search too.
  regress=$build/corpus/$target.regress
  rm -rf "$regress"
  mkdir -p "$build/corpus/$target" "$regress"
  find test/corpus/regress -name "$target-*" -exec cp {} "$regress" \;
  status=0
  "$build/bin/fuzz_$target" -max_total_time="$seconds" -runs="${FUZZ_RUNS:--1}" -timeout=10 -rss_limit_mb=2048 -max_len="${FUZZ_LENGTH:-8192}" \
    -print_final_stats=1 -dict="$dictionary" -artifact_prefix="$build/findings/$target-" \
    "$build/corpus/$target" "test/corpus/$target" "$regress" >"$log" 2>&1 || status=$?
  count=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1)
  total=$((total + ${count:-0}))
  if [ "$status" = 0 ]; then
    printf 'fuzz %-12s %10s executions, no finding\n' "$target" "${count:-0}"
  else
    failed="$failed $target"
    printf 'fuzz %-12s %10s executions, FINDING (exit %s), log %s\n' \
      "$target" "${count:-0}" "$status" "$log"
    grep -aE 'ERROR|runtime error|what\(\)|SUMMARY|Test unit written' "$log" | sed 's/^/    /' || true
  fi
done
printf 'fuzz %-12s %10s executions\n' total "$total"
[ -z "$failed" ]
