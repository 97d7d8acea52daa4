#!/usr/bin/env python3
"""Builds the byte-level BPE tokenizer shared by the three embedded models.

Numbers are cut into groups of up to three digits, and all 1110 groups are tokens: their merges come
first (both "12"+"3" and "1"+"23", so plain BPE reaches the single token from either side). The other
merges are learned on generated text in which digits stand alone. 3072 tokens in all.

    python models/tokenizer.py --out WORK/tokenizer
"""
import argparse
import json
import os
import random
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "datasets"))
import generate

PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")
VOCAB = 3072
MIX = (("story", 38), ("facts", 12), ("records", 10), ("table", 7), ("repeat", 7), ("passkey", 6),
       ("passkey_exact", 10), ("many_keys", 10))           # documents that the merges are learned on
BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"


def split(pattern):
    return {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]}


def build(corpus_bytes=6_000_000, seed=77):
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    r, docs, n = random.Random(seed), [], 0
    while n < corpus_bytes:
        docs.append(generate.document(r, r.choice((60, 200, 800)), mix=MIX))
        n += len(docs[-1])
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")), "isolated", False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    t.train_from_iterator(docs, trainers.BpeTrainer(vocab_size=VOCAB - 1100 - 2, initial_alphabet=alphabet,
                                                    show_progress=False))
    learned = json.loads(t.to_str())["model"]["merges"]
    d = "0123456789"
    two = [a + b for a in d for b in d]
    merges = [[a, b] for a in d for b in d]
    merges += [[x, c] for x in two for c in d]
    merges += [[c, x] for c in d for x in two]
    tokens = alphabet + two + [x + c for x in two for c in d]
    seen = set(tokens)
    for a, b in learned:
        merges.append([a, b])
        if a + b not in seen:
            seen.add(a + b)
            tokens.append(a + b)
    assert len(tokens) == VOCAB - 2, len(tokens)
    return {"vocab": {x: i for i, x in enumerate(tokens)}, "merges": merges}


def tokenizer_json(bpe, arch):
    """arch: 'qwen2' (NFC, no BOS) or 'llama' / 'mistral' (BOS is prepended)."""
    special = [{"id": VOCAB - 2 + i, "content": x, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True} for i, x in enumerate((BOS, EOS))]
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    if arch == "qwen2":
        post = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    else:
        bos = {"SpecialToken": {"id": BOS, "type_id": 0}}
        post = {"type": "Sequence", "processors": [byte_level, {
            "type": "TemplateProcessing",
            "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}},
                     {"SpecialToken": {"id": BOS, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {BOS: {"id": BOS, "ids": [VOCAB - 2], "tokens": [BOS]}}}]}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": special,
            "normalizer": {"type": "NFC"} if arch == "qwen2" else None,
            "pre_tokenizer": split(PATTERN), "post_processor": post,
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                      "ignore_merges": arch != "qwen2", "vocab": bpe["vocab"],
                      "merges": [a + " " + b for a, b in bpe["merges"]]}}


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--out", required=True)
    o = a.parse_args()
    os.makedirs(o.out, exist_ok=True)
    bpe = build()
    for arch in ("qwen2", "mistral", "llama"):
        with open(os.path.join(o.out, arch + ".json"), "w") as f:
            json.dump(tokenizer_json(bpe, arch), f, ensure_ascii=False, indent=1)


if __name__ == "__main__":
    main()
