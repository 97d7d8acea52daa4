#!/usr/bin/env python3
"""Writes the official rows of a task as JSON Lines, the format that ptq reads.

    pip install datasets
    python datasets/export_hf.py hellaswag --out datasets/hellaswag     # datasets/hellaswag/hellaswag.jsonl
    python datasets/export_hf.py all --out datasets/official

The data set, its configuration and its split stand in datasets/tasks/<task>.toml; a split for examples (few-shot) is
written beside it as <task>_<split>.jsonl. Nothing of a row is changed. The licences are those of the data sets.
"""
import argparse
import json
import os
import sys
import tomllib

HERE = os.path.dirname(os.path.abspath(__file__))
TASKS = sorted(f[:-5] for f in os.listdir(os.path.join(HERE, "tasks")) if f.endswith(".toml") and f not in ("boolq_words.toml", "recall.toml"))
EXAMPLES = {"mmlu": "dev", "hellaswag": "train", "winogrande": "train", "piqa": "train", "arc_easy": "train",
            "arc_challenge": "train", "boolq": "train", "openbookqa": "train", "gsm8k": "train"}


def write(rows, path):
    with open(path, "w", encoding="utf-8") as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(path, len(rows), "rows")


def export(task, out, examples):
    import datasets
    with open(os.path.join(HERE, "tasks", task + ".toml"), "rb") as f:
        of = tomllib.load(f)
    load = lambda split: datasets.load_dataset(of["dataset"], of.get("config"), split=split)  # noqa: E731
    os.makedirs(out, exist_ok=True)
    write(load(of["split"]), os.path.join(out, task + ".jsonl"))
    if examples:
        write(load(EXAMPLES[task]), os.path.join(out, "%s_%s.jsonl" % (task, EXAMPLES[task])))


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("task", choices=TASKS + ["all"])
    a.add_argument("--out", required=True, help="folder for the files")
    a.add_argument("--examples", action="store_true", help="also the split that examples come from")
    o = a.parse_args()
    try:
        import datasets  # noqa: F401
    except ImportError:
        sys.exit("export_hf.py needs the package `datasets`: pip install datasets")
    for task in TASKS if o.task == "all" else [o.task]:
        export(task, o.out, o.examples)


if __name__ == "__main__":
    main()
