#!/usr/bin/env python3
"""Several hosts on one folder of results, killed at random moments and started again: every cell is computed once.

    python3 test/hostile/many_hosts.py --hosts 8 --rounds 50

In a round all hosts start at once on an empty folder; one of them, or a cell of it, is killed by SIGKILL and started
again, until a number of kills is reached and all hosts have ended by themselves. Then the results must be those of an
undisturbed run, to the last bit, and no cell may have been finished by two hosts. A short version is in `make test`
(test_disturbed.sh). Ends with 1 and keeps the folder of the first round that broke the promise.
"""
import argparse
import collections
import os
import random
import re
import shutil
import signal
import sys
import time

from small_grid import SmallGrid, processes_of

FINISHED = re.compile(r"^\[ *\d+/\d+\] (?!FAILED)(\S+ \S+ \S+)  ")


class Host:
    def __init__(self, grid, out, number):
        self.grid, self.out, self.number, self.starts = grid, out, number, 0
        self.log = os.path.join(grid.work, "host-%d.txt" % number)
        open(self.log, "w").close()
        self.start()

    def start(self):
        self.starts += 1
        with open(self.log, "a") as log:
            self.process = self.grid.start(self.out, log, quiet=False)

    def finished(self):
        """The cells that it said to have finished."""
        with open(self.log, errors="replace") as f:
            return [m.group(1) for m in map(FINISHED.match, f) if m]


def one_round(grid, out, count, kills, r):
    """(kills, starts, what is wrong)"""
    hosts = [Host(grid, out, i) for i in range(count)]
    killed, deadline = 0, time.time() + 300
    while any(h.process.poll() is None for h in hosts) or any(h.process.returncode != 0 for h in hosts):
        if time.time() > deadline:
            for h in hosts:
                h.process.kill()
            return killed, 0, "does not end"
        alive = [h for h in hosts if h.process.poll() is None]
        if killed < kills and alive:
            time.sleep(r.uniform(0, 0.15 * grid.seconds))
            victims = processes_of(r.choice(alive).process.pid)
            try:
                os.kill(victims[0] if r.random() < 0.7 else victims[-1], signal.SIGKILL)
                killed += 1
            except ProcessLookupError:
                pass  # it has just ended
        else:
            time.sleep(0.05)
        for h in hosts:
            if h.process.poll() not in (None, 0):
                if h.process.returncode not in (-signal.SIGKILL, 3):
                    return killed, 0, "host %d ends with %d, see %s" % (h.number, h.process.returncode, h.log)
                h.start()
    starts = sum(h.starts for h in hosts)
    twice = [cell for cell, n in collections.Counter(c for h in hosts for c in h.finished()).items() if n > 1]
    if twice:
        return killed, starts, "finished by two hosts: %s" % twice
    if grid.complete(out) != 1:  # sweeps what was being written at a kill
        return killed, starts, "the results are not complete"
    return killed, starts, grid.wrong(out)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--hosts", type=int, default=8)
    a.add_argument("--rounds", type=int, default=50)
    a.add_argument("--kills", type=int, default=10, help="at most, in a round")
    a.add_argument("--seed", type=int, default=1)
    o = a.parse_args()
    grid = SmallGrid(("fp16", "kivi", "q4_0", "q8_0", "rtn"))
    r = random.Random(o.seed)
    kills, starts, begin = 0, 0, time.time()
    for n in range(o.rounds):
        out = os.path.join(grid.work, "round-%d" % n)
        killed, started, wrong = one_round(grid, out, o.hosts, r.randint(1, o.kills), r)
        if wrong:
            sys.exit("round %d: %s\n%s is kept" % (n, wrong, out))
        kills += killed
        starts += started
        shutil.rmtree(out, ignore_errors=True)
    print("%d hosts, %d cells: %d rounds, %d kills, %d starts, every cell once and as undisturbed, %.0f s" %
          (o.hosts, grid.cells, o.rounds, kills, starts, time.time() - begin), flush=True)
    shutil.rmtree(grid.work, ignore_errors=True)


if __name__ == "__main__":
    main()
