#!/usr/bin/env bash
# Several processes on one folder: parts, claims, time limits, and one result computed again.
# shellcheck source=test/cli/common.bash
. test/cli/common.bash

experiment fp16 kivi q4_0 q8_0 rtn >"$work/e.toml"

# Parts of a grid are the grid; the report is made of all of them.
for part in 1 2 3; do
  run 0 "$work/e.toml" --out "$work/parts" --threads 1 --shard "$part/3"
  says out "all parts together: ptq-report"
done
[ "$(ls -d "$work"/parts/*__perplexity-* | wc -l)" -eq 5 ] || fail "the parts are not the grid"
run 0 "$work/e.toml" --out "$work/parts" --threads 1
says err "0 cells computed, 5 kept"
run 2 "$work/e.toml" --out "$work/parts" --shard 4/3
says err "there is no part 4 of 3"

# Hosts that start together compute each cell once, and each ends with the whole table.
pids=()
for i in 1 2 3; do
  "$host" "$work/e.toml" --out "$work/shared" --threads 1 >"$work/out$i" 2>"$work/err$i" </dev/null &
  pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || fail "a host of three ended with $?"; done
sum=$(cat "$work"/err[123] | sed -n 's/^\([0-9]*\) cells computed.*/\1/p' | paste -sd+ | bc)
[ "$sum" -eq 5 ] || fail "three hosts computed $sum cells instead of 5"
for i in 1 2 3; do grep -q "q8_0" "$work/out$i" || fail "host $i has not the whole table"; done
[ -e "$work/shared/claims" ] && fail "claims were left behind"

# A cell that a method fails is not tried again by every host; each of them says so, and the next
# start tries again.
mkdir "$work/plugins"
cp "$PTQ_BUILD/test-plugins/bad_fail.so" "$work/plugins"
experiment fp16 kivi bad_fail >"$work/failing.toml"
pids=()
for i in 1 2 3; do
  "$host" "$work/failing.toml" --plugins "$work/plugins" --out "$work/failing" --threads 1 \
    >"$work/out$i" 2>"$work/err$i" </dev/null &
  pids+=($!)
done
for pid in "${pids[@]}"; do
  code=0
  wait "$pid" || code=$?
  [ "$code" -eq 3 ] || fail "a host with a failed cell ended with $code"
done
[ "$(cat "$work"/err[123] | grep -c 'FAILED.*another process')" -eq 2 ] || fail "who tried the failing cell?"
[ "$(grep -l 'the moon is in the wrong phase' "$work"/err[123] | wc -l)" -eq 3 ] || fail "a reason is unsaid"
run 3 "$work/failing.toml" --plugins "$work/plugins" --out "$work/failing" --threads 1
says err "2 kept from before, 1 failed"
grep -q "another process" "$work/err" && fail "an old failure is not tried again"

# A host that is killed leaves its cells to the others.
"$host" "$work/e.toml" --out "$work/killed" --threads 1 --set evaluations.perplexity.max_windows=0 \
  >/dev/null 2>&1 </dev/null &
pid=$!
for _ in $(seq 200); do
  [ -n "$(ls "$work/killed/claims" 2>/dev/null)" ] && break
  sleep 0.02
done
kill -9 "$pid"
wait "$pid" 2>/dev/null
[ -n "$(ls "$work/killed/claims")" ] || fail "no claim of the killed host"
run 0 "$work/e.toml" --out "$work/killed" --threads 1 --set evaluations.perplexity.max_windows=1
run 0 "$work/e.toml" --out "$work/killed" --threads 1 --set evaluations.perplexity.max_windows=0
[ -e "$work/killed/claims" ] && fail "the claim of the killed host was not put away"

# A limit of time, and Slurm's signal before one: exit code 75, the rest later.
run 75 "$work/e.toml" --out "$work/late" --threads 1 --max-seconds 1 \
  --set evaluations.perplexity.max_windows=0 --set evaluations.perplexity.window=64
says err "the same command continues"
"$host" "$work/e.toml" --out "$work/warned" --threads 1 --set evaluations.perplexity.max_windows=0 \
  >/dev/null 2>&1 </dev/null &
pid=$!
sleep 0.5
kill -USR1 "$pid"
wait "$pid"
code=$?
[ "$code" -eq 75 ] || fail "SIGUSR1 ended in $code"

# A result computed again is the same; an edited one is not.
record=$(echo "$work"/shared/*__kivi__*/record.json)
run 0 reproduce "$record" --threads 1
says out "the same: every number"
sed -i 's/"nll": [0-9.]*/"nll": 9.5/' "$record"
run 6 reproduce "$record" --threads 1
says out "differs: nll"
finish
