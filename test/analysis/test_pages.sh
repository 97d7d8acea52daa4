#!/usr/bin/env bash
# ptq-report from the command line: what `ptq-report RESULTS` leaves behind, the report file in a real
# browser when there is one, check, diff, verify, and damaged input.
set -uo pipefail
PTQ_BUILD=${PTQ_BUILD:-$PWD/build}
report=$PTQ_BUILD/bin/ptq-report
fixtures=$PWD/test/fixtures/report
[ -x "$report" ] || { echo "$report is not built"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

fail() { echo "FAILED: $*"; failures=$((failures + 1)); }
run() {
  local expected=$1 code=0
  shift
  "$report" "$@" >"$work/out" 2>"$work/err" </dev/null || code=$?
  [ "$code" -eq "$expected" ] && return
  fail "exit code $code instead of $expected: ptq-report $*"
  tail -n 20 "$work/out" "$work/err"
}
says() { grep -qF -- "$2" "$work/$1" || { fail "no \"$2\" in $1"; head -n 40 "$work/$1"; }; }

# record FOLDER METHOD EVALUATION KIND METRICS [SETTINGS]: one cell with its samples.
record() {
  local place=$1/tiny__$2__$3__0123456789abcdef lossless=false
  [ "$2" = fp16 ] && lossless=true
  mkdir -p "$place"
  cat >"$place/record.json" <<JSON
{"schema_version": 1, "experiment": "small", "track": "C", "cell": "0123456789abcdef",
 "model": {"name": "tiny", "path": "models/tiny", "fingerprint": "f", "parameters": 1000},
 "method": {"label": "$2", "lossless": $lossless, "parts": [{"plugin": "p.so", "plugin_sha256": "00",
   "method": "kivi", "version": "1", "options": {"bits": 2, "note": "it's <b>\`date\`</b>"}}]},
 "evaluation": {"name": "$3", "kind": "$4", "settings": ${6:-{\}}},
 "seed": 0, "code": {"version": "0.1.0", "git": "abc"},
 "environment": {"compute": "fp32", "device": "cpu"}, "status": "ok", "error": null,
 "warnings": [], "metrics": $5, "started_at": "2026-01-01T00:00:00Z", "seconds": 2}
JSON
}
losses() { # losses FILE SHIFT
  for i in 0 1 2 3 4 5 6 7; do
    echo "{\"window\": $i, \"nll\": 1.$((i * 11 + 100 + $2)), \"nll_reference\": 1.$((i * 11 + 100))}"
  done >"$1/samples.jsonl"
}
answers() { # answers FOLDER WRONG: the last WRONG of 20 are wrong
  for i in $(seq 1 20); do
    echo "{\"key\": $i, \"depth\": $([ "$i" -le 10 ] && echo 0.5 || echo 0.1), \"correct\": $([ "$i" -le $((20 - $2)) ] && echo true || echo false)}"
  done >"$1/samples.jsonl"
}
cache() { # cache BYTES: 2048 are those of full precision
  local bits=4 ratio=4 encoded=9
  [ "$1" = 2048 ] && bits=16 ratio=1 encoded=0
  echo "\"cache\": {\"bytes_per_token\": $1, \"effective_bits\": $bits, \"compression_ratio\": $ratio, \"bytes_encoded\": $encoded}"
}
depths() { echo "[{\"depth\": 0.1, \"correct\": $1, \"total\": 10}, {\"depth\": 0.5, \"correct\": 10, \"total\": 10}]"; }
ppl() { echo "{\"ppl\": $1, \"kl_mean\": $2, \"exposure\": 0.9, \"lengths\": [{\"length\": 512, \"ppl\": $1}, {\"length\": 2048, \"ppl\": $1}], $(cache "$3")}"; }
results() { # results FOLDER
  local r=$1
  record "$r" fp16 ppl perplexity "$(ppl 5.0 0 2048)"
  losses "$r/tiny__fp16__ppl__0123456789abcdef" 0
  record "$r" kivi-2bit ppl perplexity "$(ppl 5.2 0.04 400)"
  losses "$r/tiny__kivi-2bit__ppl__0123456789abcdef" 4
  record "$r" fp16 passkey passkey "{\"accuracy\": 1.0, \"correct\": 20, \"total\": 20, \"context_length\": 2048, \"depths\": $(depths 10), $(cache 2048)}"
  answers "$r/tiny__fp16__passkey__0123456789abcdef" 0
  record "$r" kivi-2bit passkey passkey "{\"accuracy\": 0.7, \"correct\": 14, \"total\": 20, \"context_length\": 2048, \"depths\": $(depths 4), $(cache 400)}"
  answers "$r/tiny__kivi-2bit__passkey__0123456789abcdef" 6
}

# --- everything ---------------------------------------------------------------------------------
results "$work/r"
run 0 "$work/r"
says out "kivi-2bit"
says out "report.html (also report.md, results.csv, results.json)"
html=$work/r/report.html
cp "$html" "$work/html" 2>/dev/null
for part in 'name="viewport"' "Content-Security-Policy" "0 gained" "Clopper-Pearson"; do
  says html "$part"
done
# Six answers lost, none gained: McNemar 2/2^6, mid-p half of it.
cp "$work/r/results.csv" "$work/csv"
says csv "small,tiny,kivi-2bit,passkey,passkey,ok,comparison.mcnemar_exact,0.03125"
says csv "small,tiny,kivi-2bit,passkey,passkey,ok,comparison.delta_accuracy,-0.3"
cp "$work/r/report.md" "$work/md"
says md "6 lost, 0 gained"
# Nothing is fetched: the only schemes are data: and the name spaces inside the pictures.
grep -oE '(src|href)="[a-z]+:' "$html" | sort -u | grep -v 'src="data:' && fail "the report refers to another place"
grep -q '<b>`date`' "$html" && fail "text of a record became markup"

if command -v gnuplot >/dev/null; then
  for plot in pareto-cache-ppl length-ppl depth-passkey tasks; do
    grep -q "</svg>" "$work/r/plots/small-tiny-$plot.svg" 2>/dev/null || fail "no plot $plot"
  done
  [ -s "$work/err" ] && fail "words on the standard error: $(cat "$work/err")"
  # The user's settings of gnuplot change nothing.
  cp -r "$work/r/plots" "$work/plots"
  mkdir "$work/home"
  printf 'set yrange [0:0.5]\nset key off\nset terminal x11\nset datafile separator ","\n' >"$work/home/.gnuplot"
  HOME=$work/home run 0 "$work/r"
  diff -r "$work/plots" "$work/r/plots" >/dev/null || fail "the start file of gnuplot changes figures"
  # Figures of evaluations whose names differ in signs or capitals only are different files.
  for name in ctx_2 ctx-2 CTX-2 评测一 评测二; do
    record "$work/names" fp16 "$name" passkey "{\"correct\": 20, \"total\": 20, \"accuracy\": 1, \"context_length\": 8, \"depths\": $(depths 10), $(cache 2048)}"
  done
  run 0 "$work/names"
  [ "$(grep -o 'plots/[^)]*svg' "$work/names/report.md" | tr "[:upper:]" "[:lower:]" | sort | uniq -d | wc -l)" -eq 0 ] ||
    fail "two figures share a file"
  [ "$(grep -o ' id="[^"]*"' "$work/names/report.html" | sort | uniq -d | wc -l)" -eq 0 ] || fail "an id stands twice"
  head -c 3 "$work/names/results.csv" | grep -q $'\xEF\xBB\xBF' || fail "no byte order mark"
fi
# A temporary folder that is not there costs nothing.
TMPDIR=$work/nowhere run 0 "$work/r"
[ -s "$work/err" ] && fail "TMPDIR: $(cat "$work/err")"
# A reader that goes away: the files are there all the same, also where nobody resets SIGPIPE.
for ignored in "" "trap '' PIPE;"; do
  rm -f "$work/r/report.html" "$work/r/results.json"
  bash -c "$ignored \"$report\" \"$work/r\" 2>\"$work/err\" | true"
  [ -s "$work/r/report.html" ] && [ -s "$work/r/results.json" ] || fail "a closed pipe costs the files ($ignored)"
  [ -s "$work/err" ] && fail "a closed pipe is called an error: $(cat "$work/err")"
done
"$report" "$work/r" >/dev/full 2>"$work/err" && fail "a full disk is no error"
# A time sorts by its seconds, names as text.
cp -r "$work/r" "$work/slow"
sed -i 's/"seconds": 2}/"seconds": 125}/' "$work/slow/tiny__kivi-2bit__ppl__0123456789abcdef/record.json"
run 0 "$work/slow"
grep -q 'data-v="125">2 min 05 s<' "$work/slow/report.html" || fail "2 min 05 s is not sorted as 125"
grep -q 'data-v="1">20/20' "$work/slow/report.html" || fail "20/20 is not sorted as a share"
# The baseline of the experiment, in every part of the report.
cp -r "$work/r" "$work/base"
echo '{"name": "small", "baseline": "kivi-2bit", "models": ["tiny"], "methods": ["fp16", "kivi-2bit"],
  "evaluations": [{"name": "ppl"}, {"name": "passkey"}]}' >"$work/base/experiment.json"
run 0 "$work/base"
says out "kivi-2bit (baseline)"
cp "$work/base/report.md" "$work/md"
says md "Against kivi-2bit, on the same samples"
says md "0 lost, 6 gained"
cp "$work/base/results.json" "$work/json"
says json '"against": "kivi-2bit"'
# The page of one run: the figure of each kind, and a command that computes it again.
record "$work/one" kivi retrieval retrieval "{\"correct\": 15, \"total\": 18, \"accuracy\": 0.8333, \"tasks\": [{\"task\": \"single\", \"haystack\": \"noise\", \"length\": 512, \"correct\": 15, \"total\": 18}]}"
record "$work/one" kivi long cached-decode '{"ppl": 5.125, "nll": 1.634, "lengths": [{"length": 4096, "ppl": 5.25, "ppl_reference": 5.1}]}'
run 0 run "$work/one/tiny__kivi__retrieval__0123456789abcdef/record.json"
says out "| retrieval | accuracy | 0.8333 |"
says out "| single, noise | 512 | 15/18 |"
says out "ptq-host cell.toml --out results/again"
grep -q "ptq-host small.toml" "$work/out" && fail "a command that was never typed"
run 0 run "$work/one/tiny__kivi__long__0123456789abcdef/record.json"
says out "| long | 5.125 | 1.634 |"
says out "| 4,096 | 5.250 | 5.100 |"
run 0 run --compat "$work/one/tiny__kivi__retrieval__0123456789abcdef/record.json"
says out "| retrieval | correct | 15 |"
run 0 "$work/r"
# Without gnuplot: one line, and everything else.
mkdir "$work/empty"
PATH=$work/empty run 0 "$work/r"
says err "plots left out: gnuplot is not installed"
[ "$(wc -l <"$work/err")" -eq 1 ] || fail "more than one line about gnuplot"
says out "report.html"

# --- a real browser -----------------------------------------------------------------------------
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
if [ -n "$browser" ]; then
  # A script after the page's own presses its buttons and writes what it sees into the title.
  {
    sed 's#</body></html>##' "$html"
    cat <<'JS'
<script>
const say = [];
const rows = () => Array.from(document.querySelectorAll('#cells-table tbody tr:not(.detail)')).filter(r => !r.hidden);
say.push('rows=' + rows().length);
const box = document.querySelector('input[data-filter=cells-table]');
box.value = 'kivi passkey'; box.dispatchEvent(new Event('input'));
say.push('filtered=' + rows().length);
box.value = ''; box.dispatchEvent(new Event('input'));
const head = document.querySelectorAll('#cells-table th [role=button]')[0];
head.click(); head.click();
say.push('first=' + rows()[0].cells[0].textContent);
document.querySelector('#cells-table .more').click();
say.push('detail=' + document.querySelectorAll('tr.detail').length);
say.push('command=' + document.querySelector('tr.detail').textContent.includes('ptq-host cell.toml'));
say.push('wide=' + (document.documentElement.scrollWidth > innerWidth));
document.body.innerHTML = '<pre id="said">' + say.join(' ') + '</pre>';
</script></body></html>
JS
  } >"$work/driven.html"
  for size in 1280,900 390,844; do
    timeout 120 "$browser" --headless --no-sandbox --disable-gpu --window-size=$size \
      --virtual-time-budget=5000 --dump-dom "file://$work/driven.html" >"$work/dom" 2>/dev/null
    says dom "rows=4 filtered=1 first=kivi-2bit detail=1 command=true wide=false"
  done
else
  echo "note: no browser installed, report.html was not opened"
fi

# --- check, diff, verify ------------------------------------------------------------------------
cat >"$work/small.toml" <<'TOML'
models = ["models/tiny"]
[[methods]]
label = "fp16"
method = "kivi"
[[methods]]
label = "kivi-2bit"
method = "kivi"
options = { bits = 2 }
[[evaluations]]
kind = "perplexity"
name = "ppl"
[[evaluations]]
kind = "passkey"
TOML
run 0 check "$work/r" "$work/small.toml"
says out "4 ok"
sed 's/bits = 2/bits = 4/' "$work/small.toml" >"$work/other.toml"
sed -i 's/models\/tiny/models\/big", "models\/tiny/; s/^models/name = "small"\nmodels/' "$work/other.toml"
run 3 check "$work/r" "$work/other.toml"
says out "conflict       tiny kivi-2bit ppl: option bits is 2 in the result, 4 in the experiment"
says out "missing        big fp16 passkey"
echo 'a = [4,}' >"$work/bad.toml"
run 2 check "$work/r" "$work/bad.toml"
says err "not valid TOML"

results "$work/s"
run 0 diff "$work/r" "$work/s"
says out "4 cells are equal, 0 differ"
record "$work/s" kivi-2bit ppl perplexity "$(ppl 5.4 0.08 400)"
losses "$work/s/tiny__kivi-2bit__ppl__0123456789abcdef" 8
run 6 diff "$work/r" "$work/s"
says out "tiny kivi-2bit ppl"
says out "+0.40 %" # exp(0.004) - 1

run 0 pruning --compat "$fixtures/pruning.csv" --json "$work/cross.json"
cmp -s "$work/out" "$fixtures/pruning.txt" || fail "the pruning document differs"
grep -q '"nonfinite"' "$work/cross.json" || fail "no count of infinite inputs"
run 0 verify "$fixtures/pruning.csv"
run 0 verify "$fixtures/pruning.txt"
sed 's/^OPENBOOKQA/x/; 0,/ACC mean: 0/s//ACC mean: 1/' "$fixtures/pruning.txt" >"$work/wrong.txt"
run 6 verify "$work/wrong.txt"
says out "VIOLATED"
run 0 run --compat "$fixtures/run.json"
cmp -s "$work/out" "$fixtures/run.md" || fail "the page of a run differs"

# Records: the figures of ours are held against each other, and against the samples where a hash says
# which file that is.
run 0 verify "$work/s"
says out "figures and samples agree"
says out "the record has none"
edited=$work/s/tiny__kivi-2bit__ppl__0123456789abcdef/record.json
sed -i 's/"exposure": 0.9/"exposure": 55/' "$edited"
run 6 verify "$work/s"
says out "metrics.exposure (is 55, outside 0 to 1)"
run 6 verify "$edited"
run 3 check "$work/s" "$work/small.toml"
says out "inconsistent   tiny kivi-2bit ppl: metrics.exposure is 55"
run 0 "$work/s"
says out "NOT CONSISTENT: metrics.exposure is 55"
grep -q "NOT CONSISTENT: metrics.exposure is 55" "$work/s/report.html" || fail "report.html does not warn"
run 0 "$work/s" --format csv
says err "NOT CONSISTENT: metrics.exposure is 55"
results "$work/h"
hashed=$work/h/tiny__fp16__passkey__0123456789abcdef
sum=$(sha256sum "$hashed/samples.jsonl" | cut -d' ' -f1)
sed -i "s/\"warnings\": \[\]/\"samples_sha256\": \"$sum\", &/" "$hashed/record.json"
run 0 verify "$hashed/record.json"
: >"$hashed/samples.jsonl"
run 6 verify "$hashed/record.json"
says out "is not the file whose hash stands in the record"
rm "$hashed/samples.jsonl"
run 3 check "$work/h" "$work/small.toml"
says out "samples.jsonl is missing"

# --- damaged and hostile input ------------------------------------------------------------------
echo '{"meta": ' >"$work/cut.json"
run 4 run "$work/cut.json"
says err "not valid JSON"
run 4 run "$work/small.toml"
run 2 run
run 2 pruning --lang fr "$fixtures/pruning.csv"
says err "zh or en"
run 2 run "$fixtures/run.json" --compt
says err "did you mean"
# A damaged record or CSV beside a pruning study costs itself only.
results "$work/p"
cp "$fixtures/pruning.csv" "$work/p/search.csv"
mkdir "$work/p/broken"
echo '{' >"$work/p/broken/record.json"
printf 'pruning_method,acc_mean\nx,abc\n' >"$work/p/bad.csv"
run 0 "$work/p"
says out "broken/record.json: left out"
[ -s "$work/p/report.html" ] || fail "a damaged record costs the report"
grep -q "bad.csv: left out" "$work/p/report.html" || fail "a damaged CSV is not named"
run 0 pruning "$work/p"
says err "bad.csv: left out"
{ printf '\357\273\277'; cat "$fixtures/pruning.csv"; } >"$work/bom.csv"
run 0 pruning "$work/bom.csv"
{ echo '['; head -c 40000 /dev/zero | tr '\0' 'a' | sed 's/a/a./g'; echo 'a]'; } | tr -d '\n' >"$work/deep.toml"
run 2 check "$work/r" "$work/deep.toml"
says err "64 parts"
# A link is written through, never replaced: what it leads to may be /dev/stdout.
: >"$work/behind"
ln -s behind "$work/link.csv"
run 0 "$work/r" --out "$work/link.csv"
{ [ -L "$work/link.csv" ] && [ -s "$work/behind" ]; } || fail "a link was replaced by a file"
mkfifo "$work/pipe"
cat "$work/pipe" >"$work/piped" &
run 0 pruning "$fixtures/pruning.csv" --json "$work/pipe"
wait $!
{ [ -p "$work/pipe" ] && [ -s "$work/piped" ]; } || fail "a pipe was replaced by a file"

printf '{"window": 0, "nll": \n{"window": 1, "nll": 1.2}\n' >"$work/r/tiny__kivi-2bit__ppl__0123456789abcdef/samples.jsonl"
echo '{"schema_version": 1' >"$work/r/tiny__fp16__passkey__0123456789abcdef/record.json"
run 0 "$work/r"
says out "left out, this is no readable record"

[ "$failures" -eq 0 ]
