#!/usr/bin/env bash
# A second run does only what is missing; an interrupted run keeps what it has.
# shellcheck source=test/cli/common.bash
. test/cli/common.bash

experiment fp16 kivi >"$work/e.toml"
run 0 "$work/e.toml" --out "$work/results" --dry-run
says out "2 cells: 2 to do"
[ -e "$work/results" ] && fail "--dry-run left something behind"
run 0 "$work/e.toml" --out "$work/results"
says err "2 cells computed, 0 kept"
says out "kivi"
run 0 "$work/e.toml" --out "$work/results"
says err "0 cells computed, 2 kept"

# Another setting is another result; the first one is still known.
run 0 "$work/e.toml" --out "$work/results" --set evaluations.perplexity.window=128
says err "2 cells computed, 0 kept"
run 0 "$work/e.toml" --out "$work/results"
says err "0 cells computed, 2 kept"
run 0 "$work/e.toml" --out "$work/results" --only kivi --fresh
says err "1 cells computed, 0 kept"

# What a killed process left is swept, a damaged record is computed again.
mkdir "$work/results/.tmp-999999-$(hostname)-0123456789abcdef"
for record in "$work"/results/*__kivi__*/record.json; do echo '{' >"$record"; done
run 0 "$work/e.toml" --out "$work/results"
says err "1 cells computed, 1 kept"
[ -z "$(find "$work/results" -name '.tmp-*')" ] || fail "a leftover was not swept"

# Ctrl-C while a cell runs. The cell is the long one of the second method.
experiment fp16 kivi | sed 's/^window.*/window = 2048/; s/^max_windows.*/max_windows = 0/' \
  >"$work/long.toml"
"$host" "$work/long.toml" --out "$work/long" >/dev/null 2>"$work/err" &
pid=$!
for _ in $(seq 100); do
  compgen -G "$work/long/.tmp-*/job.json" >/dev/null && break
  sleep 0.05
done
child=$(pgrep -P "$pid" | head -n 1)
kill -INT "$pid"
code=0
wait "$pid" || code=$?
[ "$code" -eq 75 ] || fail "exit code $code instead of 75 after an interruption"
says err "the same command continues"
[ -n "$child" ] && kill -0 "$child" 2>/dev/null && fail "the cell's process still lives"
[ -z "$(find "$work/long" -name '.tmp-*')" ] || fail "the interrupted attempt was left behind"
finish
