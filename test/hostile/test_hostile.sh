#!/usr/bin/env bash
# Plugins that end, block, replace or change the process that they run in, leave processes behind,
# ignore refusals or say too much: the host goes on, names them, and its numbers stay what they are.
# shellcheck source=test/hostile/plugins.bash
. test/hostile/plugins.bash
logits() {
  run "$1" logits --model "$model" --ids 1,2,3,4,5,6,7,8,9,10,11,12 --method "$2" \
    --plugins "$plugins" --out "$work/logits.safetensors"
}

plugin
cells 0 hostile
clean=$(loss hostile)
[ -n "$clean" ] || fail "the plugin without a fault has no result"

# Loading ends, kills or replaces the process: the others are listed, this one is named.
for at_load in '_exit(0)' 'exit(0)' 'quick_exit(0)' 'abort()' 'execlp("true","true",(char*)0)' \
  'execlp("sleep","sleep","60",(char*)0)'; do
  plugin "-DAT_LOAD=$at_load"
  run 0 methods --plugins "$plugins"
  says out kivi
  says err "hostile.so: "
  grep -qE "hostile.so: (ends|crashes|puts another program)" "$work/err" || fail "$at_load is not named"
done
run 2 methods hostile --plugins "$plugins"
says err "hostile.so: puts another program"
run 3 check "$plugins/hostile.so"

# Only the second time that it is loaded.
plugin "-DAT_LOAD=if(!access(\"$work/loaded\",F_OK))_exit(0);close(open(\"$work/loaded\",O_CREAT,0600))"
cells 3 fp16 hostile
says err "FAILED"
says err "ended with exit code 0 and without a result"
rm -f "$work/loaded"
logits 3 hostile
says err "method \`hostile\` ends the process (exit code 0)"
[ ! -e "$work/logits.safetensors" ] || fail "logits were written"

# In the middle, under logits.
plugin '-DAT_ENCODE=*(volatile int*)8=1'
logits 3 hostile
says err "method \`hostile\` crashes (SIGSEGV)"

# Signals: SIGCHLD ignored from outside, and all of them by the plugin.
timeout 60 env --ignore-signal=CHLD "$host" methods >/dev/null || fail "methods without SIGCHLD"
experiment fp16 >"$work/e.toml"
timeout 60 env --ignore-signal=CHLD "$host" "$work/e.toml" --out "$work/unheard" --quiet \
  >/dev/null || fail "a run without SIGCHLD"
plugin '-DAT_LOAD=for(int i=1;i<32;++i)signal(i,SIG_IGN);sigset_t s;sigfillset(&s);sigprocmask(SIG_BLOCK,&s,NULL)'
cells 0 hostile
[ "$(loss hostile)" = "$clean" ] || fail "other numbers with ignored signals"
run 3 check "$plugins/hostile.so" --only 'load-.*'
says out "load-surroundings"
says out "the handler of SIGCHLD"

# A crash when the process ends costs nothing, and the check names it.
plugin '-DAT_END=*(volatile int*)8=1'
cells 0 hostile
run 3 check "$plugins/hostile.so" --only 'load-.*|file-.*|description-.*|create-.*'
grep -qE '^CRASH +create-exit' "$work/out" || fail "the crash at the end is not named"

# Settings of the process: the numbers stay, the check names the offence.
number=0
for change in 'fesetround(FE_UPWARD)' '__builtin_ia32_ldmxcsr(0x9fc0)' 'setlocale(LC_ALL,"C.UTF-8")' \
  'chdir("/")' 'umask(0777)' 'setenv("PATH","nowhere",1)' 'signal(SIGTERM,SIG_IGN)' \
  'struct rlimit r={4096,4096};setrlimit(RLIMIT_NOFILE,&r)'; do
  [ "$(uname -m)" = x86_64 ] || [ "$number" -ne 1 ] || change='(void)0'
  plugin "-DAT_ENCODE=if(calls<2){$change;}"
  cells 0 hostile
  [ "$(loss hostile)" = "$clean" ] || fail "$change reaches the host"
  run 3 check "$plugins/hostile.so" --only 'load-.*|create-default|kv-policy|kv-calibration|kv-encodes'
  says out "encode changes"
  number=$((number + 1))
done
grep -q 'changes a resource limit of the process' "$work"/results/*/record.json ||
  fail "the record does not say what was put back"

# Nothing that it starts lives on, not even in a session of its own.
left='if(calls==1&&fork()==0){setsid();if(fork()==0)execlp("sleep","ptq-hostile-sleep","50",(char*)0);_exit(0);}'
plugin "-DAT_ENCODE=$left"
cells 0 hostile
logits 0 hostile
run 3 check "$plugins/hostile.so" --only 'load-symbols|create-default|kv-policy|kv-calibration|kv-encodes'
says out "process(es) behind"
plugin "-DAT_LOAD=int calls=1;$left"
run 0 methods --plugins "$plugins"
if grep -slz '^ptq-hostile-sleep' /proc/[0-9]*/cmdline; then fail "a process is left"; fi

# A refused answer fails the cell whatever the plugin makes of it; a second try may be better.
plugin '-DINSTEAD=rounded(call,x,calls%2?8:5,out);return PTQ_OK'
cells 3 fp16 hostile
grep -q 'bits = 5' "$work"/results/failed/*.json || fail "the refusal is not named"
run 3 check "$plugins/hostile.so"
says out "although its answer was refused"
plugin '-DINSTEAD=if(rounded(call,x,5,out)==PTQ_OK)return PTQ_INTERNAL;return rounded(call,x,8,out)'
cells 0 hostile
run 0 check "$plugins/hostile.so"
weights 'if(linear->layer!=1)return rounded(call,w,8,out);rounded(call,w,9,out);return PTQ_OK'
cells 3 hostile_weights
grep -q 'bits = 9' "$work"/results/failed/*.json || fail "the refusal of a weight is not named"
weights 'rounded(call,w,9,out);return rounded(call,w,8,out)'
cells 0 hostile_weights
# What a weight cannot be stored as, the check refuses like the host.
weights 'return codebook(call,w,out)'
cells 3 hostile_weights
run 3 check "$plugins/weights.so"
says out "weights take affine"
rm "$plugins/weights.so"

# A long call that shows progress is alive (hang_seconds is 2); one that is asked to stop is told.
long='const ptq_progress_service*p=call->service(call,PTQ_PROGRESS_1);struct timespec t={0,100000000};'
plugin "-DAT_ENCODE=if(calls==1){${long}for(int i=0;i<35;++i){p->report(call,i/35.0);nanosleep(&t,NULL);}}"
cells 0 hostile
plugin "-DAT_ENCODE=${long}while(!call->cancelled(call))nanosleep(&t,NULL);close(open(\"$work/told\",O_CREAT,0600));return call->fail(call,PTQ_CANCELLED,\"stopped\")"
cells 3 hostile
says err "limits.hang_seconds = $((2 * slow))"
[ -e "$work/told" ] || fail "the plugin was not told to stop"

# Words: too many, or meant for the terminal.
plugin '-DAT_ENCODE=char*t=malloc(64<<20);memset(t,65,64<<20);t[(64<<20)-1]=0;t[0]=27;return call->fail(call,PTQ_INVALID,t)'
cells 3 fp16 hostile
[ "$(cat "$work"/results/failed/*.json "$work/err" | wc -c)" -lt 100000 ] || fail "a 64 MB sentence"
says err "(67108863 bytes in all)"
plugin '-DSUMMARY="\033]0;owned\007 clear \033[2J\342\200\256"'
run 0 methods --plugins "$plugins"
says out 'owned\x07 clear \x1b[2J\u202e'
grep -q $'\033' "$work/out" && fail "an escape sequence reaches the terminal"

# What is called .so and is none.
mkfifo "$plugins/pipe.so"
mkdir "$plugins/folder.so"
ln -s /dev/zero "$plugins/device.so"
ln -s nowhere "$plugins/dangling.so"
run 0 methods --plugins "$plugins"
says err "pipe.so: is no file but a pipe"
says err "folder.so: is no file but a folder"
says err "device.so: is no file but a device"
says err "dangling.so: cannot be read"
for name in pipe folder device; do run 4 check "$plugins/$name.so"; done
says err "this is no plugin but a folder, a pipe or a device"

# Where the BLAS gets no memory it would wait for ever: there is a result or a sentence.
for kilobytes in 150000 330000; do
  code=0
  rm -f "$work/l.safetensors"
  (
    ulimit -v "$kilobytes"
    timeout 30 "$host" logits --model "$model" --ids 1,2,3 --threads 2 --out "$work/l.safetensors"
  ) >"$work/out" 2>"$work/err" || code=$?
  if [ "$code" -eq 0 ]; then
    [ -s "$work/l.safetensors" ] || fail "no logits with ulimit -v $kilobytes"
  else
    [ "$code" -eq 5 ] || fail "exit code $code with ulimit -v $kilobytes"
    says err "ulimit -v"
  fi
done
finish
