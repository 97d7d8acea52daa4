#!/usr/bin/env python3
"""Generator of the embedded texts (Python standard library only, seeded).

Everything here is made of our own word lists and sentence frames; no text of others is used.
The texts are built so that a language model must look far back: every document draws its own
small vocabulary, its own people with fixed facts (home, trade, numbers, animals), its own fixed
phrases, and comes back to them again and again. A model whose key/value cache is damaged loses
these and its perplexity rises.

    python datasets/generate.py --out datasets/embedded          # writes the four committed files
    python datasets/generate.py --kind story --seed 5 --tokens 400   # prints one document

`models/train.py` imports `document()` and never uses the seeds of the committed files.
"""
import argparse
import hashlib
import json
import os
import random

# ---------------------------------------------------------------- word lists
W = str.split
TRADES = W("baker miller weaver potter carpenter teacher doctor sailor farmer gardener painter tailor "
           "clerk driver cook singer shepherd mason printer joiner glazier beekeeper fisher hunter "
           "librarian engineer surveyor postman barber smith")
ANIMALS = W("dog cat goat horse donkey parrot rabbit goose fox owl pony sheep raven duck hen mouse")
COLOURS = W("red blue green yellow white black brown grey golden silver purple orange pink copper")
THINGS = W("lantern box key book letter map coat hat boat wagon clock ladder basket bottle chair table "
           "mirror drum flute knife rope wheel bell candle picture ring stone bag barrel kettle lamp needle "
           "blanket shovel hammer saddle trunk window door gate jar comb fan cup plate spoon")
PLACES = W("mill bridge market harbour station church tower garden forest river hill valley field school "
           "library kitchen cellar attic barn workshop tavern bakery orchard meadow lake shore island cave "
           "square road quarry well fountain stable office hall museum theatre hospital")
FOODS = W("bread soup cheese apples pears plums honey fish rice beans potatoes cake porridge nuts eggs "
          "carrots onions butter berries mushrooms")
ADJ = W("old new small large quiet loud heavy light narrow wide bright dark warm cold early late strange "
        "plain broken clean dusty empty full gentle hard hollow long short low high rough smooth round "
        "sharp slow soft steep strong sweet tall thick thin tiny wet dry wild young careful careless "
        "famous hidden honest hungry lonely lucky patient proud rare simple sleepy spare sturdy useful")
NOUNS = W("morning evening winter summer rain snow wind storm cloud star moon sun shadow fire smoke water "
          "sand grass leaf tree branch root flower seed bird feather song story word name number page line "
          "mark sign price coin debt gift promise secret question answer reason plan mistake journey path "
          "corner wall roof floor step stair room bed shelf drawer lock chain wire pipe engine machine tool "
          "paper ink pencil brush cloth thread button pocket shoe glove hand eye voice face heart friend "
          "neighbour stranger child brother sister uncle aunt guest worker captain judge mayor crowd family "
          "village city country border north south east west hour minute week month year season supper "
          "breakfast feast dance game race prize test lesson rule law order list report message visit")
VERBS_T = W("found lost carried painted cleaned broke mended sold bought borrowed hid opened closed watched "
            "followed remembered forgot described counted measured moved lifted dropped pulled pushed "
            "covered wrapped washed burned filled emptied weighed marked touched kept took brought sent "
            "showed wanted needed liked feared missed praised examined ordered chose built drew")
VERBS_I = W("waited slept laughed smiled walked ran rested worked sang listened stopped turned stayed "
            "left returned arrived shivered nodded hurried wandered climbed fell jumped whispered shouted "
            "travelled danced coughed sighed agreed")
ADV = W("slowly quickly quietly gladly sadly often never always sometimes again soon later today "
        "carefully suddenly finally already almost alone together outside inside upstairs nearby early")
PREPS = W("near behind under above beside inside outside before after beyond across along between around")
DAYS = W("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = W("January February March April May June July August September October November December")
STREETS = W("Mill Bridge Station Church Garden Harbour Market Orchard Quarry School Tower River Hill North South")
_ON = W("b br c d dr f g gr h j k kl l m n p r s sh st t th tr v w")
_NU = W("a e i o u a e o ai ei ou")
_MI = W("l r n m s t d v b nd rl st lm rt ss nn k")
_EN_P = W("a o in an el is en or us ia y et")
_EN_T = W("ton ford by ham wick stead mouth field bury dale mere port")

FILLERS = [
    "The grass is green. The sky is blue. The sun is yellow. Today is a beautiful day. ",
    "The road is long. The wind is cold. The house is old. Tomorrow is another day. ",
    "The river runs to the sea. The boats are tied. The gulls are loud. Nothing happens here. ",
    "One wheel turns another. The belt moves. The lamp glows. The work goes on. ",
    "Rain falls on the roof. The cat sleeps. The kettle sings. It is a quiet evening. ",
    "There is bread on the table. There is milk in the jug. There is time for everything. ",
]
PASS_NAME = ["passkey", "pass key", "password", "secret number", "code", "magic number"]
U_COMPAT = FILLERS[0]


def cap(s):
    return s[:1].upper() + s[1:]


def person_name(r):
    s = r.choice(_ON) + r.choice(_NU) + r.choice(_MI)
    if r.random() < 0.25:
        s += r.choice(_NU) + r.choice(_MI)
    return cap(s + r.choice(_EN_P))


def town_name(r):
    return cap(r.choice(_ON) + r.choice(_NU) + r.choice(_MI) + r.choice(_EN_T))


_pool = random.Random(99)
NAME_POOL = sorted({person_name(_pool) for _ in range(220)})
TOWN_POOL = sorted({town_name(_pool) for _ in range(90)})


def number(r):
    d = r.choice((2, 3, 3, 3, 4, 5, 5))
    return str(r.randint(10 ** (d - 1), 10 ** d - 1))


class Person:
    def __init__(self, r, used):
        while True:
            self.name = r.choice(NAME_POOL) if r.random() < 0.6 else person_name(r)
            if self.name not in used:
                break
        used.add(self.name)
        self.he, self.his, self.him = r.choice((("he", "his", "him"), ("she", "her", "her")))
        self.trade = r.choice(TRADES)
        self.town = r.choice(TOWN_POOL) if r.random() < 0.6 else town_name(r)
        self.colour = r.choice(COLOURS)
        self.thing = r.choice(THINGS)
        self.animal = r.choice(ANIMALS)
        while True:
            self.pet = person_name(r)
            if self.pet not in used:
                break
        used.add(self.pet)
        self.food = r.choice(FOODS)
        self.house = str(r.randint(2, 99))
        self.street = r.choice(STREETS)
        self.code = number(r)
        self.room = str(r.randint(100, 999))
        self.day = r.choice(DAYS)
        self.month = r.choice(MONTHS)
        self.place = r.choice(PLACES)


# frames that state facts of a person; the facts stay the same in the whole document
FACTS = [
    "{name} the {trade} lived in {town}, at number {house} of {street} Street.",
    "The {animal} of {name} was called {pet}.",
    "{name} kept a {colour} {thing} in room {room}.",
    "The number of {name} was {code}.",
    "{name} always ate {food} on {day}.",
    "Everyone in {town} knew {name}, the {trade}.",
    "{pet} the {animal} slept beside the {colour} {thing} of {name}.",
    "The {colour} {thing} belonged to {name} of {town}.",
    "{name} was born in {month} and worked near the {place}.",
    "Whoever wanted the {trade} had to ask for {name} at number {house} of {street} Street.",
    "\"My number is {code},\" said {name}, \"and my room is {room}.\"",
    "\"I come from {town},\" said {name}, \"and {pet} comes with me.\"",
    "On {day} {name} walked to the {place} with {pet} and brought {food} home.",
    "In the book of the {place} stood: {name}, {trade}, {town}, {code}.",
    "{name} wrote {code} on the {thing}, because {code} was {his} number.",
    "Nobody but {name} had a {colour} {thing}.",
    "The door of room {room} belonged to {name}; the {colour} {thing} was behind it.",
    "{name} called {his} {animal} {pet}, and {pet} came.",
]
ASK = [
    ("What is the number of {name}? The number of {name} is {code}."),
    ("Where does {name} live? {name} lives in {town}."),
    ("What is the trade of {name}? {name} is the {trade}."),
    ("Who is the {animal} of {name}? The {animal} of {name} is {pet}."),
    ("What does {name} keep in room {room}? A {colour} {thing}."),
    ("Which room has {name}? {name} has room {room}."),
    ("When does {name} eat {food}? On {day}."),
    ("In which street lives {name}? In {street} Street, at number {house}."),
]


class World:
    """The private vocabulary, people and phrases of one document."""

    def __init__(self, r, people):
        self.r = r
        used = set()
        self.people = [Person(r, used) for _ in range(people)]
        s = lambda xs, k: r.sample(xs, k)
        self.adj, self.nouns, self.vt = s(ADJ, 9), s(NOUNS, 16), s(VERBS_T, 9)
        self.vi, self.adv, self.pre = s(VERBS_I, 6), s(ADV, 6), s(PREPS, 5)
        self.things, self.places, self.foods = s(THINGS, 7), s(PLACES, 6), s(FOODS, 5)
        self.phrases = [self.np() + " " + r.choice(self.pre) + " " + self.np() for _ in range(5)]
        self.sayings = [cap(self.clause()) + ", " + r.choice(("and", "but", "so")) + " " + self.clause()
                        for _ in range(4)]
        self.title = cap(r.choice(self.adj)) + " " + cap(r.choice(self.nouns))

    def noun(self):
        r = self.r
        k = r.random()
        return r.choice(self.nouns if k < .6 else self.things if k < .85 else self.places)

    def np(self):
        r = self.r
        if r.random() < .55:
            adj = r.choice(self.adj)
            det = r.choice(("the", "a", "the", "this", "every"))
            return ("an" if det == "a" and adj[0] in "aeiou" else det) + " " + adj + " " + self.noun()
        return "the " + self.noun()

    def clause(self):
        r = self.r
        k = r.random()
        subj = self.np() if k < .5 else r.choice(self.people).name if self.people else "someone"
        if r.random() < .6:
            s = subj + " " + r.choice(self.vt) + " " + self.np()
        else:
            s = subj + " " + r.choice(self.vi)
        if r.random() < .4:
            s += " " + r.choice(self.adv)
        if r.random() < .4:
            s += " " + r.choice(self.pre) + " " + self.np()
        return s

    def free(self):
        r = self.r
        k = r.random()
        p = r.choice(self.people)
        if k < .35:
            return cap(self.clause()) + "."
        if k < .5:
            return cap(self.clause()) + r.choice((", and ", ", but ", ", because ", " while ")) + self.clause() + "."
        if k < .62:
            return cap(r.choice(self.phrases)) + " " + r.choice(("was still there", "had not changed", "came to mind")) + "."
        if k < .72:
            return "\"" + cap(self.clause()) + ",\" said " + p.name + "."
        if k < .82:
            return p.name + " thought of " + r.choice(self.phrases) + "."
        if k < .9:
            return "As they say in " + p.town + ": " + r.choice(self.sayings) + "."
        xs = r.sample(self.things, 3)
        return p.name + " counted " + ", ".join("the " + x for x in xs[:2]) + " and the " + xs[2] + "."

    def fact(self, p=None):
        p = p or self.r.choice(self.people)
        return self.r.choice(FACTS).format(**p.__dict__)

    def ask(self, p=None):
        p = p or self.r.choice(self.people)
        return self.r.choice(ASK).format(**p.__dict__)


def fill(parts, tokens, nxt, sep=" "):
    """Appends nxt() until the text has about `tokens` tokens (4.1 characters each)."""
    n = sum(map(len, parts))
    while n < tokens * 4.1:
        s = nxt()
        parts.append(s)
        n += len(s) + len(sep)
    return parts


def story(r, tokens, people=None):
    w = World(r, people or max(1, min(8, 2 + tokens // 400)))
    out, n, chapter = ["The " + w.title], 0, 0
    limit = tokens * 4.1
    while n < limit:
        if tokens > 700 and (chapter == 0 or r.random() < .06):
            chapter += 1
            p = "Chapter " + str(chapter) + ". " + r.choice(w.people).name + " and the " + r.choice(w.things)
        else:
            main = r.choice(w.people)
            ss = [w.fact(main)]
            for _ in range(r.randint(3, 7)):
                k = r.random()
                ss.append(w.free() if k < .5 else w.fact(main) if k < .72 else w.fact() if k < .92 else w.ask())
            p = " ".join(ss)
        out.append(p)
        n += len(p) + 1
    return "\n".join(out)


def records(r, tokens):
    """Key-value lists, asked again in another order."""
    w = World(r, max(2, min(40, tokens // 30)))
    sep = r.choice((": ", " = ", " has number ", " - "))
    field = r.choice(("code", "room", "town", "pet", "trade", "code"))
    rows = [p.name + sep + getattr(p, field) for p in w.people]
    out = [r.choice(("Register of ", "List of ", "Book of ")) + r.choice(w.people).town]

    def again():
        r.shuffle(rows)
        return "\n".join(rows) + "\n" + (w.free() if r.random() < .3 else "Once more:")
    return "\n".join(fill(out, tokens, again, "\n"))


def facts(r, tokens):
    """Facts first, unrelated text, then questions about them."""
    w = World(r, max(1, min(9, 1 + tokens // 150)))
    first = [w.fact(p) for p in w.people for _ in range(3)]
    r.shuffle(first)
    mid = fill([], tokens * r.uniform(.2, .5), w.free)
    head = " ".join(first) + "\n" + " ".join(mid) + "\n"
    tail = fill([], max(20, tokens - len(head) / 4.1), w.ask, "\n")
    return head + "\n".join(tail)


def table(r, tokens):
    w = World(r, max(2, min(14, tokens // 60)))
    cols = r.sample(["trade", "town", "code", "room", "pet", "food", "day"], 3)
    head = "| name | " + " | ".join(cols) + " |"

    def again():
        r.shuffle(w.people)
        rows = ["| " + p.name + " | " + " | ".join(getattr(p, c) for c in cols) + " |" for p in w.people]
        return "\n".join([head] + rows) + "\n" + " ".join(w.fact() if r.random() < .4 else w.free() for _ in range(2))
    return "\n".join(fill(["Table of " + w.title], tokens, again, "\n"))


def repeat(r, tokens):
    """A random sequence of words or numbers, then the same again: the shortest way to learn copying."""
    pool = r.choice((NOUNS, THINGS, NAME_POOL, TOWN_POOL, None, None))
    k = r.randint(4, max(5, min(60, tokens // 5)))
    xs = [number(r) if pool is None else r.choice(pool) for _ in range(k)]
    sep = r.choice((", ", " ", "; ", "\n"))
    line = sep.join(xs)
    return r.choice(("\n", ". Again: ", "\n")).join(fill([], tokens, lambda: line))


def passkey(r, tokens, exact=False):
    """A number hidden in repeated filler. `exact` is the wording of the benchmark prompt."""
    key = str(r.randint(10000, 99999))
    if exact:
        u, what = U_COMPAT, "passkey"
        needle = "\nThe passkey to remember is %s. Remember it.\n" % key
        ask = "\nWhat is the passkey? The passkey is "
    else:
        u = r.choice(FILLERS)
        what = r.choice(PASS_NAME) if r.random() < .6 else "number of " + r.choice(NAME_POOL)
        needle = r.choice(("\nThe %s to remember is %s. Remember it.\n", "\nThe %s is %s. Do not forget it.\n",
                           "\nRemember this: the %s is %s.\n")) % (what, key)
        ask = r.choice(("\nWhat is the %s? The %s is " % (what, what), "\nThe %s is " % what))
    n = max(2, int((tokens * 4.1 - len(needle) - len(ask)) / len(u)))
    before = max(1, int(n * r.random()))
    s = u * before + needle + u * max(1, n - before) + ask + key + "."
    if r.random() < .5:
        s += " Remember it.\n"
    return s


def many_keys(r, tokens, dense=False):
    """Several numbers in filler or free text, all asked at the end."""
    w = World(r, 3)
    k = max(1, min(20, tokens // r.choice((50, 80, 150))) if dense else min(12, tokens // 60))
    names = r.sample(sorted(set(THINGS)), k)
    keys = {x: number(r) for x in names}
    kind = r.choice(PASS_NAME[:1] * 3 + PASS_NAME[2:])
    u = r.choice(FILLERS)
    plain = r.random() < .5
    body = []
    gap = max(8, (tokens - k * 34) / k)
    for x in names:
        body.append("\nThe %s of the %s is %s. Remember it.\n" % (kind, x, keys[x]))
        body.append(u * max(1, int(gap * 4.1 / len(u))) if plain else " ".join(fill([], gap, w.free)))
    order = names[:]
    r.shuffle(order)
    return "".join(body) + "".join("\nWhat is the %s of the %s? The %s of the %s is %s." % (kind, x, kind, x, keys[x])
                                   for x in order)


# Wordings of the retrieval suite (include/ptq/data/retrieval_prompt.hpp); other draws, other fillers.
ORDINALS = W("first second third fourth")


def suite_keys(r, k):
    names = set()
    while len(names) < k:
        names.add(r.choice(ADJ) + " " + r.choice(THINGS + NOUNS))
    names = sorted(names)
    r.shuffle(names)
    return names


def haystack(r, w, tokens, needles):
    """Needles in random places of filler lines, one fixed filler or free text."""
    u, plain = r.choice(FILLERS).strip(), r.random() < .5
    lines = fill([], max(1, tokens - sum(map(len, needles)) / 4.1),
                 (lambda: u) if plain else lambda: " ".join(w.free() for _ in range(r.randint(1, 3))), "\n")
    for x in needles:
        lines.insert(r.randint(0, len(lines)), x)
    return "\n".join(lines)


def suite_values(r, tokens):
    """Passkeys of several things, or several numbered passkeys of one; asked one by one or all in one go."""
    w = World(r, 3)
    numbered = r.random() < .6
    k = max(1, min(r.choice((1, 1, 4, 8, 16, 40)), tokens // 60))
    if r.random() < .15:
        k = max(2, tokens // 45)                                   # every line is a needle
    stems, groups = [], []                                         # what stands before " is <value>"
    for n in suite_keys(r, k):
        g = ["The %s passkey of the %s" % (o, n) for o in ORDINALS] if numbered and r.random() < .7 else ["The passkey of the " + n]
        stems += g
        groups.append((n, g))
    value = {x: str(r.randint(10000, 99999)) for x in stems}
    needles = ["%s is %s. Remember it." % (x, value[x]) for x in stems]
    r.shuffle(needles)
    out = [haystack(r, w, max(1, tokens - 42 * min(len(stems), 14)), needles)]
    r.shuffle(groups)
    n = 0
    while groups and n < 14:
        many = [g for g in groups if len(g[1]) > 1]
        if many and r.random() < .6:
            name, g = many[0]
            groups.remove(many[0])
            q = "What are the %d passkeys of the %s?" % (len(g), name)
        elif len(groups) >= 2 and r.random() < .8:
            take = [x for x in groups if len(x[1]) == 1][:r.choice((2, 4, 4, 4))]
            if not take:
                continue
            groups = [x for x in groups if x not in take]
            g = [x[1][0] for x in take]
            names = ["the " + x[0] for x in take]
            q = "What are the passkeys of %s?" % " and ".join([", ".join(names[:-1])] * (len(names) > 1) + names[-1:])
        else:
            name, g = groups.pop()
            if len(g) > 1:
                g = [r.choice(g)]
            q = "What is %s?" % (g[0][0].lower() + g[0][1:])
        out.append(q + "".join(" %s is %s." % (x, value[x]) for x in g))
        n += len(g)
    return "\n".join(out)


def suite_hops(r, tokens):
    """Numbers that pass from thing to thing; the questions follow them."""
    w = World(r, 3)
    chains = []
    for _ in range(max(1, min(r.choice((1, 2, 4, 6)), tokens // 120))):
        chains.append((str(r.randint(10000, 99999)), r.choice((1, 2, 2, 4))))
    names = suite_keys(r, sum(h + 1 for _, h in chains) + 2)
    needles, asks, example = [], [], []
    if r.random() < .5:                                            # how such a question is answered
        steps = "The number %d is in the %s. The number in the %s is also in the %s." % (
            r.randint(100, 999), names[0], names[0], names[1])
        example = [steps, "Which 2 things hold the number %s? " % steps.split()[2] + steps]
    names = names[2:]
    for v, h in chains:
        t, names = names[:h + 1], names[h + 1:]
        steps = ["The number %s is in the %s." % (v, t[0])]
        steps += ["The number in the %s is also in the %s." % (a, b) for a, b in zip(t, t[1:])]
        needles.append(steps)
        asks.append("Which %d things hold the number %s? " % (h + 1, v) + " ".join(steps))
    order, left = [], [list(x) for x in needles]
    while any(left):                                               # each chain keeps its order
        x = r.choice([y for y in left if y])
        order.append(x.pop(0))
    lines = haystack(r, w, max(1, tokens - 2 * sum(map(len, order)) / 4.1), []).split("\n")
    at = sorted(r.randint(0, len(lines)) for _ in order)
    for i, x in reversed(list(zip(at, order))):
        lines.insert(i, x)
    r.shuffle(asks)
    return "\n".join(example + lines + asks)


KINDS = {"story": story, "records": records, "facts": facts, "table": table, "repeat": repeat,
         "passkey": passkey, "passkey_exact": lambda r, t: passkey(r, t, True), "many_keys": many_keys,
         "dense_keys": lambda r, t: many_keys(r, t, True), "suite_values": suite_values, "suite_hops": suite_hops}
MIX = (("story", 32), ("facts", 11), ("records", 9), ("table", 6), ("repeat", 6), ("passkey", 8),
       ("passkey_exact", 14), ("dense_keys", 14))
# of the training that follows: the wordings of the retrieval suite
SUITE_MIX = (("story", 20), ("facts", 4), ("records", 4), ("table", 2), ("repeat", 2), ("passkey", 2),
             ("passkey_exact", 6), ("dense_keys", 2), ("suite_values", 34), ("suite_hops", 24))


def document(r, tokens, kind=None, mix=MIX):
    """One document of about `tokens` tokens; `r` is a random.Random."""
    if kind is None:
        kind = r.choices([k for k, _ in mix], [n for _, n in mix])[0]
    return KINDS[kind](r, tokens)


# ---------------------------------------------------------------- the committed files
SEEDS = {"test.txt": 900001, "calib.txt": 900002, "books.jsonl": 900003, "long.jsonl": 900004}


def running_text(seed, tokens):
    """Long stories (about 3000 tokens each) with one shorter page of facts, records or a table after each."""
    r = random.Random(seed)
    docs, n = [], 0
    while n < tokens * 4.1:
        d = [story(r, 3000), document(r, 700, r.choice(("facts", "records", "table")))]
        docs += d
        n += sum(map(len, d))
    return "\n\n".join(d.replace("\n\n", "\n").strip() for d in docs) + "\n"


def books(seed, count=20, tokens=2500):
    r = random.Random(seed)
    return "".join(json.dumps({"id": "book-%02d" % i, "text": story(r, tokens, people=7)}) + "\n"
                   for i in range(count))


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--out", help="folder for test.txt, calib.txt and books.jsonl")
    a.add_argument("--tokens", type=int, default=None, help="approximate tokens per running text / per document")
    a.add_argument("--kind", choices=sorted(KINDS), help="print one document of this kind instead")
    a.add_argument("--seed", type=int, default=1, help="seed of the printed document")
    o = a.parse_args()
    if not o.out:
        print(document(random.Random(o.seed), o.tokens or 300, o.kind))
        return
    os.makedirs(o.out, exist_ok=True)
    files = {"test.txt": running_text(SEEDS["test.txt"], o.tokens or 40000),
             "calib.txt": running_text(SEEDS["calib.txt"], o.tokens or 40000),
             "books.jsonl": books(SEEDS["books.jsonl"]),
             "long.jsonl": books(SEEDS["long.jsonl"], count=2, tokens=34000)}
    for name, text in files.items():
        data = text.encode()
        with open(os.path.join(o.out, name), "wb") as f:
            f.write(data)
        print(name, len(data), hashlib.sha256(data).hexdigest())


if __name__ == "__main__":
    main()
