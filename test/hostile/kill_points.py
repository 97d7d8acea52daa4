#!/usr/bin/env python3
"""Kills a small run at every point where it writes, and at random moments: nothing may be lost, doubled or torn.

    python3 test/hostile/kill_points.py                      # every write-class call of host and cells (needs strace)
    python3 test/hostile/kill_points.py --random 1000        # 1,000 moments, of the host or of a cell, by SIGKILL
    PTQ_BUILD=build python3 test/hostile/kill_points.py --step 5 --first 3

A round starts the grid in an empty folder, kills it once, and starts it again until it ends by itself. Then the results
must be those of an undisturbed run, to the last bit, without a leftover beside them. `make test` has a few of the
points (test_disturbed.sh); all of them take minutes. Ends with 1 and keeps the folder of the first round that broke the
promise.
"""
import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time

from small_grid import SmallGrid, processes_of

CALLS = "write,writev,pwrite64,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,ftruncate,openat,utimensat"


def every_call(grid, first, step, follow):
    """when = N kills a process at its N-th call; with `follow` the cells' processes, too."""
    for n in range(first, 100000, step):
        out = os.path.join(grid.work, "call-%d" % n)
        before = [shutil.which("strace"), "-qq", "-o", "/dev/null", "-e", "trace=" + CALLS, "-e", "inject=%s:signal=KILL:when=%d" % (CALLS, n)]
        if follow:
            before.insert(1, "-f")
        code, _ = grid.run(out, before)
        if code == 0 and grid.wrong(out) == "":
            return  # there are no more calls
        yield n, out, "does not end" if not grid.complete(out) else grid.wrong(out)


def at_random(grid, rounds, seed):
    r = random.Random(seed)
    for n in range(rounds):
        out = os.path.join(grid.work, "moment-%d" % n)
        child = grid.start(out, subprocess.DEVNULL)
        time.sleep(r.uniform(0, grid.seconds))
        try:
            os.kill(r.choice(processes_of(child.pid)), signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has just ended
        child.wait()
        yield n, out, "does not end" if not grid.complete(out) else grid.wrong(out)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--random", type=int, default=0, help="so many moments, instead of every call")
    a.add_argument("--first", type=int, default=1, help="the first call")
    a.add_argument("--step", type=int, default=1, help="every so many calls")
    a.add_argument("--seed", type=int, default=1)
    o = a.parse_args()
    if not o.random and not shutil.which("strace"):
        print("kills at calls need strace; --random 100 does without")
        sys.exit(77)
    grid = SmallGrid()
    kinds = [("random moments", at_random(grid, o.random, o.seed))] if o.random else [
        ("calls of the host", every_call(grid, o.first, o.step, False)),
        ("calls of host and cells", every_call(grid, o.first, o.step, True))]
    for what, rounds in kinds:
        count, begin = 0, time.time()
        for n, out, wrong in rounds:
            if wrong:
                sys.exit("%s, number %d: %s\n%s is kept" % (what, n, wrong, out))
            count += 1
            shutil.rmtree(out, ignore_errors=True)
        print("%s: %d kills, every result as undisturbed, %.0f s" % (what, count, time.time() - begin), flush=True)
    shutil.rmtree(grid.work, ignore_errors=True)


if __name__ == "__main__":
    main()
