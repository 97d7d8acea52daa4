#!/usr/bin/env bash
# A task that was interrupted in the middle goes on behind its last questions, with the same scores,
# and all methods share the reference's.
# shellcheck source=test/cli/common.bash
. test/cli/common.bash

cat >"$work/e.toml" <<TOML
models = ["$model"]
$(printf '[[methods]]\nmethod = "%s"\n' fp16 kivi q4_0)
[[evaluations]]
kind = "choices"
task = "arc_challenge"
data = "$PWD/datasets/embedded/tasks/arc_challenge.jsonl"
TOML

value() { grep -h "\"$1\"" "$2"/*__"$3"__*/record.json | tr -d ' ,'; }

# Interrupted as soon as something is there.
"$host" "$work/e.toml" --out "$work/cut" --only fp16 --threads 1 >/dev/null 2>&1 </dev/null &
pid=$!
for _ in $(seq 600); do
  [ -s "$(echo "$work"/cut/unfinished/*.jsonl)" ] && break
  sleep 0.02
done
kill -INT "$pid"
wait "$pid"
code=$?
[ "$code" -eq 75 ] || fail "exit code $code after an interruption"
lines=$(cat "$work"/cut/unfinished/*.jsonl | wc -l)
{ [ "$lines" -gt 0 ] && [ "$lines" -lt 100 ]; } || fail "$lines scores of 100 were kept"

run 0 "$work/e.toml" --out "$work/cut" --threads 1
run 0 "$work/e.toml" --out "$work/whole" --threads 1 --set limits.kept_mib=0
[ -e "$work/cut/unfinished" ] && fail "the unfinished scores were left behind"
for method in fp16 kivi q4_0; do
  for key in scores_sha256 accuracy exposure bytes_per_token tokens_computed; do
    [ "$(value $key "$work/cut" $method)" = "$(value $key "$work/whole" $method)" ] ||
      fail "$key of $method differs: $(value $key "$work/cut" $method)," \
        "$(value $key "$work/whole" $method)"
  done
done
for method in kivi q4_0; do
  grep -q '"reference": "kept"' "$work"/cut/*__"$method"__*/record.json ||
    fail "the reference of $method was computed again"
  [ "$(value flips "$work/cut" $method)" = "$(value flips "$work/whole" $method)" ] ||
    fail "flips of $method differ"
done

# Again, two at a time, each of which removes the folder of the unfinished when it is empty.
run 0 "$work/e.toml" --out "$work/cut" --threads 1 --fresh --jobs 2
[ -e "$work/cut/unfinished" ] && fail "the unfinished scores were left behind by --fresh"
[ "$(value scores_sha256 "$work/cut" kivi)" = "$(value scores_sha256 "$work/whole" kivi)" ] ||
  fail "--fresh gives other scores"
finish
