#!/usr/bin/env bash
# The C ABI with the compiler alone: plugin.h in four dialects and the layout of its structs; the
# released headers (frozen/) against today's, field by field, and plugins that were built with them in
# today's host; the plain C example built by cc with no flag of ours, and `ptq-host check` on two
# faults that ptq_add_plugin prevents. Exit code 77 = no compiler.
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
printf '#include "ptq/plugin.h"\n#include "ptq/plugin.h"\n' >"$folder/alone.h" # before all others
for compiler in gcc clang; do
  command -v "$compiler" >/dev/null || continue
  for language in "c11 c" "c17 c" "c++17 c++" "c++20 c++"; do
    expect "plugin.h alone as ${language% *} with $compiler" \
      "$compiler" "-std=${language% *}" "${strict[@]}" -include "$folder/alone.h" -x "${language#* }" \
      test/abi/nothing.c
  done
  for standard in c11 c17; do
    expect "plugin.h as $standard with $compiler" \
      "$compiler" -std=$standard "${strict[@]}" -x c test/abi/offsets.cpp
  done
  for standard in c++17 c++20; do
    expect "plugin.h as $standard with $compiler" \
      "$compiler" -std=$standard "${strict[@]}" -x c++ test/abi/offsets.cpp
  done
done

# fields FOLDER: "struct field" of all fields of FOLDER/plugin.h, sorted.
fields() { echo '#include "plugin.h"' | cc -E -P -I "$1" -x c - | awk -f test/abi/fields.awk | sort; }
# constants FOLDER: its macros that stand for numbers and texts, sorted.
constants() {
  echo '#include "plugin.h"' | cc -E -dM -I "$1" -x c - | grep '^#define PTQ_' |
    grep -vE '^#define PTQ_(ABI_MINOR|EXPORT|HAS|PLUGIN_H)\>' | sort
}
none() { # none LINES: fails with them when there are any
  [ -z "$1" ] || { echo "$1"; return 1; }
}

fields include/ptq >"$folder/fields"
sed -n 's/^FIELD(\([a-z_]*\), \([a-z_]*\),.*/\1 \2/p' test/abi/offsets.cpp | sort >"$folder/pinned"
expect "the fields of plugin.h are found" [ "$(wc -l <"$folder/fields")" -ge 203 ]
expect "offsets.cpp pins every field of plugin.h" none "$(comm -23 "$folder/fields" "$folder/pinned")"
expect "offsets.cpp pins every struct" none "$(comm -23 <(cut -d' ' -f1 "$folder/fields" | sort -u) \
  <(sed -n 's/^STRUCT(\([a-z_]*\),.*/\1/p' test/abi/offsets.cpp | sort))"

# Both headers in one file, the old one under other names: each field lies where it lay.
same_places() { # same_places FOLDER
  {
    echo '#include <assert.h>'
    sed 's/ptq_/old_/g; s/PTQ_/OLD_/g' "$1/plugin.h"
    echo '#include "ptq/plugin.h"'
    fields "$1" | while read -r struct field; do
      echo "static_assert(offsetof(old_${struct#ptq_}, $field) == offsetof($struct, $field) &&"
      echo "sizeof(((old_${struct#ptq_}*)0)->$field) == sizeof((($struct*)0)->$field), \"$struct $field\");"
    done
  } >"$folder/both.c"
  cc -std=c11 -fsyntax-only -I include "$folder/both.c"
}
for frozen in test/abi/frozen/*/; do
  version=$(basename "$frozen")
  expect "$version has fields" [ "$(fields "$frozen" | wc -l)" -gt 90 ]
  expect "each field of $version lies where it lay" same_places "$frozen"
  expect "the constants of $version are what they were" \
    none "$(comm -23 <(constants "$frozen") <(constants include/ptq))"
done
# Could the comparison fail?
mkdir "$folder/moved"
sed 's/^#define PTQ_GRID_MIN 1$/#define PTQ_GRID_MIN 2/; s/^  int64_t group_size;$/  int32_t group_size, more;/' \
  include/ptq/plugin.h >"$folder/moved/plugin.h"
fails() { ! "$@"; }
expect "a field of another size is found" fails same_places "$folder/moved"
expect "another constant is found" fails none "$(comm -23 <(constants "$folder/moved") <(constants include/ptq))"

code=0
bash test/abi/baseline.sh >"$folder/baseline" 2>&1 || code=$?
if [ "$code" -eq 77 ]; then
  cat "$folder/baseline"
else
  expect "the layout is that of baseline.abi" none "$([ "$code" -eq 0 ] || cat "$folder/baseline")"
  expect "baseline.sh finds another layout" \
    fails env PTQ_PLUGIN_H="$folder/moved/plugin.h" bash test/abi/baseline.sh
fi

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
  # Plugins of every released header: the check of today takes them, and their numbers are those of
  # plugins that were built today.
  frozen_plugins() { # frozen_plugins FOLDER OUT
    rm -rf "$2" && mkdir -p "$2/ptq" "$2/plugins" && cp "$1/plugin.h" "$2/ptq/" &&
      cc -std=c11 -pedantic -Wall -Wextra -Werror -O2 -shared -fPIC -fvisibility=hidden -I "$2" \
        plugins/example_c/example_c.c -o "$2/plugins/example_c.so" &&
      cc -std=c11 -pedantic -Wall -Wextra -Werror -O2 -shared -fPIC -fvisibility=hidden -I "$2" \
        test/abi/weights.c -o "$2/plugins/weights.so"
  }
  # In a folder without other plugins; prints "method nll" of each cell.
  numbers() { # numbers OUT
    mkdir -p "$1/bin" && cp "$host" "$1/bin/" && rm -rf "$1/results" &&
      "$1/bin/ptq-host" "$folder/tiny.toml" --plugins "$1/plugins" --out "$1/results" --quiet \
        >"$1/log" 2>&1 || { cat "$1/log" >&2; return 1; }
    grep -h -o '"nll": [-0-9.e]*' "$1"/results/*/record.json
  }
  cat >"$folder/tiny.toml" <<TOML
models = ["$PWD/models/tiny-qwen2"]
[[methods]]
method = "example_int8"
options = { window = 4 }
[[methods]]
method = "frozen_weights"
[[evaluations]]
kind = "perplexity"
text = "$PWD/datasets/embedded/test.txt"
window = 64
max_windows = 1
TOML
  expect "today's plugins build" frozen_plugins include/ptq "$folder/today"
  expect "today's plugins run" numbers "$folder/today"
  today=$(numbers "$folder/today" 2>&1)
  expect "two cells have numbers" [ "$(echo "$today" | wc -l)" -eq 2 ]
  for frozen in test/abi/frozen/*/; do
    version=$(basename "$frozen") old="$folder/$(basename "$frozen")"
    expect "plugins of $version build" frozen_plugins "$frozen" "$old"
    for plugin in example_c weights; do
      expect "$plugin of $version passes the check" "$host" check "$old/plugins/$plugin.so"
    done
    expect "plugins of $version give today's numbers" [ "$(numbers "$old" 2>&1)" = "$today" ]
  done
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
