#!/usr/bin/env python3
"""Measures an exported model folder in PyTorch (float32 arithmetic on the bf16 weights).

    python models/evaluate.py models/tiny-qwen2 --keys 20

Passkey retrieval, perplexity next to a unigram model's, and simulations: KIVI and per-token key/value
cache, round-to-nearest weights, per-tensor int8 activations. They are plain simulations, made to check
that the models behave as large ones do.
"""
import argparse
import math
import os
import random

import torch

from model import BOS, HEADS, KV, VOCAB, attend_full, load
from train import passkey_prompt

HERE = os.path.dirname(os.path.abspath(__file__))
EMBEDDED = os.path.join(HERE, "..", "datasets", "embedded")


def minmax(x, bits):
    """Asymmetric min/max over the last dimension; scale and min kept in fp16."""
    lo, hi = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    n = 2 ** bits - 1
    s = ((hi - lo) / n).half().float().clamp(min=1e-8)
    lo = lo.half().float()
    return lo + s * ((x - lo) / s).round().clamp(0, n)


def cache_attention(bits_k, bits_v, per_token_keys=False, group=32):
    """Every query reads the quantized rows of its past: keys of complete groups, values older than 32 tokens."""
    def attend(q, k, v):
        B, H, T, D = k.shape
        g, full = HEADS // KV, T // group * group
        kq, vq = k.clone(), v.clone()
        if bits_k:
            if per_token_keys:
                kq = minmax(k.reshape(B, H, T, D // group, group), bits_k).reshape(B, H, T, D)
            else:
                x = k[:, :, :full].reshape(B, H, full // group, group, D).transpose(-1, -2)
                kq[:, :, :full] = minmax(x, bits_k).transpose(-1, -2).reshape(B, H, full, D)
        if bits_v:
            vq = minmax(v.reshape(B, H, T, D // group, group), bits_v).reshape(B, H, T, D)
        t, s = torch.arange(T)[:, None], torch.arange(T)[None]
        k_is_q = s < (t + 1) // group * group
        v_is_q = s < t + 1 - group
        out = []
        for h in range(HEADS):
            a, kv = q[:, h], h // g
            w = torch.where(k_is_q, a @ kq[:, kv].transpose(-1, -2), a @ k[:, kv].transpose(-1, -2)) / math.sqrt(D)
            p = w.masked_fill(s > t, float("-inf")).softmax(-1)
            pq = p * v_is_q
            out.append(pq @ vq[:, kv] + (p - pq) @ v[:, kv])
        return torch.stack(out, 1)
    return attend


@torch.no_grad()
def passkey(m, tok, bos, attend, keys, context=2048, depths=(.1, .25, .5, .75)):
    res = {}
    for d in depths:
        r, ok = random.Random(42), 0
        for _ in range(keys):
            key = str(r.randint(10000, 99999))
            ids = bos + tok.encode(passkey_prompt(tok, context, d, key), add_special_tokens=False).ids
            ans = tok.encode(key, add_special_tokens=False).ids
            lg = m(torch.tensor([ids + ans]), attend)[0]
            good = all(int(lg[len(ids) - 1 + i].argmax()) == a for i, a in enumerate(ans))
            if not good and attend is attend_full:                # 8 greedy tokens in full
                out = []
                for _ in range(8):
                    out.append(int(m(torch.tensor([ids + out]), attend)[0, -1].argmax()))
                good = key in tok.decode(out)
            ok += good
        res[d] = ok
    return res


@torch.no_grad()
def windows(m, ids, bos, attend, count, length=1024, skip=0, ref=None):
    """Mean negative log-likelihood and KL(ref || this) over the last 3/4 of each window."""
    nll = kl = n = 0
    lps = []
    for w in range(count):
        x = bos + ids[skip + w * length: skip + (w + 1) * length + 1 - len(bos)]
        lp = m(torch.tensor([x[:-1]]), attend)[0].log_softmax(-1)
        y = torch.tensor(x[1:])
        cut = length // 4
        nll -= lp[cut:].gather(1, y[cut:, None]).sum().item()
        if ref is not None:
            kl += (ref[w][cut:].exp() * (ref[w][cut:] - lp[cut:])).sum().item()
        n += len(y) - cut
        lps.append(lp)
    return math.exp(nll / n), kl / n, lps


def rtn(m, bits, group):
    """Round-to-nearest, asymmetric, groups along the input dimension; projections of the layers only."""
    for l in m.layers:
        for lin in (l.q, l.k, l.v, l.o, l.gate, l.up, l.down):
            w = lin.weight.data
            lin.weight.data = minmax(w.reshape(w.shape[0], -1, group), bits).reshape(w.shape)


def int8_per_tensor(m):
    def hook(_, args):
        s = args[0].abs().max() / 127
        return ((args[0] / s).round() * s,)
    for l in m.layers:
        for lin in (l.q, l.k, l.v, l.o, l.gate, l.up, l.down):
            lin.register_forward_pre_hook(hook)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("folder")
    a.add_argument("--keys", type=int, default=20)
    a.add_argument("--sim-keys", type=int, default=3, help="keys per depth in the simulations")
    a.add_argument("--windows", type=int, default=4)
    o = a.parse_args()
    torch.set_num_threads(int(os.environ.get("THREADS", "2")))
    m, c, tok = load(o.folder)
    bos = [] if c["model_type"] == "qwen2" else [BOS]
    ids = tok.encode(open(os.path.join(EMBEDDED, "test.txt")).read(), add_special_tokens=False).ids
    calib = tok.encode(open(os.path.join(EMBEDDED, "calib.txt")).read(), add_special_tokens=False).ids
    count = torch.bincount(torch.tensor(calib), minlength=VOCAB).float() + 1
    uni = (count / count.sum()).log()
    print("unigram ppl %.1f" % math.exp(-uni[torch.tensor(ids)].mean()))
    ppl, _, _ = windows(m, ids, bos, attend_full, len(ids) // 2048, 2048)
    print("test.txt: %d tokens, ppl %.3f (windows of 2048, last 3/4)" % (len(ids), ppl))
    pk = lambda mm, at, k: "  ".join("%.2f: %d/%d" % (d, n, k) for d, n in passkey(mm, tok, bos, at, k).items()) if k else "-"
    if o.keys:
        print("passkey@2048  " + pk(m, attend_full, o.keys), flush=True)
    full, _, ref = windows(m, ids, bos, attend_full, o.windows)
    print("%-22s ppl %8.3f" % ("full", full))
    for name, at in [("kivi %d" % b, cache_attention(b, b)) for b in (8, 4, 2, 1)] + \
                    [("keys only %d" % b, cache_attention(b, 0)) for b in (2, 1)] + \
                    [("values only %d" % b, cache_attention(0, b)) for b in (2, 1)] + \
                    [("per-token k+v %d" % b, cache_attention(b, b, True)) for b in (4, 3, 2)]:
        p, kl, _ = windows(m, ids, bos, at, o.windows, ref=ref)
        print("%-22s ppl %8.3f  kl %.5f  passkey %s" % (name, p, kl, pk(m, at, o.sim_keys if "only" not in name else 0)), flush=True)
    for group in (32, 64):
        for bits in (8, 4, 3, 2):
            q, _, _ = load(o.folder)
            rtn(q, bits, group)
            p, kl, _ = windows(q, ids, bos, attend_full, o.windows, ref=ref)
            print("%-22s ppl %8.3f  kl %.5f  passkey %s" % ("rtn w%d g%d" % (bits, group), p, kl, pk(q, attend_full, o.sim_keys if group == 64 else 0)), flush=True)
    q, _, _ = load(o.folder)
    int8_per_tensor(q)
    p, kl, _ = windows(q, ids, bos, attend_full, o.windows, ref=ref)
    print("%-22s ppl %8.3f  kl %.5f" % ("a8 per tensor", p, kl))


if __name__ == "__main__":
    main()
