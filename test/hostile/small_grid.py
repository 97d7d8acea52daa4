"""A small experiment for the scripts that disturb it: runs it, and compares what is left with an undisturbed run."""
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "bench"))
import same_records  # noqa: E402

EVALUATIONS = """
[[evaluations]]
kind = "perplexity"
text = "{root}/datasets/embedded/test.txt"
window = {window}
max_windows = {windows}
[[evaluations]]
kind = "choices"
task = "openbookqa"
data = "{root}/datasets/embedded/tasks/openbookqa.jsonl"
rows = "0:6"
"""


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


class SmallGrid:
    """methods x (perplexity, choices) on the smallest model."""

    def __init__(self, methods=("fp16", "kivi"), model=None, window=128, windows=1):
        self.host = os.path.join(os.path.abspath(os.environ.get("PTQ_BUILD", os.path.join(ROOT, "build"))), "bin/ptq-host")
        self.model = model or os.path.join(ROOT, "models/tiny-qwen2")
        if not os.access(self.host, os.X_OK) or not os.path.exists(os.path.join(self.model, "model.safetensors")):
            print("%s or %s is not there" % (self.host, self.model))
            sys.exit(77)
        self.work = tempfile.mkdtemp(prefix="ptq-disturbed-")
        self.file = os.path.join(self.work, "e.toml")
        path = os.path.join(self.work, "path")  # without gnuplot, which takes a second
        os.mkdir(path)
        os.symlink(shutil.which("sh"), os.path.join(path, "sh"))
        self.environment = dict(os.environ, PATH=path)
        self.cells = 2 * len(methods)
        with open(self.file, "w") as f:
            f.write('models = ["%s"]\n' % self.model)
            f.write("".join('[[methods]]\nmethod = "%s"\n' % m for m in methods))
            f.write(EVALUATIONS.format(root=ROOT, window=window, windows=windows))
        self.undisturbed = os.path.join(self.work, "undisturbed")
        begin = time.time()
        if self.run(self.undisturbed)[0] != 0:
            sys.exit("the grid does not run: " + " ".join(self.words(self.undisturbed)))
        self.seconds = time.time() - begin

    def start(self, out, stderr, quiet=True):
        return subprocess.Popen(self.words(out, quiet), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr,
                                env=self.environment)

    def words(self, out, quiet=True):
        return [self.host, self.file, "--out", out, "--threads", "1", "--device", "cpu"] + (["--quiet"] if quiet else [])

    def run(self, out, before=(), environment=None, **more):
        """(exit code, its words); 124: it hangs."""
        try:
            end = subprocess.run(list(before) + self.words(out), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.PIPE, timeout=300, env=dict(self.environment, **(environment or {})), **more)
        except subprocess.TimeoutExpired:
            return 124, ""
        return end.returncode, end.stderr.decode(errors="replace")

    def complete(self, out):
        """Starts it until it ends by itself, as if a minute later: the number of starts, or 0."""
        for folder, _, names in os.walk(out):
            for name in names:
                if name.startswith(".tmp-"):  # a file that was being written: swept when it is old
                    old = time.time() - 120
                    os.utime(os.path.join(folder, name), (old, old))
        for start in range(1, 6):
            if self.run(out)[0] == 0:
                return start
        return 0

    def records(self, out):
        """The folders of finished cells. Ends the script's round with a sentence where one is torn."""
        found = [os.path.join(out, n) for n in sorted(os.listdir(out)) if n.count("__") == 3] if os.path.isdir(out) else []
        for folder in found:
            with open(os.path.join(folder, "record.json")) as f:
                record = json.load(f)
            for name in ("samples", "tokens"):
                said = record.get(name + "_sha256")
                file = os.path.join(folder, "samples.jsonl" if name == "samples" else "tokens.bin")
                if said and sha256(file) != said:
                    raise ValueError("%s is torn" % file)
        return found

    def wrong(self, out):
        """What is not as in the undisturbed run; empty: nothing."""
        try:
            count = len(self.records(out))
            comparison = same_records.Comparison()
            before, after = same_records.cells(self.undisturbed, {}), same_records.cells(out, {})
        except (OSError, ValueError) as problem:
            return str(problem)
        for key in sorted(set(before) | set(after)):
            if key in before and key in after:
                comparison.same_cell(before[key], after[key], " / ".join(key))
            else:
                comparison.differences.append("%s is only in one of them" % (key,))
        left = [n for n in os.listdir(out) if n.startswith(".tmp-") or n in ("claims", "unfinished")]
        left += [n for n in (os.listdir(os.path.join(out, "failed")) if "failed" in os.listdir(out) else []) if n.endswith(".json")]
        if left:
            comparison.differences.append("left behind: %s" % left)
        if count != self.cells:
            comparison.differences.append("%d cells instead of %d" % (count, self.cells))
        return "\n".join(comparison.differences[:20])


def processes_of(pid):
    """A process and all below it."""
    found = [pid]
    for process in found:
        try:
            with open("/proc/%d/task/%d/children" % (process, process)) as f:
                found += [int(word) for word in f.read().split()]
        except OSError:
            pass
    return found
