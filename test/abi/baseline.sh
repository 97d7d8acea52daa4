#!/usr/bin/env bash
# make abi: the layout of plugin.h as a compiler describes it, against test/abi/baseline.abi. Exit
# code 0 = the same, 1 = a difference, which is printed, 77 = no libabigail.
#
#   test/abi/baseline.sh            compare
#   test/abi/baseline.sh --update   write the baseline anew, once the change is in docs/abi.md
set -euo pipefail
cd "$(dirname "$0")/../.."
for tool in abidw abidiff cc; do
  command -v $tool >/dev/null || { echo "abi: skipped, $tool is not installed (Debian: abigail-tools)"; exit 77; }
done
header=${PTQ_PLUGIN_H:-include/ptq/plugin.h} # another one in the test of this script
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/ptq"
cp "$header" "$work/ptq/plugin.h"

# libabigail sees the types that an exported symbol reaches: one function that mentions each struct.
structs=$(echo '#include "ptq/plugin.h"' | cc -E -P -I "$work" -x c - | awk -f test/abi/fields.awk |
  cut -d' ' -f1 | sort -u)
{
  echo '#include "ptq/plugin.h"'
  echo "PTQ_EXPORT void ptq_abi_probe($(echo "$structs" | sed 's/.*/const & */' | paste -sd, ));"
  echo "void ptq_abi_probe($(echo "$structs" | sed 's/.*/const & *the_&/' | paste -sd, )) {"
  echo "$structs" | sed 's/.*/  (void)the_&;/'
  echo "}"
} >"$work/probe.c"
(cd "$work" && cc -std=c11 -g -O0 -shared -fPIC -fdebug-prefix-map="$work=." -I . probe.c -o probe.so)
describe() { (cd "$work" && abidw --no-corpus-path --no-comp-dir-path --no-show-locs probe.so); }

if [ "${1:-}" = --update ]; then
  describe >test/abi/baseline.abi
  echo "abi: test/abi/baseline.abi describes $(echo "$structs" | wc -l) structs of $header"
  exit 0
fi
describe >"$work/now.abi"
code=0
abidiff test/abi/baseline.abi "$work/now.abi" >"$work/report" 2>&1 || code=$?
if [ "$code" -eq 0 ]; then
  echo "abi: $(echo "$structs" | wc -l) structs of plugin.h as in test/abi/baseline.abi"
  exit 0
fi
cat "$work/report"
cat <<TEXT

abi: $header has another layout than test/abi/baseline.abi (abidiff: $code). Compiled plugins were
built with the old one: fields may only be added, at the end of a struct that begins with struct_size.
If that is what was done: raise PTQ_ABI_MINOR, add a line to the table "Versions of the header" of
docs/abi.md, to test/abi/offsets.cpp and to CHANGELOG.md, and run test/abi/baseline.sh --update.
TEXT
exit 1
