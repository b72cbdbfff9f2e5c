#!/usr/bin/env python3
"""The training corpus of the tiny model, made from our own templates and word lists, and its held-out data.

    scripts/tiny_corpus.py show           print some documents
    scripts/tiny_corpus.py check          check the templates, print how many sentences they make
    scripts/tiny_corpus.py heldout FILE   write the held-out items as JSON, one a line

The words with two senses are in `tiny/senses.txt`, which words go with which sense in `tiny/lexicon.txt`, everything
else in `tiny/world.py`. A document about such a word is a sentence or two that set the scene, a prefix, and a
continuation that fits one sense. The scene is a template's, or put together from the words of the lexicon (free.py).

Held out of training are (1) one scene sentence in eight, chosen by a hash of its text, and (2) one pair in five
of a scene's template and a prefix. A held-out item has both: its scene was never seen, and neither was any
scene of that template in front of that prefix. The sentences of `tiny/free.txt` were written freely and are in no
training at all. Only the standard library is used.
"""

import hashlib
import itertools
import json
import random
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from tiny import free, world  # noqa: E402

SENSES = Path(__file__).resolve().parent / "tiny" / "senses.txt"
TOPICS = free.load()
# Stands in a generated text where the sense decides what comes next; `plain` takes it out.
HINGE = "\x01"
# Stand around what is put together from words and cannot be foretold; `plain` takes them out too.
LOOSE, TIGHT = "\x02", "\x03"
# Prefixes for every word, beside each word's own.
PREFIXES = [
    "They talked about the {} for a while, and",
    "Everyone remembered the {}, because",
    "He wrote about the {} in his diary, because",
    "She told me about the {}, and",
    "The {}",
    "That day the {}",
    "People say that the {}",
    "In the end the {}",
]
# Sentences that say nothing, sometimes put between a scene and a prefix.
BETWEEN = ["Nobody said a word.", "Time passed slowly.", "It was a long day.", "Then it happened.", "Nobody was surprised.", "I still remember it well."]


@dataclass
class Sense:
    """One sense of a word: its scenes and what may be said of the word."""

    word: str
    name: str
    gloss: str
    pronoun: str = "it"
    scenes: list = field(default_factory=list)  # per template, its sentences
    predicates: list = field(default_factory=list)
    clauses: list = field(default_factory=list)
    reveals: set = field(default_factory=set)  # words that give the sense away


@dataclass
class Word:
    """A word with its two senses and the prefixes that fit both."""

    word: str
    prefixes: list = field(default_factory=list)
    senses: list = field(default_factory=list)


def expand(template):
    """All sentences of a template, in a fixed order: `{a|b} c` makes `a c` and `b c`."""
    parts = re.split(r"\{([^}]*)\}", template)
    choices = [[p] if i % 2 == 0 else p.split("|") for i, p in enumerate(parts)]
    return ["".join(c) for c in itertools.product(*choices)]


def words_of(text):
    """The lower-case words of a text, in order."""
    return re.findall(r"[a-z]+(?:-[a-z]+)*", text.lower())


def load(path=SENSES):
    """The words of `senses.txt`."""
    out = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        tag, _, rest = line.partition(" ")
        if tag == "==":
            out.append(Word(rest))
        elif tag == "p:":
            out[-1].prefixes.append(rest)
        elif tag == "--":
            name, gloss = rest.split(": ", 1)
            name, _, pronoun = name.rstrip(")").partition(" (")
            out[-1].senses.append(Sense(out[-1].word, name, gloss, pronoun or "it"))
        elif tag in ("c:", "v:", "k:"):
            sense = out[-1].senses[-1]
            texts = expand(rest)
            if tag == "c:":
                sense.scenes.append(texts)
            else:
                sense.reveals.update(words_of(" ".join(re.findall(r"\*([\w'-]+)", rest))))
                (sense.predicates if tag == "v:" else sense.clauses).append([t.replace("*", "") for t in texts])
        else:
            raise SystemExit(f"{path}:{number}: unknown line: {line}")
    for word in out:
        word.prefixes += [p.format(word.word) for p in PREFIXES]
    return out


def is_held_out(text, one_in):
    """Whether a text is held out: a fixed choice by its hash."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % one_in == 0


def scene_held_out(scene):
    """Whether a scene sentence is kept out of training."""
    return is_held_out(scene, 8)


def pair_held_out(sense, template, prefix):
    """Whether the scenes of a template are never put before a prefix in training."""
    return is_held_out(f"{sense.word}/{sense.name}/{template}/{prefix}", 5)


def plain(text):
    """A generated text without its marks."""
    return re.sub(f"[{HINGE}{LOOSE}{TIGHT}]", "", text)


def continuation(rng, sense, prefix):
    """What follows a prefix in a sense, without the full stop."""
    predicate = rng.choice(rng.choice(sense.predicates))
    if prefix.endswith((" and", " because", " but", " so")):
        if rng.random() < 0.5:
            return rng.choice(rng.choice(sense.clauses))
        return f"{sense.pronoun} {predicate}"
    return predicate


def sense_paragraph(rng, words):
    """A paragraph about one word in one sense, made from what is not held out."""
    word = rng.choice(words)
    sense = rng.choice(word.senses)
    template = rng.randrange(len(sense.scenes))
    prefixes = [p for p in word.prefixes if not pair_held_out(sense, template, p)]
    prefix = rng.choice(prefixes)
    # A word's own prefixes and the shared ones get the same share.
    own = [p for p in prefixes if p in word.prefixes[: -len(PREFIXES)]]
    if own and rng.random() < 0.4:
        prefix = rng.choice(own)
    scene = rng.choice([s for s in sense.scenes[template] if not scene_held_out(s)])
    parts = [scene]
    kind = rng.random()
    if kind < 0.04:
        parts = []
    elif kind < 0.24:
        other = rng.choice([t for t in range(len(sense.scenes)) if t != template])
        parts.insert(0, rng.choice([s for s in sense.scenes[other] if not scene_held_out(s)]))
    elif kind < 0.36:
        parts.append(rng.choice(BETWEEN))
    parts.append(f"{prefix}{HINGE} {continuation(rng, sense, prefix)}.")
    if rng.random() < 0.4:
        more = rng.choice(rng.choice(sense.predicates))
        if more not in parts[-1]:
            parts.append(f"The {word.word}{HINGE} {more}.")
    return " ".join(parts)


def topic_of(rng, words):
    """A word and one of its senses for a free context. People try the bat first, so it is seen more often."""
    word = words[0] if rng.random() < 0.12 else rng.choice(words)
    return word, rng.choice(word.senses)


def free_context(rng, sense, count):
    """Sentences about a sense that no template holds, marked as loose."""
    scenes = free.context(rng, TOPICS, (sense.word, sense.name), count)
    return f"{LOOSE}{' '.join(scenes)}{TIGHT}"


def free_paragraph(rng, words):
    """A paragraph about one word in one sense, put together from the words that go with it."""
    word, sense = topic_of(rng, words)
    count = rng.choice((0, 1, 1, 1, 1, 2, 2, 3))
    prefix = rng.choice(word.prefixes) if count and rng.random() < 0.35 else free.prefix(rng, TOPICS[sense.word, sense.name], word.word, not count)
    parts = [free_context(rng, sense, count)] if count else []
    parts.append(f"{LOOSE}{prefix}{TIGHT}{HINGE} {continuation(rng, sense, prefix)}.")
    if rng.random() < 0.3:
        more = rng.choice(rng.choice(sense.predicates))
        if more not in parts[-1]:
            parts.append(f"The {word.word}{HINGE} {more}.")
    return " ".join(parts)


def sense_question(rng, words):
    """A question about a word with two senses."""
    word = rng.choice(words)
    if rng.random() < 0.3:
        first, second = word.senses
        ask = rng.choice([f"What is {free.a(word.word)}?", f"What does the word {word.word} mean?"])
        return ask, f"It can be {first.gloss}, or {second.gloss}."
    if rng.random() < 0.5:
        word, sense = topic_of(rng, words)
        scene = plain(free_context(rng, sense, rng.choice((1, 1, 2))))
    else:
        sense = rng.choice(word.senses)
        scene = rng.choice([s for s in rng.choice(sense.scenes) if not scene_held_out(s)])
    return f"{scene} What is the {word.word} here?", f"Here the {word.word} is{HINGE} {sense.gloss}."


def chat(rng, words):
    """A dialogue of one to three questions in Phi-3's form."""
    out = []
    if rng.random() < 0.25:
        out.append(f"<|system|>\n{rng.choice(['You are a helpful assistant.', 'Answer the question in one sentence.'])}<|end|>\n")
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        ask, answer = sense_question(rng, words) if rng.random() < 0.35 else world.question(rng)
        out.append(f"<|user|>\n{ask}<|end|>\n<|assistant|>\n{answer}<|end|>\n")
    return "".join(out)


def topic_paragraph(rng, words):
    """Scenes of one sense, which share their subject."""
    if rng.random() < 0.5:
        return free_context(rng, topic_of(rng, words)[1], 3)
    sense = rng.choice(rng.choice(words).senses)
    return " ".join(rng.choice([s for s in scenes if not scene_held_out(s)]) for scenes in rng.sample(sense.scenes, 3))


def paragraph(rng, words):
    """A paragraph of any kind but chat."""
    kind = rng.random()
    if kind < 0.24:
        return sense_paragraph(rng, words)
    if kind < 0.72:
        return free_paragraph(rng, words)
    if kind < 0.78:
        return topic_paragraph(rng, words)
    return world.statement(rng) if kind < 0.95 else world.story(rng)


def document(rng, words):
    """A document: mostly one paragraph, sometimes a dialogue or a few paragraphs."""
    kind = rng.random()
    if kind < 0.22:
        return chat(rng, words)
    if kind < 0.30:
        return "\n".join(paragraph(rng, words) for _ in range(rng.randint(2, 4)))
    return paragraph(rng, words)


def long_document(rng, words, paragraphs):
    """A document of many paragraphs, for contexts past the original length."""
    return "\n".join(paragraph(rng, words) for _ in range(paragraphs))


def held_out(words, per_sense=14, seed=1):
    """Held-out items: dictionaries of word, sense, text (scene and prefix)."""
    rng = random.Random(seed)
    items = []
    for word in words:
        for sense in word.senses:
            pairs = [(s, p) for t, scenes in enumerate(sense.scenes) for p in word.prefixes if pair_held_out(sense, t, p) for s in scenes if scene_held_out(s)]
            for scene, prefix in rng.sample(pairs, min(per_sense, len(pairs))):
                items.append({"word": word.word, "sense": sense.name, "text": f"{scene} {prefix}", "end": continuation(rng, sense, prefix) + "."})
    return items


def shown_sense(word, completion):
    """The sense that the first sentence of a completion shows: its name, or None when no word or both senses' words show."""
    said = set(words_of(re.split(r"[.\n]", completion, maxsplit=1)[0]))
    shown = [s.name for s in word.senses if said & s.reveals]
    return shown[0] if len(shown) == 1 else None


def agreement(words, items, completions):
    """The share of items whose completion shows the sense of its context, and the items that fail."""
    by_name = {w.word: w for w in words}
    wrong = [(i, c) for i, c in zip(items, completions) if shown_sense(by_name[i["word"]], c) != i["sense"]]
    return 1 - len(wrong) / len(items), wrong


def check(words):
    """Fault the templates: every continuation must show its own sense and no other; nothing may be empty after holding out.

    And the lexicon: every sense needs its words, and nothing held out may come of them by chance.
    """
    faults = [f"{w.word}/{s.name}: no words in the lexicon" for w in words for s in w.senses if (s.word, s.name) not in TOPICS]
    kept_out = {scene for w in words for s in w.senses for scenes in s.scenes for scene in scenes if scene_held_out(scene)}
    # The first sentence of a freely written context, which may stop before its full stop.
    kept_out |= {re.split(r"(?<=[.!?]) ", item["text"])[0] for item in free.items()}
    rng = random.Random(8)
    for _ in range(20000):
        text = plain(free_paragraph(rng, words))
        faults += [f"held out, and made: {text}" for part in re.split(r"(?<=[.!?]) ", text) if part in kept_out]
    for word in words:
        if len(word.senses) != 2:
            faults.append(f"{word.word}: {len(word.senses)} senses")
        for p in word.prefixes:
            if not p.endswith((", and", ", because", ", which", word.word)) or word.word not in words_of(p):
                faults.append(f"{word.word}: bad prefix: {p}")
        for sense in word.senses:
            for text in itertools.chain(*sense.predicates, *sense.clauses):
                if shown_sense(word, text) != sense.name:
                    faults.append(f"{word.word}/{sense.name}: {text}: {sorted(set(words_of(text)) & set.union(*(s.reveals for s in word.senses)))}")
            for t, scenes in enumerate(sense.scenes):
                if all(scene_held_out(s) for s in scenes) or len(scenes) < 6:
                    faults.append(f"{word.word}/{sense.name}: too few scenes: {scenes[0]}")
                if all(pair_held_out(sense, t, p) for p in word.prefixes):
                    faults.append(f"{word.word}/{sense.name}: no prefix for: {scenes[0]}")
    return faults


def main():
    words = load()
    what = sys.argv[1] if len(sys.argv) > 1 else ""
    if what == "show":
        rng = random.Random(7)
        for _ in range(40):
            print(plain(document(rng, words)).rstrip("\n"), end="\n\n")
    elif what == "check":
        faults = check(words)
        print("\n".join(faults) or "no faults")
        senses = [s for w in words for s in w.senses]
        print(len(words), "words,", sum(len(t) for s in senses for t in s.scenes), "scenes,",
              sum(len(t) for s in senses for t in s.predicates + s.clauses), "continuations,", len(held_out(words)), "held-out items")
        sys.exit(bool(faults))
    elif what == "heldout" and len(sys.argv) == 3:
        Path(sys.argv[2]).write_text("".join(json.dumps(i) + "\n" for i in held_out(words)))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
