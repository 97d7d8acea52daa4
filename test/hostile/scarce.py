#!/usr/bin/env python3
"""Runs a small grid where something runs out: disk, memory, addresses, the right to write, the file of the model.

    python3 test/hostile/scarce.py            # every size and 300 allocations: minutes, prints a table
    python3 test/hostile/scarce.py --short    # a few of each, as in `make test` (test_disturbed.sh)

Whatever runs out: ptq-host says so and ends with a code of its own, never with 0 while a result is missing, never by a
signal and never not at all; no part of a result lies under its final name; and the same command, when there is enough
again, completes the results, which are then those of an undisturbed run. Ends with 1 if a row of the table says else.
"""
import argparse
import collections
import os
import random
import resource
import shutil
import subprocess
import sys
import time

from small_grid import ROOT, SmallGrid, processes_of

MIB = 1 << 20


class Row:
    """One kind of scarcity: what came of its runs."""

    def __init__(self, name):
        self.name, self.codes, self.kept, self.problems, self.words = name, collections.Counter(), 0, [], ""

    def text(self):
        codes = ", ".join("%d x %d" % (n, code) for code, n in sorted(self.codes.items()))
        return "%-34s %5d runs  exit codes %-28s %4d results kept  %s" % (
            self.name, sum(self.codes.values()), codes, self.kept, "%d problems" % len(self.problems))


def check_end(row, grid, what, code, words, out):
    """What holds at the end of a run in which something was scarce."""
    row.codes[code] += 1
    if code == 127 and "error while loading shared libraries" in words:
        return  # the system could not even begin the program, and says so
    finished = []
    try:
        finished = grid.records(out)
    except (OSError, ValueError) as problem:
        row.problems.append("%s: part of a result: %s" % (what, problem))
    row.kept += len(finished)
    if code < 0 or code >= 124:
        row.problems.append("%s: ends with %d: %s" % (what, code, words[-300:]))
    if code == 0 and len(finished) != grid.cells:
        row.problems.append("%s: exit code 0 with %d results of %d" % (what, len(finished), grid.cells))
    if code != 0 and "error" not in words and "FAILED" not in words:
        row.problems.append("%s: exit code %d without words: %s" % (what, code, words[-300:]))
    if "this is a bug of ptq" in words:
        row.problems.append("%s: called a bug: %s" % (what, words[:300]))
    if code != 0 and not row.words:
        row.words = next((line for line in words.splitlines() if "error" in line or "FAILED" in line), "")


def check_afterwards(row, grid, what, out):
    """There is enough again."""
    if not grid.complete(out):
        row.problems.append("%s: cannot be completed afterwards: %s" % (what, grid.run(out)[1][-300:]))
    elif grid.wrong(out):
        row.problems.append("%s: afterwards: %s" % (what, grid.wrong(out)))


def mounted(folder, options):
    return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode == 0


def full_disk(grid, short):
    row, out = Row("disk full (tmpfs)"), os.path.join(grid.work, "full")
    os.mkdir(out)
    for kib in ([16, 112] if short else range(8, 260, 4)):
        if not mounted(out, "size=%dk" % kib):
            return "disk full: skipped, mounting is not allowed"
        try:
            code, words = grid.run(out)
            check_end(row, grid, "%d KiB" % kib, code, words, out)
            subprocess.run(["mount", "-o", "remount,size=64m", out], check=True)
            check_afterwards(row, grid, "%d KiB" % kib, out)
        finally:
            subprocess.run(["umount", "-l", out], check=True)
    return row


def read_only(grid, _short):
    row, out = Row("results read-only"), os.path.join(grid.work, "ro")
    os.mkdir(out)
    for before in (False, True):  # results are there already
        if not mounted(out, "size=64m"):
            return "results read-only: skipped, mounting is not allowed"
        try:
            if before:
                grid.complete(out)
            subprocess.run(["mount", "-o", "remount,ro", out], check=True)
            code, words = grid.run(out)
            check_end(row, grid, "read-only", code, words, out)
            if code != 4 or "--out" not in words:
                row.problems.append("read-only: ends with %d: %s" % (code, words))
            subprocess.run(["mount", "-o", "remount,rw", out], check=True)
            check_afterwards(row, grid, "read-only", out)
        finally:
            subprocess.run(["umount", "-l", out], check=True)
    return row


def few_addresses(grid, short):
    row, out = Row("addresses (RLIMIT_AS)"), os.path.join(grid.work, "as")
    for mib in ([60, 190] if short else range(20, 620, 10)):
        code, words = grid.run(out, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (mib * MIB, mib * MIB)))
        check_end(row, grid, "%d MiB" % mib, code, words, out)
        check_afterwards(row, grid, "%d MiB" % mib, out)
        shutil.rmtree(out, ignore_errors=True)
    return row


def failing_malloc(grid, short):
    row, out = Row("the n-th allocation"), os.path.join(grid.work, "malloc")
    library, counter = os.path.join(grid.work, "fault.so"), os.path.join(grid.work, "counter")
    if subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, os.path.join(ROOT, "test/fault/fault.c"), "-ldl"],
                      capture_output=True).returncode != 0:
        return "the n-th allocation: skipped, no C compiler"

    def run(at):
        with open(counter, "wb") as f:
            f.write(bytes(8))
        return grid.run(out, environment=dict(LD_PRELOAD=library, FAULT_KIND="malloc", FAULT_AT=str(at), FAULT_ERRNO="12",
                                              FAULT_COUNTER=counter))

    if run(0)[0] != 0:
        return "the n-th allocation: skipped, the preload library does not work here"
    with open(counter, "rb") as f:
        total = int.from_bytes(f.read(), "little")
    row.name += " of %d" % total
    r = random.Random(1)
    for _ in range(3 if short else 300):
        shutil.rmtree(out, ignore_errors=True)
        at = r.randint(1, total)
        code, words = run(at)
        check_end(row, grid, "allocation %d" % at, code, words, out)
        check_afterwards(row, grid, "allocation %d" % at, out)
    return row


def maps(pid, path):
    try:
        with open("/proc/%d/maps" % pid) as f:
            return path in f.read()
    except OSError:
        return False


def cut_model(_grid, short):
    """The file of the weights is cut while a cell has it mapped."""
    folder = SmallGrid(("fp16",)).work
    model = os.path.join(folder, "model")
    shutil.copytree(os.path.join(ROOT, "models/tiny-qwen2"), model)
    weights = os.path.join(model, "model.safetensors")
    grid = SmallGrid(("fp16", "kivi"), model=model, window=64, windows=12)
    row, out = Row("model cut while mapped"), os.path.join(grid.work, "cut")
    whole = open(weights, "rb").read()
    r = random.Random(1)
    for _ in range(1 if short else 40):
        host = grid.start(out, subprocess.PIPE)
        while host.poll() is None and not any(maps(pid, weights) for pid in processes_of(host.pid)[1:]):
            time.sleep(0.001)
        time.sleep(r.uniform(0, 0.3 * grid.seconds))
        os.truncate(weights, r.choice([0, 4096, len(whole) // 2]))
        words = host.communicate(timeout=300)[1].decode(errors="replace")
        check_end(row, grid, "cut", host.returncode, words, out)
        with open(weights, "wb") as f:
            f.write(whole)
        check_afterwards(row, grid, "cut", out)
        shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(grid.work, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    return row


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--short", action="store_true")
    a.add_argument("--only", default="", help="disk, read-only, addresses, malloc or model")
    o = a.parse_args()
    grid = SmallGrid()
    kinds = {"disk": full_disk, "read-only": read_only, "addresses": few_addresses, "malloc": failing_malloc, "model": cut_model}
    problems = 0
    for name, kind in kinds.items():
        if o.only not in ("", name):
            continue
        row = kind(grid, o.short)
        if isinstance(row, str):
            print(row)
            continue
        print(row.text())
        print("    " + row.words[:160])
        for problem in row.problems[:10]:
            print("    PROBLEM: " + problem)
        sys.stdout.flush()
        problems += len(row.problems)
    shutil.rmtree(grid.work, ignore_errors=True)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
