"""The embedded models in PyTorch: Llama, Mistral and Qwen2 blocks of one size, and how a folder is read."""
import json
import os

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer

VOCAB, HIDDEN, LAYERS, HEADS, KV, HEAD, INTER, THETA = 3072, 256, 4, 4, 2, 64, 512, 1e6
BOS, EOS = VOCAB - 2, VOCAB - 1
ARCH = {"llama": dict(bias=False, eps=1e-5), "mistral": dict(bias=False, eps=1e-5), "qwen2": dict(bias=True, eps=1e-6)}
UNTIED = ("llama",)                       # from its branch on, tiny-llama has an output matrix of its own


class Norm(nn.Module):
    def __init__(self, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(HIDDEN)), eps

    def forward(self, x):
        return F.rms_norm(x, (HIDDEN,), self.weight, self.eps)


def rope_tables(positions):
    f = THETA ** (-torch.arange(0, HEAD // 2, dtype=torch.float64) / (HEAD // 2))
    a = torch.outer(positions.double(), f)
    a = torch.cat([a, a], -1)
    return a.cos().float(), a.sin().float()


def rope(x, cos, sin):
    h = HEAD // 2
    return x * cos + torch.cat([-x[..., h:], x[..., :h]], -1) * sin


class Layer(nn.Module):
    def __init__(self, bias, eps):
        super().__init__()
        lin = lambda i, o, b=False: nn.Linear(i, o, bias=b)
        self.q, self.k, self.v = lin(HIDDEN, HEADS * HEAD, bias), lin(HIDDEN, KV * HEAD, bias), lin(HIDDEN, KV * HEAD, bias)
        self.o = lin(HEADS * HEAD, HIDDEN)
        self.gate, self.up, self.down = lin(HIDDEN, INTER), lin(HIDDEN, INTER), lin(INTER, HIDDEN)
        self.n1, self.n2 = Norm(eps), Norm(eps)

    def forward(self, x, cos, sin, attend):
        B, T, _ = x.shape
        y = self.n1(x)
        q = rope(self.q(y).view(B, T, HEADS, HEAD).transpose(1, 2), cos, sin)
        k = rope(self.k(y).view(B, T, KV, HEAD).transpose(1, 2), cos, sin)
        v = self.v(y).view(B, T, KV, HEAD).transpose(1, 2)
        a = attend(q, k, v)
        x = x + self.o(a.transpose(1, 2).reshape(B, T, HEADS * HEAD))
        y = self.n2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


def attend_full(q, k, v):
    g = HEADS // KV
    return F.scaled_dot_product_attention(q, k.repeat_interleave(g, 1), v.repeat_interleave(g, 1), is_causal=True)


class Model(nn.Module):
    def __init__(self, arch, untied=False):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, HIDDEN)
        self.layers = nn.ModuleList(Layer(**ARCH[arch]) for _ in range(LAYERS))
        self.norm = Norm(ARCH[arch]["eps"])
        self.head = nn.Linear(HIDDEN, VOCAB, bias=False) if untied else None

    def logits(self, h):
        return F.linear(h, self.head.weight if self.head else self.embed.weight)

    def forward(self, ids, attend=attend_full, positions=None):
        cos, sin = rope_tables(torch.arange(ids.shape[1]) if positions is None else positions)
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x, cos, sin, attend)
        return self.logits(self.norm(x))


def load(folder):
    c = json.load(open(os.path.join(folder, "config.json")))
    m = Model(c["model_type"], not c["tie_word_embeddings"])
    part = {"input_layernorm": "n1", "post_attention_layernorm": "n2"}
    sd = {}
    for n, v in load_file(os.path.join(folder, "model.safetensors")).items():
        w = n.split(".")
        if n.startswith("model.layers."):
            k = "layers.%s.%s.%s" % (w[2], part.get(w[-2], w[-2].replace("_proj", "")), w[-1])
        else:
            k = {"model.embed_tokens.weight": "embed.weight", "model.norm.weight": "norm.weight",
                 "lm_head.weight": "head.weight"}[n]
        sd[k] = v.float()
    m.load_state_dict(sd)
    return m.eval(), c, Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
