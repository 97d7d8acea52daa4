#!/usr/bin/env bash
# Runs every test: the unit tests of ptq-tests, then each test/*/test_*.sh as one test (exit 0 passed,
# 77 skipped, anything else failed). Scripts run in the root of the repository with PTQ_BUILD set.
# Closes with one line "N passed, N failed" (and ", N skipped" if any were) and fails if any failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
PTQ_BUILD=${PTQ_BUILD:-build}
case $PTQ_BUILD in /*) ;; *) PTQ_BUILD=$PWD/$PTQ_BUILD ;; esac
export PTQ_BUILD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

passed=0 failed=0 skipped=0

# The unit tests count their own cases. The prefix keeps the total the only line of its form.
"$PTQ_BUILD/bin/ptq-tests" "$@" </dev/null 2>&1 | tee "$work/unit" |
  sed -u 's/^\([0-9]* passed, [0-9]* failed\)$/unit tests: \1/'
status=${PIPESTATUS[0]}
counts=$(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$work/unit" | tail -n 1)
if [ -n "$counts" ]; then
  read -r passed failed <<<"$counts"
fi
if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then
  echo "unit tests: ended with status $status before they could report" >&2
  failed=1
fi

for script in test/*/test_*.sh; do
  bash "$script" </dev/null >"$work/log" 2>&1
  status=$?
  case $status in
    0) passed=$((passed + 1)) && echo "passed   $script" ;;
    77) skipped=$((skipped + 1)) && echo "skipped  $script: $(tail -n 1 "$work/log")" ;;
    *)
      failed=$((failed + 1))
      echo "FAILED   $script (exit $status)"
      sed 's/^/    /' "$work/log"
      ;;
  esac
done

echo
if [ "$skipped" -gt 0 ]; then
  echo "$passed passed, $failed failed, $skipped skipped"
else
  echo "$passed passed, $failed failed"
fi
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
