#!/usr/bin/env python3
"""Do the records of two devices agree?  compare_records.py CPU_FOLDER GPU_FOLDER --bound 1e-3

Perplexities may differ relatively by --bound (sums have another order, and a number on the border
of two codes may get the other one); bytes, counts and exposure must be equal. Standard library only.
"""
import argparse
import json
import pathlib
import sys

NEAR = ("ppl", "ppl_reference")
EQUAL = ("windows", "tokens_scored", "exposure", "exposure_keys", "exposure_values", "cache.tokens",
         "cache.bytes_encoded", "cache.bytes_window", "cache.bytes_sink", "cache.bytes_total",
         "weights.bytes_encoded", "weights.encoded_scalars", "weights.dense_scalars")


def records(folder):
    found = {}
    for path in sorted(pathlib.Path(folder).rglob("*.json")):
        try:
            record = json.loads(path.read_text())
        except ValueError:
            continue
        if not isinstance(record, dict) or "metrics" not in record:
            continue
        key = (record["model"]["name"], record["method"]["label"], record["evaluation"]["name"])
        found[key] = record
    return found


def number(metrics, path):
    for key in path.split("."):
        metrics = metrics.get(key) if isinstance(metrics, dict) else None
    return metrics


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cpu")
    parser.add_argument("gpu")
    parser.add_argument("--bound", type=float, required=True, help="relative, of perplexities")
    options = parser.parse_args()
    cpu, gpu = records(options.cpu), records(options.gpu)
    bad, worst, compared = [], 0.0, 0
    if not cpu or cpu.keys() != gpu.keys():
        bad.append(f"{len(cpu)} records of the CPU and {len(gpu)} of the GPU are not the same cells")
    for key in sorted(cpu.keys() & gpu.keys()):
        name = ", ".join(key)
        a, b = cpu[key], gpu[key]
        if a["status"] != "ok" or b["status"] != "ok":
            bad.append(f"{name}: status {a['status']} and {b['status']}")
            continue
        device = str(b["environment"].get("device", ""))
        if not device.startswith("cuda"):
            bad.append(f"{name}: the second folder's cell ran on `{device}`, not on a GPU")
        for path in EQUAL:
            x, y = number(a["metrics"], path), number(b["metrics"], path)
            if x != y:
                bad.append(f"{name}: {path} is {x} on the CPU and {y} on the GPU")
        for path in NEAR:
            x, y = number(a["metrics"], path), number(b["metrics"], path)
            if x is None and y is None:
                continue
            if not x or not y:
                bad.append(f"{name}: {path} is {x} on the CPU and {y} on the GPU")
                continue
            difference = abs(y - x) / abs(x)
            worst, compared = max(worst, difference), compared + 1
            print(f"{name}: {path} {x:.6g} on the CPU, {y:.6g} on the GPU, {difference:.1e}")
            if not difference <= options.bound:
                bad.append(f"{name}: {path} differs by {difference:.1e}")
    if compared == 0:
        bad.append("no perplexity was compared")
    for line in bad:
        print("DIFFERENT:", line)
    print(f"{compared} perplexities, largest relative difference {worst:.1e} (bound {options.bound:g})")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
