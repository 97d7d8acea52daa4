#!/usr/bin/env bash
# Which folder may include which. Reads the #include "..." lines of the tree and ends with the lines
# that break the table below, and with every circle of includes.
#
# A line of the table: a folder (or one file), and the folders whose files it may include beside its
# own; a name may have several lines. A folder does not stand for the folders inside it; a file obeys
# the longest name that fits. Folders of include/ptq go by their names there, `interface` is
# include/ptq/plugin*. Tests may include everything, and nothing but tests includes them.
set -uo pipefail

floors() {
  cat <<'TABLE'
core                  :
encoding              : core
# Files hold encoded tensors.
model                 : core encoding
data                  : core model
results               : core
# Descriptions of tasks and the rows of their data.
tasks                 : core model
stats                 : core

# The engine: its root is the interface, all that others see of it.
engine                : core encoding model
# What a device must offer: for the passes, not for those above.
engine/device.hpp     : core model engine/weights
engine/weights        : core encoding model engine
engine/pass           : core encoding model engine engine/weights
engine/cpu            : core encoding model engine engine/weights engine/pass engine/cpu/kernels
engine/cpu/kernels    : core encoding model engine/cpu
engine/cuda           : core encoding model engine engine/weights engine/pass engine/cuda/kernels
engine/cuda/kernels   : core encoding engine engine/cuda
engine/cuda/bench     : core encoding engine engine/cuda engine/cuda/kernels

eval                  : core model data engine stats tasks
calibrate             : core model data engine engine/weights
prune                 : core model engine engine/weights
run                   : interface core encoding model data engine stats eval calibrate prune results
# Tries a method by the rules of the cache before anything runs.
run/trial.hpp         : core encoding model engine engine/pass

# The programs. The check's host shares no code with the one that it is an oracle of.
host                  : core model data engine eval results run host/commands
host/main.cpp         : interface core engine engine/cpu run host/commands
host/engine_cpu.cpp   : core engine engine/cpu engine/pass
host/engine_cuda      : core engine engine/cuda engine/cuda/kernels engine/cuda/bench
host/commands         : core encoding model data engine eval results run host
# Writes weights in the forms of others.
host/commands/quantize.cpp : core model engine engine/weights run host
host/check            : interface core run host host/commands
bench                 : core encoding model engine engine/cpu engine/cuda engine/cuda/bench eval run host
bench                 : calibrate engine/cpu/kernels

# The report reads records, from files; it sees no engine.
analysis              : core results analysis/read analysis/write analysis/board analysis/compare
analysis              : analysis/figures analysis/page analysis/study analysis/pruning
analysis              : analysis/decide analysis/export
analysis/read         : core results
analysis/write        : core
analysis/board        : core analysis/read analysis/write
analysis/compare      : core stats results analysis/read analysis/write analysis/board
analysis/decide       : core stats analysis/read analysis/write analysis/board analysis/compare
analysis/figures      : core analysis/read analysis/write analysis/board analysis/compare
analysis/figures      : analysis/decide
analysis/pruning      : core results analysis/read analysis/write analysis/compare
analysis/pruning      : analysis/figures
analysis/page         : core stats analysis/read analysis/write analysis/board analysis/compare
analysis/page         : analysis/figures analysis/pruning analysis/decide
analysis/export       : core analysis/read analysis/write analysis/board analysis/compare
analysis/export       : analysis/decide analysis/page tasks
# The files of an earlier study, and its pages as it printed them.
analysis/study        : core results analysis/read analysis/write

# Methods see the interface and nothing else; those that choose their own codes share the host's
# arithmetic, which is written once.
plugin.h              :
plugin.hpp            : interface
plugin_math.hpp       : interface
plugin_prune.hpp      : interface
plugin_weights.hpp    : interface encoding
plugins               : interface core encoding
plugins/example_c     : interface
test/plugins          : interface
TABLE
}

# The files of tree $1 against the table; prints what is wrong.
look() {
  (cd "$1" && find include host analysis bench plugins test -type f \
    \( -name '*.h' -o -name '*.hpp' -o -name '*.c' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) \
    -exec grep -HnE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' {} + 2>/dev/null) | sort |
    awk -v table="$(floors)" '
    function folder(path) { sub(/\/[^\/]*$/, "", path); return path }
    # As the table calls a file or folder.
    function name(path) {
      if (path == "include/ptq") return "interface"
      sub(/^include\/ptq\//, "", path)
      return path
    }
    BEGIN {
      n = split(table, line, "\n")
      for (i = 1; i <= n; ++i) {
        if (line[i] ~ /^(#|$)/) continue
        split(line[i], part, " *: *")
        known[part[1]] = 1
        may[part[1]] = may[part[1]] " " part[2] " "
      }
    }
    # The line of the table for a file: its own, or that of its folder or of one around it.
    function rule_of(path) {
      for (; path != ""; path = path ~ /\// ? folder(path) : "") if (name(path) in known) return name(path)
      return ""
    }
    {
      split($0, at, ":")
      split($0, quoted, "\"")
      from = at[1]
      to = quoted[2]
      # Files that lie side by side may name each other without a folder.
      if (to !~ /^(ptq|host|analysis|bench|test)\//) to = folder(from) "/" to
      real = to ~ /^ptq\// ? "include/" to : to
      edges[from] = edges[from] " " real
      rule = rule_of(from)
      if (rule == "") {
        if (from !~ /^test\//) print from ": no line of the table in test/cli/test_floors.sh fits"
        next
      }
      if (folder(real) != folder(from) && index(may[rule], " " name(folder(real)) " ") == 0)
        print from ":" at[2] ": includes \"" to "\"; the table lets " rule " include:" may[rule]
    }
    function visit(file, path,    i, n, next_file) {
      if (state[file] == 2) return
      if (state[file] == 1) { print "a circle of includes:" path " " file; return }
      state[file] = 1
      n = split(edges[file], next_file, " ")
      for (i = 1; i <= n; ++i) visit(next_file[i], path " " file)
      state[file] = 2
    }
    END { for (file in edges) visit(file, "") }'
}

# A tree with one wrong line and one circle: a look that finds nothing would be worth nothing.
wrong=$(mktemp -d)
trap 'rm -rf "$wrong"' EXIT
mkdir -p "$wrong/include/ptq/core" "$wrong/include/ptq/run"
echo '#include "ptq/run/b.hpp"' >"$wrong/include/ptq/core/a.hpp"
echo '#include "ptq/core/a.hpp"' >"$wrong/include/ptq/run/b.hpp"
found=$(look "$wrong")
[[ $found == *'core/a.hpp:1: includes "ptq/run/b.hpp"'* && $found == *"a circle of includes:"* ]] || {
  echo "the test itself does not find what is wrong:"
  echo "$found"
  exit 1
}

found=$(look .)
[ -z "$found" ] && echo "all well" && exit 0
echo "$found"
exit 1
