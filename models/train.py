#!/usr/bin/env python3
"""Trains the embedded models (PyTorch, CPU).

One base run, then one short branch per architecture (constant learning rate in the base run, linear
decay to zero in the branches and over the last 40 % of `extend`):

    python models/tokenizer.py --out WORK/tokenizer
    python models/train.py base   --work WORK
    python models/train.py branch --work WORK --arch qwen2      # also: mistral, llama
    python models/train.py extend --work WORK --init models/tiny-mistral   # long contexts: tiny-long

Structured start (`structure`): the initial weights already hold two previous-token heads in layer 0 and
two induction heads in layer 1 (one matches one token, one matches two), written into the fast and the
slow RoPE pairs; everything is trained afterwards. Sequences grow from 256 to 4096 tokens.
"""
import argparse
import math
import os
import random
import re
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from tokenizers import Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "datasets"))
import generate
from export import flatten
from model import ARCH, BOS, EOS, HEAD, HEADS, KV, LAYERS, THETA, UNTIED, VOCAB, Model, load

RECALL = 6.0                              # loss weight of a number that was already in the document
ASKED = 3.0                               # loss weight of the questions and answers of the suite's wordings

# (sequence length, sequences per batch, steps)
BASE = [(256, 16, 600), (512, 8, 310), (1024, 5, 460), (2048, 2, 350)]
BRANCH = [(2048, 1, 500), (4096, 1, 30)]
EXTEND = [(512, 8, 1000), (1024, 4, 1000), (2048, 2, 900), (4096, 1, 600), (8192, 1, 100)]
LR_BASE, LR_BRANCH, LR_EXTEND = 1.5e-3, 1.0e-3, 1.0e-3
LONGEST = 32768                           # positions that `extend` prepares for


# ---------------------------------------------------------------- start
@torch.no_grad()
def structure(m, seed):
    """Random start with previous-token heads (layer 0) and induction heads (layer 1) written in."""
    g = torch.Generator().manual_seed(seed)
    rnd = lambda *s: torch.randn(*s, generator=g)
    orth = lambda r, c: torch.linalg.qr(rnd(c, r))[0].T      # r orthonormal rows
    for p in m.parameters():
        if p.dim() == 2:
            p.copy_(rnd(*p.shape) * 0.02)
    for l in m.layers:
        l.o.weight.mul_(0.1)
        l.down.weight.mul_(0.2)
    # residual stream: 0 constant, 1..159 token, 160..207 token before, 208..255 token before that
    tok, p1, p2 = slice(1, 160), slice(160, 208), slice(208, 256)
    e = m.embed.weight
    e.zero_()
    e[:, 0] = 0.1
    e[:, tok] = F.normalize(rnd(VOCAB, 159), dim=1) * 0.38      # equal norms: the constant stays constant after the norm
    half = HEAD // 2
    w = torch.tensor([THETA ** (-i / half) for i in range(half)])
    fast, slow = torch.arange(0, 12), torch.cat([torch.arange(20, 32), torch.arange(52, 64)])
    M = orth(48, 159)
    l0, l1 = m.layers[0], m.layers[1]
    for kv, dist, dest in ((0, 1, p1), (1, 2, p2)):
        h = kv * (HEADS // KV)                                 # the group's first query head
        l0.k.weight[kv * HEAD:(kv + 1) * HEAD] = 0
        l0.q.weight[h * HEAD:(h + 1) * HEAD] = 0
        l0.k.weight[kv * HEAD + fast, 0] = 2.4
        l0.q.weight[h * HEAD + fast, 0] = 2.4 * torch.cos(dist * w[fast])
        l0.q.weight[h * HEAD + fast + half, 0] = -2.4 * torch.sin(dist * w[fast])
        l0.v.weight[kv * HEAD:kv * HEAD + 48, tok] = 0.16 * M
        l0.o.weight[dest, h * HEAD:h * HEAD + 48] = 0.16 * torch.eye(48)
    G0, G1, G2 = orth(24, 48), orth(24, 48), orth(24, 48)
    k1, k2 = 2.6, 2.0
    l1.k.weight[slow[:, None], torch.arange(160, 208)] = k1 * G0
    l1.q.weight[slow[:, None], torch.arange(1, 160)] = k1 * G0 @ M
    h = HEADS // KV
    l1.k.weight[(HEAD + slow)[:, None], torch.arange(160, 208)] = k2 * G1
    l1.k.weight[(HEAD + slow)[:, None], torch.arange(208, 256)] = k2 * G2
    l1.q.weight[(h * HEAD + slow)[:, None], torch.arange(1, 160)] = k2 * G1 @ M
    l1.q.weight[(h * HEAD + slow)[:, None], torch.arange(160, 208)] = k2 * G2
    C = orth(128, 159)
    for kv in (0, 1):
        c = C[kv * 64:kv * 64 + 64]
        l1.v.weight[kv * HEAD:(kv + 1) * HEAD, tok] = 0.25 * c
        l1.o.weight[tok, kv * h * HEAD:kv * h * HEAD + 64] = 0.25 * c.T


# ---------------------------------------------------------------- data
UNCUT = ("passkey", "passkey_exact", "dense_keys", "suite_values", "suite_hops")   # the questions stand at the end


class Data:
    def __init__(self, tok, seed, mix=generate.MIX, longest=0):
        self.t, self.r, self.mix, self.longest = tok, random.Random(seed), mix, longest

    def positions(self, length):
        """0, 1, 2, ... or, so that a short sequence meets the distances of a long one, with a few jumps
        (positional skip-wise training, arXiv 2309.10400)."""
        r = self.r
        p = torch.arange(length)
        if self.longest > length and r.random() < .75:
            left = int(length * (self.longest / length) ** r.random()) - length
            for _ in range(r.randint(1, 4)):
                jump = r.randint(0, left)
                p[r.randint(1, length - 1):] += jump
                left -= jump
        return p

    def sequence(self, length):
        """Whole documents until `length` tokens are full (the last one is cut); passkey pages are not cut."""
        r, ids, weight = self.r, [], []
        while len(ids) < length:
            left = length - len(ids)
            kind = r.choices([k for k, _ in self.mix], [n for _, n in self.mix])[0]
            want = left if r.random() < .5 else max(40, int(left * r.random()))
            scale = {"records": .52, "table": .72, "repeat": .48, "passkey_exact": .94, "passkey": .96, "suite_values": .85, "suite_hops": .85}.get(kind, .97)
            text = generate.document(r, int(want * scale), kind)
            e = self.t.encode(text, add_special_tokens=False)
            bos = [BOS] if r.random() < .5 else []
            d = bos + e.ids + [EOS]
            if len(d) > left and kind in UNCUT and left > 120:
                continue
            ids += d
            seen, asked = set(), [False] * len(d)
            if kind.startswith("suite"):                           # lines of questions and answers
                for q in re.finditer("^Wh(at|ich) .*$", text, re.M):
                    for i, (a, _) in enumerate(e.offsets, len(bos)):
                        asked[i] |= q.start() <= a < q.end()
            for t, counts in zip(d, asked):                        # a number that was there before counts more
                number = 256 <= t < 256 + 1100
                weight.append(RECALL if number and t in seen else ASKED if counts else 1.0)
                if number:
                    seen.add(t)
        return ids[:length], weight[:length]

    def batch(self, n, length):
        ids, weight = zip(*(self.sequence(length + 1) for _ in range(n)))
        return torch.tensor(ids), torch.tensor(weight)


def passkey_prompt(tok, context, depth, key):
    enc = lambda s: len(tok.encode(s, add_special_tokens=False).ids)
    U = generate.U_COMPAT
    N = "\nThe passkey to remember is %s. Remember it.\n" % key
    Q = "\nWhat is the passkey? The passkey is "
    filler, u = context - enc(Q) - enc(N), enc(U)
    before = int(filler * depth)
    after = filler - before
    return U * max(1, before // u) + N + U * max(1, after // u) + Q


@torch.no_grad()
def quick_eval(m, tok, text_ids, context, keys=2):
    """Cheap: teacher-forced key tokens at four depths, and perplexity of one held-out stretch."""
    m.eval()
    r, ok, n = random.Random(7), 0, 0
    for depth in (.1, .25, .5, .75):
        for _ in range(keys):
            key = str(r.randint(10000, 99999))
            ids = tok.encode(passkey_prompt(tok, context, depth, key), add_special_tokens=False).ids
            ans = tok.encode(key, add_special_tokens=False).ids
            lg = m(torch.tensor([ids + ans]))[0]
            ok += all(int(lg[len(ids) - 1 + i].argmax()) == a for i, a in enumerate(ans))
            n += 1
    x = torch.tensor([text_ids[:2049]])
    loss = F.cross_entropy(m(x[:, :-1])[0], x[0, 1:])
    m.train()
    return "passkey@%d %d/%d, ppl %.3f" % (context, ok, n, math.exp(loss))


# ---------------------------------------------------------------- runs
def run(m, stages, lr_at, data, tok, heldout, save, log, autocast, rank=0, world=1):
    decay = [p for p in m.parameters() if p.dim() == 2]
    rest = [p for p in m.parameters() if p.dim() != 2]
    opt = torch.optim.AdamW([{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}],
                            lr=1e-3, betas=(0.9, 0.97), eps=1e-9, fused=True)
    total = sum(s for _, _, s in stages)
    step, t0, seen, last = 0, time.time(), 0, time.time()
    for length, n, steps in stages:
        for _ in range(steps):
            b, weight = data.batch(n, length)
            for gr in opt.param_groups:
                gr["lr"] = lr_at(step, total)
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                logits = m(b[:, :-1], positions=data.positions(length))
            w = weight[:, 1:].reshape(-1)
            loss = F.cross_entropy(logits.float().reshape(-1, VOCAB), b[:, 1:].reshape(-1), reduction="none")
            loss = (loss * w).sum() / w.sum()
            opt.zero_grad(set_to_none=True)
            loss.backward()
            if world > 1:                                          # data parallel: mean of the gradients
                flat = torch.cat([p.grad.reshape(-1) for p in m.parameters()])
                torch.distributed.all_reduce(flat)
                at = 0
                for p in m.parameters():
                    p.grad.copy_(flat[at:at + p.numel()].view_as(p) / world)
                    at += p.numel()
            nn.utils.clip_grad_norm_(m.parameters(), 1.0)
            opt.step()
            seen += n * length * world
            step += 1
            if rank == 0 and step % 20 == 0:
                dt = time.time() - t0
                log("step %d/%d len %d loss %.4f  %.2fM tokens  %.0f tok/s" % (step, total, length, loss.item(), seen / 1e6, seen / dt))
            if rank == 0 and (time.time() - last > 150 or step == total):
                last = time.time()
                save(m)
                log("   " + quick_eval(m, tok, heldout, min(2048, length)))
    if rank == 0:
        save(m)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("run", choices=("base", "branch", "extend"))
    a.add_argument("--work", required=True, help="folder of tokenizer/, checkpoints and logs")
    a.add_argument("--arch", default="llama", choices=sorted(ARCH))
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("--rank", type=int, default=0, help="data parallel: start one process per rank, with one thread each")
    a.add_argument("--world", type=int, default=1)
    a.add_argument("--init", help="start from this checkpoint (base) or folder of a model or checkpoint (extend)")
    a.add_argument("--autocast", action="store_true", help="bf16 autocast")
    a.add_argument("--stages", help="length,batch,steps;... instead of the built-in curriculum")
    o = a.parse_args()
    torch.set_num_threads(int(os.environ.get("THREADS", "2")))
    torch.manual_seed(o.seed)
    tok = Tokenizer.from_file(os.path.join(o.work, "tokenizer", "qwen2.json"))
    if o.world > 1:
        torch.distributed.init_process_group("gloo", "file://" + os.path.abspath(os.path.join(o.work, "rendezvous")),
                                             rank=o.rank, world_size=o.world)
    base = o.run != "branch"                                      # the architecture without biases, tied
    name = {"base": "base", "extend": "extended"}.get(o.run, "tiny-" + o.arch)
    f = open(os.path.join(o.work, name + ".log"), "a")

    def log(s):
        print(s, file=f, flush=True)

    m = Model(o.arch, not base and o.arch in UNTIED)
    if o.run == "base" and not o.init:
        structure(m, o.seed)
    elif base and os.path.isdir(o.init or ""):
        start = flatten(load(o.init)[0].state_dict())
        torch.save(start, os.path.join(o.work, "start.pt"))
        m.load_state_dict(start)
    elif base:
        m.load_state_dict(torch.load(o.init or os.path.join(o.work, "start.pt")))
    else:
        sd = torch.load(os.path.join(o.work, "base.pt"))
        for i in range(LAYERS):
            for p in "qkv":                                     # Qwen2 starts with zero biases
                if ARCH[o.arch]["bias"]:
                    sd["layers.%d.%s.bias" % (i, p)] = torch.zeros(sd["layers.%d.%s.weight" % (i, p)].shape[0])
        if m.head:
            sd["head.weight"] = sd["embed.weight"].clone()
        m.load_state_dict(sd)
    stages = {"base": BASE, "branch": BRANCH, "extend": EXTEND}[o.run]
    if o.stages:
        stages = [tuple(map(int, s.split(","))) for s in o.stages.split(";")]
    lr_at = {"base": lambda s, n: LR_BASE * min(1, (s + 1) / 100),
             "extend": lambda s, n: LR_EXTEND * min(1, (s + 1) / 50, (n - s) / (.4 * n)),
             "branch": lambda s, n: LR_BRANCH * min(1, (s + 1) / 20) * (1 - s / n)}[o.run]
    heldout = tok.encode(open(os.path.join(HERE, "..", "datasets", "embedded", "test.txt")).read()).ids

    def save(m):
        p = os.path.join(o.work, name + ".pt")
        torch.save(m.state_dict(), p + ".tmp")
        os.replace(p + ".tmp", p)

    if o.rank == 0:
        log("%s seed %d, %d parameters, start %s" % (name, o.seed, sum(p.numel() for p in m.parameters()), quick_eval(m, tok, heldout, 256)))
    seeds = {"base": 1000, "tiny-qwen2": 2000, "tiny-mistral": 3000, "tiny-llama": 4000, "extended": 5000}
    mix, longest = (generate.MIX, 0) if o.run == "base" else (generate.SUITE_MIX, LONGEST)
    run(m, stages, lr_at, Data(tok, seeds[name] + o.seed + 100 * o.rank, mix, longest), tok, heldout, save, log, o.autocast, o.rank, o.world)


if __name__ == "__main__":
    main()
