#!/usr/bin/env bash
# What a plugin does to processes, files and memory costs its own cell: it kills its parent or its
# group, copies itself, closes descriptors, takes all memory. And when the host dies, whatever was
# started below it is gone within seconds.
# shellcheck source=test/hostile/plugins.bash
. test/hostile/plugins.bash

plugin
cells 0 fp16 kivi hostile
clean=$(loss hostile) kivi=$(loss kivi)
[ -n "$clean" ] && [ -n "$kivi" ] || fail "there are no results to compare with"

# costs_its_cell ABOUT: the other cells have their results, with the same numbers.
costs_its_cell() {
  says err "FAILED"
  [ "$(loss kivi)" = "$kivi" ] || fail "$1: another cell is gone or has other numbers"
  [ -z "$(loss hostile)" ] || fail "$1: the cell has a result"
}
for deed in 'kill(getppid(),SIGKILL)' 'kill(getppid(),SIGKILL);pause()' 'kill(0,SIGKILL)' \
  'kill(getpid(),SIGSTOP)' 'kill(getppid(),SIGSTOP)' \
  'prctl(PR_SET_PDEATHSIG,0);setsid();kill(getppid(),SIGKILL);for(;;)pause()'; do
  plugin "-DAT_ENCODE=$deed"
  cells 3 fp16 hostile kivi
  costs_its_cell "$deed"
done

# Closed and replaced descriptors: what is printed would get into the file that is opened next.
for deed in 'for(int i=0;i<64;++i)close(i)' 'for(int i=3;i<64;++i)close(i)' 'close(1)' \
  'dup2(open("/dev/zero",O_RDWR),2)'; do
  plugin "-DAT_ENCODE=if(calls==1){$deed;}"
  cells 3 fp16 hostile kivi
  costs_its_cell "$deed"
  grep -q 'closes or replaces the standard files' "$work"/results/failed/*.json || fail "$deed is not named"
  run 3 check "$plugins/hostile.so" --only 'load-symbols|create-default|kv-policy|kv-calibration|kv-encodes'
done

# A copy that goes on beside the original would write the same files.
plugin '-DAT_ENCODE=if(calls<4)fork()'
cells 0 hostile
[ "$(loss hostile)" = "$clean" ] || fail "a copy of the process changes the numbers"
run 3 check "$plugins/hostile.so" --only 'load-symbols|create-default|kv-policy|kv-calibration|kv-encodes'
says out "process(es) behind"

# Memory: the host's allocation fails, or the plugin's own.
small=(--set limits.address_space_gib=1)
cells 0 hostile "${small[@]}"
[ "$(loss hostile)" = "$clean" ] || fail "a limit of the address space changes the numbers"
for deed in 'while(malloc(1<<20));while(malloc(64))' '*(volatile char*)malloc((size_t)8<<30)=1' \
  'if(!malloc((size_t)8<<30))return call->fail(call,PTQ_NO_MEMORY,"no memory for a table")'; do
  plugin "-DAT_ENCODE=$deed"
  cells 3 fp16 hostile kivi "${small[@]}"
  costs_its_cell "$deed"
  says err "its address space is limited to 1 GiB, limits.address_space_gib"
done
cells 3 fp16 --set limits.address_space_gib=0.1
says err "limits.address_space_gib"

# The host is killed while a plugin's grandchild, in a session of its own, is at work.
asleep='if(calls==1&&fork()==0){setsid();if(fork()==0)execlp("sleep","ptq-box-sleep","300",(char*)0);_exit(0);}for(;;)pause()'
alive() { [ -n "$1" ] && grep -qs '^State:[[:space:]]*[^ZX]' "/proc/$1/status"; }
sleeps() { grep -slz '^ptq-box-sleep' /proc/[0-9]*/cmdline; }
plugin "-DAT_ENCODE=$asleep"
experiment fp16 kivi hostile | sed 's/hang_seconds.*/hang_seconds = 60/' >"$work/e.toml"
rm -rf "$work/results"
"$host" "$work/e.toml" --plugins "$plugins" --out "$work/results" --quiet >"$work/out" 2>"$work/err" &
killed=$!
for ((i = 0; i < 300; ++i)); do
  sleeps >/dev/null && break
  sleep 0.1
done
below=$(tr -d ' ' <"/proc/$killed/task/$killed/children")
alive "$below" && sleeps >/dev/null || fail "the plugin has not started its process"
kill -9 "$killed"
wait "$killed" 2>/dev/null
for ((i = 0; i < 50; ++i)); do
  sleeps >/dev/null || alive "$below" || break
  sleep 0.1
done
if sleeps >/dev/null; then fail "five seconds after the host its plugin's process is still there"; fi
alive "$below" && fail "five seconds after the host the cell is still there"
plugin
run 0 "$work/e.toml" --plugins "$plugins" --out "$work/results" --quiet
[ "$(loss hostile)" = "$clean" ] || fail "the run cannot be finished after the host was killed"
finish
