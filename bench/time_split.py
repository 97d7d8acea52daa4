#!/usr/bin/env python3
"""How do the cells of a perplexity divide their time?  time_split.py RESULTS [BENCH.json]

BENCH.json: of `ptq-bench --json` with the same model and window; its prefill is what the device alone
needs for a window, the rest is logits on their way to the host and scoring. Standard library only.
"""
import json
import pathlib
import sys


def main():
    records = [json.loads(path.read_text()) for path in sorted(pathlib.Path(sys.argv[1]).glob("*/record.json"))]
    bench = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else None
    rate = None
    if bench and bench.exists():
        for line in json.loads(bench.read_text())["lines"]:
            if line["what"] == "prefill, last token's logits":
                rate = line.get("value")
    bad = 0
    for record in records:
        label, metrics = record["method"]["label"], record["metrics"]
        if record["status"] != "ok":
            print(f"{label}: {record['status']}: {record['error']}")
            bad += 1
            continue
        time, windows = metrics["time"], metrics["windows"]
        text = (f"{label}: load {time['load_seconds']:.1f} s, {windows} windows in {time['eval_seconds']:.2f} s;"
                f" a window {metrics['seconds'] / windows:.3f} s")
        if metrics.get("reference_seconds"):
            text += f" and its reference {metrics['reference_seconds'] / windows:.3f} s"
        if rate:
            text += f", the pass alone {metrics['window'] / rate:.3f} s"
        print(text)
    if not records:
        print(f"no record in {sys.argv[1]}")
    return 1 if bad or not records else 0


if __name__ == "__main__":
    sys.exit(main())
