#!/usr/bin/env python3
"""Transforms a trained checkpoint and writes it as a Hugging Face folder in bf16.

    python models/export.py --work WORK --arch qwen2 --out models/tiny-qwen2

The transformations do not change the function (exactly, or nearly for the key bias), they give the
weights the outliers that large models have:
  activations  a few channels of each norm's gain times f, the matching columns of q/k/v (gate/up) by f
  MLP          a few rows of up times f, the matching columns of down by f
  keys         RoPE pair (i, i+32) of k times c, the same pair of all query heads of the group by c
  key bias     Qwen2 only: a large constant on slowly turning pairs; softmax removes q.R(t-s)b because it
               hardly changes with s there
"""
import argparse
import json
import os
import shutil

import torch
from safetensors.torch import save_file

from model import ARCH, BOS, EOS, HEAD, HEADS, HIDDEN, INTER, KV, LAYERS, THETA, UNTIED, VOCAB, Model
from tokenizer import BOS as BOS_TEXT, EOS as EOS_TEXT

# factors of the outlier channels, see `rank_channels`
ACT = {"n1": (32.0, 16.0), "n2": (32.0, 16.0), "mid": (24.0, 12.0)}
# (RoPE pair, factor) per kv head
KEYS = {0: ((3, 12.0), (26, 8.0)), 1: ((9, 10.0), (28, 8.0))}
# layer: {(kv head, RoPE pair): size}; Qwen2 only
KEY_BIAS = {0: {(0, 31): 48.0, (1, 30): -36.0}, 2: {(0, 30): -40.0, (1, 31): 56.0}}
CLASS = {"qwen2": "Qwen2ForCausalLM", "mistral": "MistralForCausalLM", "llama": "LlamaForCausalLM"}


def rank_channels(sd, ids, arch):
    """Channels in the order in which they become outliers, measured on calibration text: norm outputs by
    |mean| / deviation (steady ones; not the first 64, where the constant sits), MLP activations by
    max / deviation (mostly silent, loud on a few tokens)."""
    m = Model(arch, "head.weight" in sd)
    m.load_state_dict(sd)
    m.eval()
    order = {}

    def norm(name):
        def f(_, __, y):
            y = y.reshape(-1, HIDDEN)
            score = y.mean(0).abs() / y.std(0)
            score[:64] = -1
            order[name] = score.argsort(descending=True).tolist()
        return f

    def mid(name):
        def f(_, args):
            x = args[0].reshape(-1, INTER)
            order[name] = (x.abs().amax(0) / x.std(0)).argsort(descending=True).tolist()
        return f
    for i, l in enumerate(m.layers):
        l.n1.register_forward_hook(norm((i, "n1")))
        l.n2.register_forward_hook(norm((i, "n2")))
        l.down.register_forward_pre_hook(mid((i, "mid")))
    with torch.no_grad():
        m(ids)
    return order


def transform(sd, arch, order, act=ACT, keys=KEYS, key_bias=KEY_BIAS):
    sd = {k: v.clone().float() for k, v in sd.items()}
    g = HEADS // KV
    for i in range(LAYERS):
        p = "layers.%d." % i
        for norm, mats in (("n1", "q k v"), ("n2", "gate up")):
            for c, f in zip(order[(i, norm)], act[norm]):
                sd[p + norm + ".weight"][c] *= f
                for m in mats.split():
                    sd[p + m + ".weight"][:, c] /= f
        for c, f in zip(order[(i, "mid")], act["mid"]):
            sd[p + "up.weight"][c] *= f
            sd[p + "down.weight"][:, c] /= f
        for h, pairs in keys.items():
            for pair, c in pairs:
                for d in (pair, pair + HEAD // 2):
                    for name in ("weight", "bias"):
                        if p + "k." + name in sd:
                            sd[p + "k." + name][h * HEAD + d] *= c
                            for q in range(h * g, h * g + g):
                                sd[p + "q." + name][q * HEAD + d] /= c
        if ARCH[arch]["bias"]:
            for (h, pair), b in key_bias.get(i, {}).items():
                sd[p + "k.bias"][h * HEAD + pair] += b
                sd[p + "k.bias"][h * HEAD + pair + HEAD // 2] -= b / 2
    return sd


def flatten(sd):
    """The function-preserving reverse, for training on from an exported folder: channels that stand out are scaled
    back to the median of their kind, and the outlier pairs of the keys by their known factors."""
    sd = {k: v.clone().float() for k, v in sd.items()}
    g = HEADS // KV
    for i in range(LAYERS):
        p = "layers.%d." % i
        size = {n: sd[p + n + ".weight"].abs() for n in ("n1", "n2")}
        size["up"] = sd[p + "up.weight"].norm(dim=1)
        for name, mats in (("n1", "q k v"), ("n2", "gate up"), ("up", "down")):
            f = size[name] / size[name].median()
            f[f < 5] = 1
            w = sd[p + name + ".weight"]
            w /= f if w.dim() == 1 else f[:, None]
            for m in mats.split():
                sd[p + m + ".weight"] *= f
        for h, pairs in KEYS.items():
            for pair, c in pairs:
                for d in (pair, pair + HEAD // 2):
                    sd[p + "k.weight"][h * HEAD + d] /= c
                    for q in range(h * g, h * g + g):
                        sd[p + "q.weight"][q * HEAD + d] *= c
    return sd


def names(sd):
    out = {}
    for k, v in sd.items():
        if k == "embed.weight":
            n = "model.embed_tokens.weight"
        elif k == "norm.weight":
            n = "model.norm.weight"
        elif k == "head.weight":
            n = "lm_head.weight"
        else:
            _, i, part, kind = k.split(".")
            n = "model.layers.%s." % i + {"n1": "input_layernorm", "n2": "post_attention_layernorm"}.get(
                part, ("self_attn." if part in "qkvo" else "mlp.") + part + "_proj") + "." + kind
        out[n] = v.to(torch.bfloat16).contiguous()
    return dict(sorted(out.items()))


def config(arch, max_positions):
    c = {"architectures": [CLASS[arch]], "model_type": arch, "vocab_size": VOCAB, "hidden_size": HIDDEN,
         "intermediate_size": INTER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
         "num_key_value_heads": KV, "head_dim": HEAD, "hidden_act": "silu", "max_position_embeddings": max_positions,
         "rms_norm_eps": ARCH[arch]["eps"], "rope_theta": THETA, "rope_scaling": None,
         "tie_word_embeddings": arch not in UNTIED, "attention_dropout": 0.0, "initializer_range": 0.02,
         "use_cache": True, "bos_token_id": BOS, "eos_token_id": EOS, "torch_dtype": "bfloat16"}
    if arch == "qwen2":
        c.update(use_sliding_window=False, sliding_window=None, max_window_layers=LAYERS)
    elif arch == "mistral":
        c.update(sliding_window=None)
    else:
        c.update(attention_bias=False, mlp_bias=False)
    return c


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--work", required=True)
    a.add_argument("--arch", required=True, choices=sorted(ARCH))
    a.add_argument("--out", required=True)
    a.add_argument("--checkpoint", nargs="+", help="default: WORK/tiny-ARCH.pt; several: their mean")
    a.add_argument("--max-positions", type=int, default=4096)
    o = a.parse_args()
    from tokenizers import Tokenizer
    here = os.path.dirname(os.path.abspath(__file__))
    tok = Tokenizer.from_file(os.path.join(o.work, "tokenizer", "qwen2.json"))
    calib = tok.encode(open(os.path.join(here, "..", "datasets", "embedded", "calib.txt")).read()).ids
    all_sd = [torch.load(c) for c in o.checkpoint or [os.path.join(o.work, "tiny-%s.pt" % o.arch)]]
    sd = {k: sum(x[k] for x in all_sd) / len(all_sd) for k in all_sd[0]}
    if o.arch in UNTIED and "head.weight" not in sd:
        sd["head.weight"] = sd["embed.weight"].clone()
    if ARCH[o.arch]["bias"] and "layers.0.k.bias" not in sd:
        for i in range(LAYERS):
            for p in "qkv":
                sd["layers.%d.%s.bias" % (i, p)] = torch.zeros(sd["layers.%d.%s.weight" % (i, p)].shape[0])
    sd = transform(sd, o.arch, rank_channels(sd, torch.tensor([calib[:2048]]), o.arch))
    os.makedirs(o.out, exist_ok=True)
    save_file(names(sd), os.path.join(o.out, "model.safetensors"), metadata={"format": "pt"})
    os.chmod(os.path.join(o.out, "model.safetensors"), 0o644)
    shutil.copy(os.path.join(o.work, "tokenizer", o.arch + ".json"), os.path.join(o.out, "tokenizer.json"))
    bos = o.arch != "qwen2"
    for name, obj in (
            ("config.json", config(o.arch, o.max_positions)),
            ("generation_config.json", {"bos_token_id": BOS, "eos_token_id": EOS, "do_sample": False}),
            ("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": bos,
                                       "add_eos_token": False, "bos_token": BOS_TEXT if bos else None,
                                       "eos_token": EOS_TEXT, "pad_token": EOS_TEXT, "unk_token": None,
                                       "clean_up_tokenization_spaces": False, "model_max_length": o.max_positions})):
        with open(os.path.join(o.out, name), "w") as f:
            json.dump(obj, f, indent=2)
            f.write("\n")
    n = sum(v.numel() for v in sd.values())
    print(o.out, n, "parameters,", os.path.getsize(os.path.join(o.out, "model.safetensors")), "bytes")


if __name__ == "__main__":
    main()
