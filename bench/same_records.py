#!/usr/bin/env python3
"""Do two folders of results hold the same numbers, to the last bit?

    bench/same_records.py BEFORE AFTER [OLD=NEW ...]

Cells are matched by experiment, model, method label and evaluation name; their ids may differ.
OLD=NEW: the method that BEFORE labels OLD is labelled NEW in AFTER. Of each pair these must be
equal:

  - every number of `metrics`, as it is written (1 is not 1.0), and every other value in them
  - `status`, `method.lossless` and `warnings`
  - every line of samples.jsonl

Left out is what two runs of one program differ in: `seconds` and keys that end in `_seconds` or
`_per_second` (with their `_why`), `peak_resident_bytes`. Nothing outside the parts above is looked
at, so neither `started_at` nor `headline`, which records of schema 1 do not have.

Both folders are searched at any depth; superseded/ and failed/ are passed over. Exit code 1 on any
difference, on a cell that only one side has, or if nothing was compared.
"""

import json
import sys
from pathlib import Path


class Number(str):
    """A number of a JSON text, as it is written."""


def read_json(text):
    return json.loads(text, parse_float=Number, parse_int=Number, parse_constant=Number)


def cells(folder, labels):
    """{(experiment, model, method, evaluation): (folder of the cell, its record)}"""
    found = {}
    for path in sorted(Path(folder).rglob("record.json")):
        if {"superseded", "failed"} & set(path.relative_to(folder).parts):
            continue
        record = read_json(path.read_text(encoding="utf-8"))
        label = record["method"]["label"]
        key = (record["experiment"], record["model"]["name"], labels.get(label, label),
               record["evaluation"]["name"])
        if key in found:
            sys.exit(f"error: {path.parent} and {found[key][0]} are one cell")
        found[key] = (path.parent, record)
    return found


def left_out(key):
    key = key.removesuffix("_why")
    return (key in ("seconds", "peak_resident_bytes") or key.endswith("_seconds")
            or key.endswith("_per_second"))


class Comparison:
    def __init__(self):
        self.numbers = self.lines = 0
        self.differences = []

    def same(self, a, b, place):
        if isinstance(a, dict) and isinstance(b, dict):
            names = [key for key in a if not left_out(key)]
            if names != [key for key in b if not left_out(key)]:
                self.differences.append(f"{place}: the keys or their order differ")
            for key in names:
                if key in b:
                    self.same(a[key], b[key], f"{place}.{key}")
        elif isinstance(a, list) and isinstance(b, list):
            if len(a) != len(b):
                self.differences.append(f"{place}: {len(a)} and {len(b)} elements")
            for i, (x, y) in enumerate(zip(a, b)):
                self.same(x, y, f"{place}[{i}]")
        else:
            self.numbers += isinstance(a, Number)
            if type(a) is not type(b) or a != b:
                self.differences.append(f"{place}: {a!s} and {b!s}")

    def same_cell(self, before, after, name):
        (folder_a, a), (folder_b, b) = before, after
        for key in ("status", "warnings", "metrics"):
            self.same(a[key], b[key], f"{name}: {key}")
        self.same(a["method"]["lossless"], b["method"]["lossless"], f"{name}: method.lossless")
        lines = [(folder / "samples.jsonl").read_bytes().splitlines()
                 for folder in (folder_a, folder_b)]
        if len(lines[0]) != len(lines[1]):
            self.differences.append(
                f"{name}: samples.jsonl: {len(lines[0])} and {len(lines[1])} lines")
        for i, (x, y) in enumerate(zip(*lines)):
            self.lines += 1
            if x != y:
                self.differences.append(f"{name}: samples.jsonl: line {i + 1} differs")


def main():
    if len(sys.argv) < 3 or not all("=" in word for word in sys.argv[3:]):
        sys.exit(__doc__)
    labels = dict(word.split("=", 1) for word in sys.argv[3:])
    before, after = cells(sys.argv[1], labels), cells(sys.argv[2], {})
    comparison = Comparison()
    for key in sorted(set(before) | set(after)):
        name = " / ".join(key)
        if key in before and key in after:
            comparison.same_cell(before[key], after[key], name)
        else:
            side = sys.argv[1] if key in before else sys.argv[2]
            comparison.differences.append(f"{name}: only in {side}")
    for difference in comparison.differences[:50]:
        print(difference)
    pairs = len(set(before) & set(after))
    print(f"{pairs} cells, {comparison.numbers} numbers and {comparison.lines} lines of samples "
          f"compared, {len(comparison.differences)} differences")
    sys.exit(1 if comparison.differences or comparison.numbers == 0 else 0)


if __name__ == "__main__":
    main()
