#!/usr/bin/env python3
"""Small versions of the tasks, for the embedded models (Python standard library only, seeded).

Rows have the fields of the official files, so that one description (datasets/tasks/*.toml) asks both. What they ask is
made of the people and phrases of generate.py: the answer stands in the text, and a model finds it by looking back. They
measure whether a cache or weights still recall, not knowledge of the world.

    python datasets/tasks.py --out datasets/embedded/tasks
"""
import argparse
import hashlib
import json
import os
import random

import generate as g

SEED = 910000
ROWS = 100

# question, beginning of the answer, field that completes it, and what of it the sentence ends with
FIELDS = (("What is the number of {name}?", "The number of {name} is", "code"),
          ("What is the trade of {name}?", "{name} is the", "trade"),
          ("Where does {name} live?", "{name} lives in", "town"),
          ("Who is the {animal} of {name}?", "The {animal} of {name} is", "pet"),
          ("Which room has {name}?", "{name} has room", "room"))
STATED = {"code": "The number of {name} was {code}.",
          "trade": "Everyone in {town} knew {name}, the {trade}.",
          "town": "{name} the {trade} lived in {town}, at number {house} of {street} Street.",
          "pet": "The {animal} of {name} was called {pet}.",
          "room": "{name} kept a {colour} {thing} in room {room}."}


class Page:
    """Facts about `people` persons in free text, and one that is asked for."""

    def __init__(self, r, people, tokens):
        self.r, self.w = r, g.World(r, people)
        self.question, self.stem, self.field = r.choice(FIELDS)
        while len({getattr(p, self.field) for p in self.w.people}) < people or len({p.animal for p in self.w.people}) < people:
            self.w = g.World(r, people)
        facts = [STATED[self.field].format(**p.__dict__) for p in self.w.people]
        r.shuffle(facts)
        lines = g.fill([], max(1, tokens - sum(map(len, facts)) / 4.1), self.w.free)
        for fact in facts:
            lines.insert(r.randint(0, len(lines) // 2), fact)
        self.text = " ".join(lines)
        self.who = r.choice(self.w.people)

    def ask(self):
        return self.question.format(**self.who.__dict__)

    def begin(self):
        return self.stem.format(**self.who.__dict__)

    def values(self, count):
        """The right value among others of the page, and its place."""
        right = getattr(self.who, self.field)
        others = [getattr(p, self.field) for p in self.w.people if p is not self.who]
        out = self.r.sample(others, count - 1) + [right]
        self.r.shuffle(out)
        return out, out.index(right)


def hellaswag(r, i):
    p = Page(r, 4, 200)
    endings, label = p.values(4)
    return {"ind": i, "activity_label": "The " + p.w.title, "ctx_a": p.text + " " + p.ask() + " " + p.begin(), "ctx_b": "",
            "endings": [e + "." for e in endings], "label": label}


def winogrande(r, i):
    p = Page(r, 2, 160)
    names = [x.name for x in p.w.people]
    frame = {"code": "The number of _ was {code}.", "trade": "_ is the {trade}.", "town": "_ lives in {town}.",
             "pet": "_ called {his} {animal} {pet}, and {pet} came.", "room": "_ has room {room}."}[p.field]
    return {"qID": "page-%03d" % i, "sentence": p.text + " " + frame.format(**p.who.__dict__),
            "option1": names[0], "option2": names[1], "answer": str(1 + names.index(p.who.name))}


def arc(r, i, people, tokens):
    p = Page(r, people, tokens)
    values, gold = p.values(4)
    labels = "1234" if r.random() < .2 else "ABCD"
    return {"id": "page-%03d" % i, "question": {
        "stem": p.text + " " + p.ask(),
        "choices": [{"text": p.begin() + " " + v + ".", "label": l} for v, l in zip(values, labels)]},
        "answerKey": labels[gold]}


def piqa(r, i):
    p = Page(r, 3, 180)
    values, label = p.values(2)
    return {"goal": p.text + " " + p.ask(), "sol1": p.begin() + " " + values[0] + ".",
            "sol2": p.begin() + " " + values[1] + "."}, label


def openbookqa(r, i):
    p = Page(r, 4, 200)
    values, gold = p.values(4)
    return {"id": "page-%03d" % i, "question": {
        "stem": p.text + " " + p.ask() + " " + p.begin(),
        "choices": [{"text": v, "label": l} for v, l in zip(values, "ABCD")]}, "answerKey": "ABCD"[gold]}


def boolq(r, i):
    """The question was answered before. Asked as boolq_words.toml: the models never saw "yes" and "no"."""
    p = Page(r, 3, 160)
    answer = r.random() < .5
    p.who.colour = "red" if answer else "blue"
    question = "is the %s of %s blue or red" % (p.who.thing, p.who.name)
    marked = "\nQuestion: %s?\nAnswer: %s\n" % (question, p.who.colour)
    rest = " ".join(g.fill([], 60, p.w.free))
    fact = "The {colour} {thing} belonged to {name} of {town}.".format(**p.who.__dict__)
    return {"question": question, "title": p.w.title, "passage": fact + " " + p.text + marked + rest, "answer": answer}


SUBJECTS = ("numbers", "trades", "towns", "animals")


def mmlu(r, i):
    """The letter was marked before."""
    p = Page(r, 4, 160)
    values, gold = p.values(4)
    marked = "%s\nAnswer: %s\n" % (p.ask(), "ABCD"[gold])
    rest = " ".join(g.fill([], 60, p.w.free))
    return {"question": p.text + " " + marked + rest + " " + p.ask(), "subject": SUBJECTS[i % 4], "choices": values, "answer": gold}


def recall(r, i):
    """A number of the page, to be written."""
    p = Page(r, 4, 200)
    while p.field not in ("code", "room"):
        p = Page(r, 4, 200)
    return {"question": p.text + " " + p.ask() + " " + p.begin(), "answer": getattr(p.who, p.field)}


def jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def files():
    def rows(kind, make, count=ROWS):
        r = random.Random("%d %s" % (SEED, kind))
        return [make(r, i) for i in range(count)]
    physical = rows("piqa", piqa)
    return {"hellaswag.jsonl": jsonl(rows("hellaswag", hellaswag)),
            "winogrande.jsonl": jsonl(rows("winogrande", winogrande)),
            "arc_easy.jsonl": jsonl(rows("arc_easy", lambda r, i: arc(r, i, 4, 160))),
            "arc_challenge.jsonl": jsonl(rows("arc_challenge", lambda r, i: arc(r, i, 6, 400))),
            "piqa.jsonl": jsonl(row for row, _ in physical),
            "piqa-labels.lst": "".join("%d\n" % label for _, label in physical),
            "boolq.jsonl": jsonl(rows("boolq", boolq)),
            "openbookqa.jsonl": jsonl(rows("openbookqa", openbookqa)),
            "recall.jsonl": jsonl(rows("recall", recall)),
            "mmlu.jsonl": jsonl(rows("mmlu", mmlu)),
            "mmlu_dev.jsonl": jsonl(rows("mmlu_dev", mmlu, 20))}


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--out", required=True, help="folder for the files")
    o = a.parse_args()
    os.makedirs(o.out, exist_ok=True)
    for name, text in files().items():
        data = text.encode()
        with open(os.path.join(o.out, name), "wb") as f:
            f.write(data)
        print(name, len(data), hashlib.sha256(data).hexdigest())


if __name__ == "__main__":
    main()
