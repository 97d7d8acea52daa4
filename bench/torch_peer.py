#!/usr/bin/env python3
"""The same shapes with PyTorch: prefill and decoding in bfloat16 with its fused attention.

    torch_peer.py models/configs/Qwen2.5-7B [--ptq bench-Qwen2.5-7B.json] [--context 2048]

Needs PyTorch with CUDA and nothing else; weights are random. --ptq: a file that `ptq-bench --json`
wrote on this machine; the ratios to it are printed. Decoding is measured twice: as PyTorch runs it by
itself, where a small batch waits for the host, and from a CUDA graph, as ptq does.
"""
import argparse
import json
import pathlib
import statistics
import time

import torch
import torch.nn.functional as F


class Model:
    """A Llama, Qwen2 or Mistral decoder. x [n, hidden]; one sequence; the cache [2, kv_heads, n, dim]."""

    def __init__(self, config, longest, device):
        self.h = config["hidden_size"]
        self.heads = config["num_attention_heads"]
        self.kv = config.get("num_key_value_heads") or self.heads
        self.dim = config.get("head_dim") or self.h // self.heads
        self.eps = config["rms_norm_eps"]
        f, vocab = config["intermediate_size"], config["vocab_size"]
        bias = config["model_type"] == "qwen2"

        def weight(out, inside):
            return torch.randn(out, inside, device=device, dtype=torch.bfloat16) * inside**-0.5

        def ones():
            return torch.ones(self.h, device=device, dtype=torch.bfloat16)

        self.embedding = weight(vocab, self.h)
        self.head = self.embedding if config.get("tie_word_embeddings") else weight(vocab, self.h)
        self.norm = ones()
        q, kv = self.heads * self.dim, self.kv * self.dim
        self.layers = []
        for _ in range(config["num_hidden_layers"]):
            self.layers.append({
                "norm1": ones(), "norm2": ones(),
                "qkv": weight(q + 2 * kv, self.h),  # one product instead of three
                "bias": torch.zeros(q + 2 * kv, device=device, dtype=torch.bfloat16) if bias else None,
                "o": weight(self.h, q),
                "gate_up": weight(2 * f, self.h), "down": weight(self.h, f),
                "cache": torch.zeros(2, self.kv, longest, self.dim, device=device,
                                     dtype=torch.bfloat16),
            })
        theta = config.get("rope_theta", 10000.0)
        frequency = theta ** (-torch.arange(0, self.dim, 2, device=device).float() / self.dim)
        angle = torch.outer(torch.arange(longest, device=device).float(), frequency)
        self.cos = torch.cat([angle.cos(), angle.cos()], 1).bfloat16()
        self.sin = torch.cat([angle.sin(), angle.sin()], 1).bfloat16()

    def rms_norm(self, x, w):
        return F.rms_norm(x, (self.h,), w, self.eps)

    def rope(self, x, begin, end):
        half = self.dim // 2
        turned = torch.cat([-x[..., half:], x[..., :half]], -1)
        return x * self.cos[begin:end] + turned * self.sin[begin:end]

    def forward(self, ids, begin):
        """Logits of the last of the tokens ids [n], which lie at position `begin`."""
        n, end = ids.shape[0], begin + ids.shape[0]
        q_width, kv_width = self.heads * self.dim, self.kv * self.dim
        x = F.embedding(ids, self.embedding)
        for layer in self.layers:
            y = F.linear(self.rms_norm(x, layer["norm1"]), layer["qkv"], layer["bias"])
            q, k, v = y.split([q_width, kv_width, kv_width], 1)
            q = self.rope(q.view(n, self.heads, self.dim).transpose(0, 1), begin, end)
            k = self.rope(k.view(n, self.kv, self.dim).transpose(0, 1), begin, end)
            cache = layer["cache"]
            cache[0, :, begin:end] = k
            cache[1, :, begin:end] = v.view(n, self.kv, self.dim).transpose(0, 1)
            y = F.scaled_dot_product_attention(
                q[None], cache[0, None, :, :end], cache[1, None, :, :end], is_causal=n > 1,
                enable_gqa=self.kv != self.heads)
            x = x + F.linear(y[0].transpose(0, 1).reshape(n, q_width), layer["o"])
            gate, up = F.linear(self.rms_norm(x, layer["norm2"]), layer["gate_up"]).chunk(2, 1)
            x = x + F.linear(F.silu(gate) * up, layer["down"])
        return F.linear(self.rms_norm(x[-1:], self.norm), self.head)


def seconds(work, repetitions=20):
    """Median after three warm-up calls."""
    times = []
    for i in range(repetitions + 3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        if i >= 3:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="folder with config.json")
    parser.add_argument("--ptq", help="JSON of ptq-bench, for the ratios")
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    config = json.loads((pathlib.Path(options.model) / "config.json").read_text())
    ours = {}
    if options.ptq and pathlib.Path(options.ptq).exists():
        lines = json.loads(pathlib.Path(options.ptq).read_text())["lines"]
        ours = {line["what"]: line["value"] for line in lines if "value" in line}

    def report(what, rate, counterpart):
        ratio = ""
        if counterpart in ours:
            ratio = f"  ptq {ours[counterpart]:.1f}, {ours[counterpart] / rate:.2f} x PyTorch"
        print(f"{what:<44} {rate:>10.1f} tokens/s{ratio}", flush=True)

    with torch.inference_mode():
        n, model = options.context, Model(config, options.context, options.device)
        ids = torch.randint(config["vocab_size"], (n,), device=options.device)
        print(f"PyTorch {torch.__version__}, {torch.cuda.get_device_name()}, bfloat16, {n} tokens")
        report("prefill, last token's logits", n / seconds(lambda: model.forward(ids, 0)),
               "prefill, last token's logits")
        step, last = lambda: model.forward(ids[-1:], n - 1), f"decode, full-precision cache at {n}"
        report(f"decode at {n}", 1 / seconds(step), last)
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        with torch.cuda.stream(stream):  # a capture wants a warm stream of its own
            step()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            step()
        report(f"decode at {n}, CUDA graph", 1 / seconds(graph.replay), last)


if __name__ == "__main__":
    main()
