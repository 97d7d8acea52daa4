#!/usr/bin/env bash
# A method author's path: install the headers, build a plugin outside the tree with find_package(ptq)
# and a C compiler alone, check it, drop it into a folder, and see it listed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
build=${PTQ_BUILD:-$PWD/build}
host=$build/bin/ptq-host
if [ ! -x "$host" ]; then echo "$host is not built"; exit 77; fi
source=$(ls plugins/example_c/*.c 2>/dev/null | head -n 1)
if [ -z "$source" ]; then echo "plugins/example_c has no C file"; exit 77; fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "FAILED: $*" >&2; exit 1; }

cmake --install "$build" --prefix "$work/prefix" --component headers >"$work/install.log"
[ -f "$work/prefix/include/ptq/plugin.h" ] || fail "plugin.h was not installed"

# CXX=false: configuring would end here if anything asked for a C++ compiler.
CXX=false cmake -S test/package -B "$work/build" -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_C_FLAGS="-Wall -Wextra -Wpedantic -Werror" -DCMAKE_PREFIX_PATH="$work/prefix" \
  -DPTQ_EXAMPLE_SOURCE="$PWD/$source"
cmake --build "$work/build"
plugin=$work/build/outside.so
[ -f "$plugin" ] || fail "$plugin was not built"

exported=$(nm -D --defined-only "$plugin" | awk '{print $3}')
[ "$exported" = ptq_plugin_v1 ] || fail "exports more or less than ptq_plugin_v1: $exported"

"$host" check "$plugin" || fail "ptq-host check refused the plugin"

# A copy of the program in a folder of its own, so that the listing can only come from --plugins.
mkdir "$work/plugins" "$work/bin"
cp "$plugin" "$work/plugins/"
cp "$host" "$work/bin/"
listing=$(cd "$work/bin" && env -u PTQ_PLUGINS ./ptq-host methods --plugins "$work/plugins")
echo "$listing"
grep -qE 'outside|example' <<<"$listing" || fail "ptq-host methods does not list outside.so"
