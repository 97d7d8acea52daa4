#!/usr/bin/env python3
"""ptq-bench beside the llama-bench of llama.cpp or a fork of it, in turns on one machine.

    peers.py --peer llama.cpp=PATH/llama-bench --peer ik=PATH2/llama-bench \\
             --ptq fp32=SmolLM2.f16.gguf --ptq bf16=SmolLM2.bf16.gguf \\
             --gguf SmolLM2.f16.gguf --gguf SmolLM2.Q4_1.gguf --json bench/results/NAME.json

Each round runs every program once: a prefill of every --tokens with the last token's logits, and
64 decoded tokens, behind 64 with ptq-bench and behind none with llama-bench. --text: also the
perplexity of four windows of 2048 tokens, from the start of the process to the number, with the
ptq-host and llama-perplexity that lie beside the two benchmarks. --ptq MODE=MODEL: MODE fp32,
bf16 or int8, or with weights as a method stores them METHOD@fp32, ..., which has no perplexity
here; MODEL a GGUF file or a Hugging Face folder. --gguf: what the peers run, or NAME=FILE what one
of them does. Medians of the rounds, the spread beside them, and the ratio of each of our lines to
the fastest peer. Standard library only.
"""
import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import tempfile
import time


def named(text):
    name, _, value = text.partition("=")
    if not value:
        raise argparse.ArgumentTypeError(f"`{text}` is not NAME=VALUE")
    return name, value


def for_peer(text):
    """(name of a peer or "" for all, file)"""
    name, _, file = ("", "", text) if pathlib.Path(text).exists() else text.rpartition("=")
    return name, file


def read_afresh(model):
    """The kernel may keep a file that was written in small pages and one that was read in large
    ones, which decoding sees: read from the disk, they are the same for all."""
    path = pathlib.Path(model)
    for file in path.glob("*.safetensors") if path.is_dir() else [path]:
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while opened.read(1 << 24):
                pass


def compute_of(mode):
    """(method that stores the weights or "", compute) of METHOD@COMPUTE or COMPUTE."""
    method, _, compute = mode.rpartition("@")
    return method, compute


def ours(program, mode, model, tokens, threads):
    """{what: tokens per second}, and the limits of the machine that the same run measured."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "lines.json")
        method, compute = compute_of(mode)
        plugins = pathlib.Path(program).resolve().parents[1] / "plugins"
        subprocess.run([program, "--model", model, "--compute", compute, "--threads", str(threads),
                        "--context", str(tokens), "--brief", "--json", str(file)] +
                       (["--plugins", plugins, "--weights", method] if method else []),
                       check=True, stdout=subprocess.DEVNULL)
        sheet = json.loads(file.read_text())
    lines = {line["what"]: line for line in sheet["lines"]}
    prefill = lines["prefill, last token's logits"]["value"]
    decode = next(v["value"] for k, v in lines.items() if k.startswith("decode"))
    limits = {k: v["value"] for k, v in lines.items() if "ratio" not in v}
    return prefill, decode, limits, sheet


def peer(program, model, tokens, threads):
    out = subprocess.run([program, "-m", model, "-t", str(threads), "-r", "1", "-n", "64",
                          "-p", ",".join(map(str, tokens)), "-o", "json"],
                         check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    found, build = {}, ""
    for line in json.loads(out):
        build = line["build_commit"]
        what = "decode" if line["n_gen"] > 0 else f"prefill {line['n_prompt']}"
        found[what] = line["avg_ts"]
    return found, build


SHORT = 128  # ptq-bench's shortest context: 64 tokens are decoded behind 64

EXPERIMENT = """name = "peers"
seed = 0
models = ["{model}"]
model = {{ compute = "{mode}" }}
baseline = "fp16"
[[methods]]
label = "fp16"
method = "fp16"
[[evaluations]]
name = "ppl"
kind = "perplexity"
text = "{text}"
join = "raw"
protocol = "llamacpp"
window = 2048
max_windows = 4
"""


def seconds_of(command):
    """In a folder of its own: some peers leave a log where they run."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        done = subprocess.run(command, check=True, text=True, cwd=folder, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)
        return time.monotonic() - start, done.stdout


def our_perplexity(bench, mode, model, text, threads):
    host = pathlib.Path(bench).resolve().with_name("ptq-host")
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "peers.toml")
        file.write_text(EXPERIMENT.format(mode=mode, model=pathlib.Path(model).resolve(),
                                          text=pathlib.Path(text).resolve()))
        seconds, _ = seconds_of([host, file, "--out", f"{folder}/out", "--threads", str(threads)])
        record = json.loads(next(pathlib.Path(folder, "out").glob("*/record.json")).read_text())
    return seconds, record["metrics"]["ppl"]


def peer_perplexity(bench, model, text, threads):
    program = pathlib.Path(bench).resolve().with_name("llama-perplexity")
    model, text = pathlib.Path(model).resolve(), pathlib.Path(text).resolve()
    seconds, out = seconds_of([program, "-m", model, "-f", text, "-c", "2048", "-b", "2048",
                               "--chunks", "4", "-t", str(threads)])
    return seconds, float(re.search(r"Final estimate: PPL.* = ([0-9.]+)", out)[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer", type=named, action="append", default=[], required=True)
    parser.add_argument("--ptq", type=named, action="append", default=[], required=True)
    parser.add_argument("--gguf", type=for_peer, action="append", default=[], required=True)
    parser.add_argument("--bench", default="build/bin/ptq-bench")
    parser.add_argument("--tokens", default="512,2048")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--text", help="a text whose perplexity is measured, too")
    parser.add_argument("--json", help="the figures of all rounds go to this file, too")
    options = parser.parse_args()
    tokens = [int(t) for t in options.tokens.split(",")]
    rates, facts, limits, found, builds = {}, {}, {}, {}, {}
    perplexity = "perplexity, seconds of the process"

    def note(who, what, value):
        rates.setdefault((who, what), []).append(value)

    models = {m for _, m in options.ptq} | {file for _, file in options.gguf}
    programs = {p for _, p in options.peer} | {options.bench}
    for path in sorted(models | programs | ({options.text} if options.text else set())):
        if not pathlib.Path(path).exists():
            parser.error(f"there is no `{path}`")
    for name in {name for name, _ in options.gguf} - {""} - {name for name, _ in options.peer}:
        parser.error(f"--gguf {name}=...: no --peer has this name")
    for model in models:
        read_afresh(model)
    for _ in range(options.rounds):
        for mode, model in options.ptq:
            who = f"ptq {mode}, {pathlib.Path(model).name}"
            for n in [SHORT] + tokens:
                prefill, decode, seen, sheet = ours(options.bench, mode, model, n, options.threads)
                if n == SHORT:
                    note(who, "decode", decode)
                else:
                    note(who, f"prefill {n}", prefill)
                facts = {k: sheet.get(k) for k in ("machine", "instructions", "device")}
                for k, v in seen.items():
                    limits.setdefault(k, []).append(v)
            if options.text and "@" not in mode:  # a method is measured beside full precision
                seconds, found[who] = our_perplexity(options.bench, mode, model, options.text,
                                                     options.threads)
                note(who, perplexity, seconds)
        for name, program in options.peer:
            for model in [file for only, file in options.gguf if only in ("", name)]:
                who = f"{name}, {pathlib.Path(model).name}"
                measured, builds[name] = peer(program, model, tokens, options.threads)
                for what, value in measured.items():
                    note(who, what, value)
                if options.text:
                    seconds, found[who] = peer_perplexity(program, model, options.text,
                                                          options.threads)
                    note(who, perplexity, seconds)

        if options.json:  # after each round: what a run that is stopped has measured stays
            table = [{"what": what, "who": who, "values": values}
                     for (who, what), values in rates.items()]
            text = json.dumps({**facts, "peers": builds, "threads": options.threads,
                               "limits": limits, "measured": table, "perplexities": found},
                              indent=1)
            pathlib.Path(options.json).write_text(text + "\n")

    for what, values in limits.items():
        print(f"{what:<50} {statistics.median(values):10.1f}")
    for what in [f"prefill {n}" for n in tokens] + ["decode", perplexity]:
        lines = [(who, values) for (who, w), values in rates.items() if w == what]
        if not lines:
            continue
        print(f"\n{what}" + ("" if what == perplexity else ", tokens/s"))
        best = min if what == perplexity else max
        fastest = best(statistics.median(v) for who, v in lines if not who.startswith("ptq "))
        for who, values in lines:
            median = statistics.median(values)
            spread = (max(values) - min(values)) / median
            ratio = fastest / median if what == perplexity else median / fastest
            beside = f"{ratio:5.2f} x as fast as the fastest peer" if who.startswith("ptq ") else ""
            number = f"  PPL {found[who]:.4f}" if what == perplexity else ""
            print(f"  {who:<40} {median:9.1f}  ±{50 * spread:.0f} %  {beside}{number}")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"peers.py: this ended with {error.returncode}: "
                         f"{' '.join(map(str, error.cmd))}\n{error.stdout or ''}") from None
