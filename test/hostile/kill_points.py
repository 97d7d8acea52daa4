#!/usr/bin/env python3
"""Kills a small run at every point where it writes, and at random moments: nothing may be lost, doubled or torn.

    python3 test/hostile/kill_points.py                      # every write-class call of host and cells (needs strace)
    python3 test/hostile/kill_points.py --random 1000        # 1,000 moments, by SIGKILL
    PTQ_BUILD=build python3 test/hostile/kill_points.py --step 5 --random 20

A round starts the grid in an empty folder, kills it once, and starts it again until it ends by itself. Then the results
must be those of an undisturbed run, to the last bit, without a leftover beside them. Not a part of `make test`: it takes
minutes. Ends with 1 and keeps the folder of the first round that broke the promise.
"""
import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

CALLS = "write,writev,pwrite64,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,ftruncate,openat,utimensat"
GRID = """models = ["{model}"]
[[methods]]
method = "fp16"
[[methods]]
method = "kivi"
[[evaluations]]
kind = "perplexity"
text = "{root}/datasets/embedded/test.txt"
window = 128
max_windows = 1
[[evaluations]]
kind = "choices"
task = "openbookqa"
data = "{root}/datasets/embedded/tasks/openbookqa.jsonl"
rows = "0:6"
"""


class Grid:
    def __init__(self, work):
        self.root = os.getcwd()
        self.work = work
        self.host = os.path.join(os.environ.get("PTQ_BUILD", "build"), "bin/ptq-host")
        self.file = os.path.join(work, "e.toml")
        with open(self.file, "w") as f:
            f.write(GRID.format(root=self.root, model=os.path.join(self.root, "models/tiny-qwen2")))

    def words(self, out):
        return [self.host, self.file, "--out", out, "--threads", "1", "--quiet"]

    def run(self, out, before=()):
        return subprocess.run(list(before) + self.words(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode

    def complete(self, out):
        """Starts it until it ends by itself, as if a minute later: the number of starts, or 0."""
        for folder, _, names in os.walk(out):
            for name in names:
                if name.startswith(".tmp-"):  # a file that was being written: swept when it is old
                    old = time.time() - 120
                    os.utime(os.path.join(folder, name), (old, old))
        for start in range(1, 6):
            if self.run(out) == 0:
                return start
        return 0

    def right(self, out, undisturbed):
        same = subprocess.run([sys.executable, "bench/same_records.py", undisturbed, out], capture_output=True, text=True)
        if same.returncode != 0:
            return same.stdout[-2000:] + same.stderr[-2000:]
        left = [n for n in os.listdir(out) if n.startswith(".tmp-") or n in ("claims", "unfinished")]
        if left:
            return "left behind: %s" % left
        cells = [n for n in os.listdir(out) if n.count("__") == 3]
        return "" if len(cells) == 4 else "%d cells instead of 4" % len(cells)


def every_call(grid, undisturbed, step, follow):
    """when = N kills a process at its N-th call; with `follow` the cells' processes, too."""
    for n in range(1, 100000, step):
        out = os.path.join(grid.work, "call-%d" % n)
        before = ["strace", "-qq", "-o", "/dev/null", "-e", "trace=" + CALLS, "-e", "inject=%s:signal=KILL:when=%d" % (CALLS, n)]
        if follow:
            before.insert(1, "-f")
        code = grid.run(out, before)
        if not grid.complete(out):
            yield n, out, "does not end"
            return
        yield n, out, grid.right(out, undisturbed)
        if code == 0:
            return  # there are no more calls


def at_random(grid, undisturbed, rounds, seconds, seed):
    r = random.Random(seed)
    for n in range(rounds):
        out = os.path.join(grid.work, "moment-%d" % n)
        child = subprocess.Popen(grid.words(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(r.uniform(0, seconds))
        child.send_signal(signal.SIGKILL)
        child.wait()
        if not grid.complete(out):
            yield n, out, "does not end"
            return
        yield n, out, grid.right(out, undisturbed)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--random", type=int, default=0, help="so many moments, instead of every call")
    a.add_argument("--step", type=int, default=1, help="every so many calls")
    a.add_argument("--seed", type=int, default=1)
    o = a.parse_args()
    work = tempfile.mkdtemp(prefix="ptq-kill-")
    grid = Grid(work)
    undisturbed = os.path.join(work, "undisturbed")
    begin = time.time()
    if grid.run(undisturbed) != 0:
        sys.exit("the grid does not run: " + " ".join(grid.words(undisturbed)))
    seconds = time.time() - begin
    if not o.random and not shutil.which("strace"):
        sys.exit("kills at calls need strace; --random 100 does without")
    kinds = [("random moments", at_random(grid, undisturbed, o.random, seconds, o.seed))] if o.random else [
        ("calls of the host", every_call(grid, undisturbed, o.step, False)),
        ("calls of host and cells", every_call(grid, undisturbed, o.step, True))]
    for what, rounds in kinds:
        count = 0
        for n, out, wrong in rounds:
            if wrong:
                sys.exit("%s, number %d: %s\n%s is kept" % (what, n, wrong, out))
            count += 1
            shutil.rmtree(out, ignore_errors=True)
        print("%s: %d kills, every result as undisturbed" % (what, count), flush=True)
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
