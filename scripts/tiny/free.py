"""Contexts without templates: sentences composed of words that belong to a sense (lexicon.txt).

A template teaches a whole sentence. What a user types shares at most a word or two with it, so the model must learn
which words indicate which sense, in any position. Here one to four of these words are put into neutral sentence
patterns, among names and neutral words, in front of a prefix in one of many forms.
Only the standard library is used.
"""

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

LEXICON = Path(__file__).resolve().parent / "lexicon.txt"
FREE = Path(__file__).resolve().parent / "free.txt"
# What an untrained eye would not tell from a topic: names, places and words that say nothing of any sense.
PEOPLE = (
    "Anna Maria Lisa Emma Sara Nina Carla Julia Ruth Alice Mary Kate Sophie Laura Clara Helen Tom David Paul Ben Jack Omar Peter John "
    "Sam Max Tim George Henry Daniel Ali Karim Ravi Chen Ivan Luis Pedro Mark Simon Fred"
).split()
KIN = (
    "my brother|my sister|my uncle|my aunt|my father|my mother|my cousin|my nephew|my wife|my husband|our neighbour|a friend of mine|"
    "somebody|everybody|a man|a woman|two men|an old man|an old lady|a stranger|the boy|the girl|the children|the others|grandpa|dad|mum"
).split("|")
PRONOUNS = ["he", "she", "they", "we", "I"]
TIMES = (
    "Yesterday|One day|Last week|Last year|On Monday|On Sunday|Later|A moment later|Then|Suddenly|At last|Every week|Long ago|"
    "For the first time|Once more|Last summer|This morning|Of course|As always|Out of nowhere|In the end|This time"
).split("|")
PLACES = "in the village|in our town|at home|over there|not far away|on the left|in the corner|near us|next door|outside|in the big city|on the other side".split("|")
SEEN = "saw|looked at|noticed|pointed at|talked about|asked about|thought of|remembered|forgot|found|liked|hated|photographed|described|showed us|loved|wrote about|laughed at|was proud of|could not find|dreamed of".split("|")
ADJECTIVES = "old|new|big|small|strange|good|bad|young|famous|poor|beautiful|first|last|second|other|whole|real|long|little|heavy|expensive|favourite".split("|")
NOTHING = (
    "Nobody said a word.|Time passed slowly.|It was a long day.|Then it happened.|Nobody was surprised.|I still remember it well.|What a day!|"
    "I have told this story many times.|You will not believe it.|It took us an hour.|The others were late.|We had waited for a year.|"
    "It went on like this for a while.|It was not the first time.|That was all.|We all knew it.|It was her idea.|He was forty years old.|"
    "My friends were there too.|I took a photo.|It happened so fast.|We were very happy.|She was not sure.|That is how it began.|"
    "Everybody looked.|I was still a child.|It was my first time.|They had come a long way.|You should have been there.|It was worth it."
).split("|")
SYLLABLES = "ba bel bor ca cor da del dor el fa fen ga gor ha hel ing ka kel lan lee lo ma mar mel mor na nor o pa pen ra ren ri ro sa sel sha ta tel ton tor va vel ver wa wen wick yo za".split()


@dataclass
class Topic:
    """The words that go with one sense, by what they can be in a sentence."""

    who: list = field(default_factory=list)
    what: list = field(default_factory=list)
    where: list = field(default_factory=list)
    did: list = field(default_factory=list)
    so: list = field(default_factory=list)
    with_: list = field(default_factory=list)  # `~` stands for the word

    @cached_property
    def content(self):
        """The words of more than three letters."""
        lines = self.who + self.what + self.where + self.did + self.so
        return set(re.findall(r"[a-z]{4,}", " ".join(lines).lower()))


def load(path=LEXICON):
    """The topics of lexicon.txt by word and sense."""
    out, topic = {}, None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        tag, _, rest = line.partition(" ")
        if tag == "==":
            topic = out[tuple(rest.split("/"))] = Topic()
        elif tag in ("who:", "what:", "where:", "did:", "so:", "with:"):
            kind = getattr(topic, "with_" if tag == "with:" else tag[:-1])
            kind += [part.strip() for part in rest.split(";")]
        else:
            raise SystemExit(f"{path}:{number}: unknown line: {line}")
    return out


def items(path=FREE):
    """The freely written beginnings of free.txt, as the held-out items of the corpus."""
    out = []
    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, text = line.partition(": ")
            word, _, sense = name.partition("/")
            out.append({"word": word, "sense": sense, "text": text})
    return out


def a(noun):
    """A noun with its indefinite article."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def name(rng):
    """A name that nobody has heard."""
    return "".join(rng.sample(SYLLABLES, rng.choice((2, 2, 3)))).capitalize()


def phrase(rng, noun):
    """A noun of the lexicon with an article and sometimes an adjective."""
    many = noun.endswith("+")
    noun = noun.rstrip("+")
    if noun[0].isupper() or noun.startswith("the "):
        return noun
    if rng.random() < 0.2:
        noun = f"{rng.choice(ADJECTIVES)} {noun}"
    kind = rng.random()
    if many:
        return f"the {noun}" if kind < 0.4 else f"some {noun}" if kind < 0.6 else noun
    return f"the {noun}" if kind < 0.55 else a(noun) if kind < 0.85 else f"{rng.choice(('his', 'her', 'my', 'our', 'their', 'every'))} {noun}"


def somebody(rng):
    """Who does something, and says nothing of any sense."""
    kind = rng.random()
    if kind < 0.35:
        return rng.choice(PEOPLE)
    if kind < 0.5:
        return name(rng)
    return rng.choice(PRONOUNS) if kind < 0.75 else rng.choice(KIN)


def sentence(rng, topic):
    """A sentence with one to four words of a topic, without its full stop and its capital."""

    def who():
        return phrase(rng, rng.choice(topic.who))

    def what():
        return phrase(rng, rng.choice(topic.what))

    def where():
        return rng.choice(topic.where) if rng.random() < 0.85 else rng.choice(PLACES)

    def did():
        return rng.choice(topic.did)

    def so():
        return rng.choice(topic.so)

    def subject():
        return who() if rng.random() < 0.5 else somebody(rng)

    patterns = (
        (3, lambda: f"{subject()} {did()}"),
        (3, lambda: f"{subject()} {did()} {where()}"),
        (3, so),
        (1, lambda: f"{so()}, and {so()}"),
        (2, lambda: f"{so()}, and {subject()} {did()}"),
        (1, lambda: f"{subject()} {did()}, and {so()}"),
        (1, lambda: f"{so()} when {subject()} {did()}"),
        (1, lambda: f"when {so()}, {subject()} {did()}"),
        (2, lambda: f"{where()}, {subject()} {did()}"),
        (1, lambda: f"{where()} {so()}"),
        (2, lambda: f"there was {what()} {where()}"),
        (1, lambda: f"there were {rng.choice(topic.what).rstrip('+')} and {rng.choice(topic.what).rstrip('+')} everywhere"),
        (3, lambda: f"{somebody(rng)} {rng.choice(SEEN)} {what()}"),
        (2, lambda: f"{somebody(rng)} {rng.choice(SEEN)} {what()} {where()}"),
        (1, lambda: f"{somebody(rng)} {rng.choice(SEEN)} {what()}, {what()} and {what()}"),
        (1, lambda: f"{who()} {rng.choice(SEEN)} {what()}"),
        (1, lambda: f"{who()} and {who()} {did()}"),
        (1, lambda: f"{who()} was {where()}"),
        (1, lambda: f"{what()} was {where()}"),
        (1, lambda: f"{what()} was {rng.choice(ADJECTIVES)}"),
        (1, lambda: f"{rng.choice(PEOPLE)} is {a(rng.choice(topic.who).rstrip('+'))}"),
        (1, lambda: f"it was {what()}"),
        (1, lambda: f"{rng.choice(('I know everything about', 'this is a story about', 'nobody had told me about', 'it was because of', 'I will never forget', 'he always wanted'))} {what()}"),
        (1, lambda: f"the {rng.choice(topic.what).rstrip('+')} of {who()} was {rng.choice(ADJECTIVES)}"),
        (1, lambda: f"{did()} again" if rng.random() < 0.3 else f"we {did()} twice"),
    )
    weights, makers = zip(*patterns)
    text = rng.choices(makers, weights)[0]()
    if rng.random() < 0.2:
        text = f"{rng.choice(TIMES)}{rng.choice((',', ''))} {text}"
    return text


def scrap(rng, topic):
    """A few words in a row from a phrase of a topic, or all of it."""
    words = rng.choice(rng.choice((topic.what, topic.who, topic.where, topic.did, topic.so, topic.so))).rstrip("+").split()
    length = rng.randint(1, 5)
    first = rng.randint(0, max(0, len(words) - length))
    return " ".join(words[first : first + length])


def scraps(rng, topic, strange):
    """Two to five scraps of a topic in a row, or of a `strange` one here and there: what is left of grammar is the words."""
    joints = (" ", ", ", " and ", " with ", " for ", " after ", " but ", " near ", " because ", " to the ", " of the ", " was ", " in ", " had ", " from ", " is ")
    out = scrap(rng, topic)
    for _ in range(rng.randint(1, 4)):
        kind = rng.random()
        more = somebody(rng) if kind < 0.15 else name(rng) if kind < 0.2 else scrap(rng, strange) if strange and kind < 0.35 else scrap(rng, topic)
        out = f"{out}{rng.choice(joints)}{more}" if rng.random() < 0.8 else f"{more}{rng.choice(joints)}{out}"
    return out


def closed(text):
    """A sentence with its capital and its full stop."""
    return f"{text[0].upper()}{text[1:]}."


def stranger(rng, topics, key):
    """A topic that shares little with either sense of a word."""
    rival = {word for other in topics if other[0] == key[0] for word in topics[other].content}
    for other in rng.sample(list(topics), 6):
        content = topics[other].content
        if other[0] != key[0] and len(content & rival) < 0.12 * len(content):
            return topics[other]
    return None


def context(rng, topics, key, count):
    """`count` sentences about a topic, sometimes with one of another subject or of none between them."""
    topic = topics[key]
    strange = stranger(rng, topics, key) if rng.random() < 0.4 else None
    out = [closed(scraps(rng, topic, strange) if rng.random() < 0.25 else sentence(rng, topic)) for _ in range(count)]
    if rng.random() < 0.2:
        out.insert(rng.randint(0, count), rng.choice(NOTHING))
    if strange and rng.random() < 0.3:
        out.insert(rng.randint(0, count), closed(sentence(rng, strange)))
    return out


def prefix(rng, topic, word, telling):
    """The beginning of the sentence to be completed; one that is `telling` says itself which sense is meant."""

    def start(text):
        return f"{text[0].upper()}{text[1:]}"

    def ended(text):
        joint = rng.choice((", and", ", and", " and", ", because", ", because", ", but", ", so"))
        return text + (", which" if text.endswith(word) and rng.random() < 0.25 else joint)

    one = a(word).split()[0]
    kind = rng.random()
    if telling or kind < 0.3:
        told = rng.random()
        if told < 0.5:
            return ended(start(f"{somebody(rng)} {rng.choice(topic.with_).replace('~', word)}"))
        if told < 0.6:
            return ended(start(f"{phrase(rng, rng.choice(topic.who))} {rng.choice(topic.with_).replace('~', word)}"))
        if told < 0.8:
            joint = rng.choice((", and the", " and the", ", so the", " when the", ", but the", " because the", " until the"))
            return start(f"{sentence(rng, topic)}{joint} {word}")
        return start(f"{rng.choice(topic.where)}{rng.choice((',', ''))} {rng.choice(('the', one, 'his', 'her', 'this'))} {word}")
    if kind < 0.55:
        return ended(start(f"{somebody(rng)} {rng.choice(SEEN)} {rng.choice(('the', 'the', 'the', one, 'his', 'her', 'my', 'that'))} {word}"))
    if kind < 0.65:
        return ended(rng.choice((f"It was {one}", f"There was {one}", "It was the", "That was the", "It was all about the", "There was something about the")) + f" {word}")
    lead = rng.choice(TIMES) + " " if rng.random() < 0.3 else ""
    which = rng.choice(("the", "the", "the", "the", one, "his", "her", "my", "its", "one", "our", "that"))
    which += f" {rng.choice(ADJECTIVES)}" if rng.random() < 0.15 else ""
    return start(f"{lead}{which} {word}")
