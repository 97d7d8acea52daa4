#!/usr/bin/env bash
# The C ABI with the compiler alone: plugin.h in four dialects and the layout of its structs, the
# plain C example built by cc with no flag of ours, and `ptq-host check` on two faults that
# ptq_add_plugin prevents. Exit code 77 = no compiler.
set -u
cd "$(dirname "$0")/../.."
build="${PTQ_BUILD:-build}"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
passed=0
failed=0

expect() {  # expect NAME COMMAND...: one test, quiet unless it fails
  local name="$1"
  shift
  if "$@" >"$folder/log" 2>&1; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAILED: $name"
    echo "  $*"
    sed 's/^/  /' "$folder/log" | head -20
  fi
}

command -v cc >/dev/null || { echo "abi: no C compiler found"; exit 77; }

strict=(-Wall -Wextra -pedantic -Wpadded -Werror -fsyntax-only -I include)
for compiler in gcc clang; do
  command -v "$compiler" >/dev/null || continue
  for standard in c11 c17; do
    expect "plugin.h as $standard with $compiler" \
      "$compiler" -std=$standard "${strict[@]}" -x c test/abi/offsets.cpp
  done
  for standard in c++17 c++20; do
    expect "plugin.h as $standard with $compiler" \
      "$compiler" -std=$standard "${strict[@]}" -x c++ test/abi/offsets.cpp
  done
done

example="$folder/example_c.so"
expect "the example builds with cc alone" cc -std=c11 -pedantic -Wall -Wextra -Werror -shared -fPIC \
  -I include plugins/example_c/example_c.c -o "$example"

# finds FILE TEST: `ptq-host check` says FAIL at this test and at no other.
finds() {
  "$host" check "$1" >"$folder/report"
  [ $? -eq 3 ] && [ "$(grep -cE '^(FAIL|CRASH|TIMEOUT)' "$folder/report")" = 1 ] &&
    grep -qE "^FAIL +$2 " "$folder/report" || { cat "$folder/report"; return 1; }
}
host="$build/bin/ptq-host"
if [ -x "$host" ]; then
  expect "the example passes the check" "$host" check "$example"
  fault=(cc -std=c11 -shared -fPIC -I include)
  expect "bad_symbol builds" "${fault[@]}" test/abi/bad_symbol.c -o "$folder/bad_symbol.so"
  expect "an unresolved symbol is found" finds "$folder/bad_symbol.so" load-symbols
  expect "bad_two_symbols builds" "${fault[@]}" test/abi/bad_two_symbols.c -o "$folder/two.so"
  expect "a second symbol is found" finds "$folder/two.so" file-one-symbol
else
  echo "abi: $host is not built, the checks of plugins are left out"
fi

echo "abi: $passed ok, $failed wrong"
[ "$failed" -eq 0 ]
