#!/usr/bin/env bash
# Inputs that failed once and are kept outside the repository: ../shared/cases/NAME/run.sh, each of
# which ends with status 0 where the result is right. Two at a time.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
cases=${PTQ_SHARED:-../shared}/cases
if [ ! -d "$cases" ]; then
  echo "there is no ../shared/cases"
  exit 77
fi
export PTQ_HOST=$PTQ_BUILD/bin/ptq-host PTQ_REPORT=$PTQ_BUILD/bin/ptq-report
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export work
one() {
  name=$(basename "$(dirname "$1")")
  timeout 120 sh "$1" >"$work/$name" 2>&1 || echo "$name: $(tail -n 1 "$work/$name")" >>"$work/wrong"
}
export -f one
printf '%s\0' "$(realpath "$cases")"/[!_]*/run.sh | xargs -0 -n 1 -P 2 bash -c 'one "$0"'
if [ -e "$work/wrong" ]; then
  cat "$work/wrong"
  exit 1
fi
