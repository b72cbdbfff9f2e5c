"""What rows share: how one is measured and compared, the texts and models they use."""

import json
import os
import statistics
import subprocess

from . import measure
from .measure import Contender
from .peers import say

LINE = "The ball hit the bat, and the crowd went home before the rain."
# Phi-3-mini, where no configuration of it is named; the vocabulary is padded to its size.
FULL_SIZE = ["--hidden", "3072", "--heads", "32", "--intermediate", "8192", "--layers", "32", "--vocab", "32064",
             "--set", "max_position_embeddings=131072", "--set", "original_max_position_embeddings=4096"]


class Bench:
    """Options, tools and limits of a run, and where its results go."""

    def __init__(self, root, options, tools, report):
        self.root, self.options, self.tools, self.report = root, options, tools, report
        self.work = options.work
        self.quick = options.quick
        self.threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.limits = {}
        self.encode_ns = {}

    def wanted(self, name):
        return not self.options.only or any(word in name for word in self.options.only)

    def row(self, section, name, contenders, limit=None, unit="s", runs=None, long=False, note=""):
        """Measures a row unless --only leaves it out; None then. The first contender is modelve.

        A `long` row has no warm-up and two runs, unless `runs` or --runs says otherwise."""
        if not self.wanted(name):
            return None
        say(name)
        measure.take_turns(contenders, runs or self.options.runs or (2 if long else 3), long)
        return self.add(section, name, [measure.summary(contender) for contender in contenders], limit, unit, note)

    def add(self, section, name, figures, limit=None, unit="s", note=""):
        """Takes in a row's figures, and says and writes them."""
        result = {"section": section, "row": name, "unit": unit, "contenders": figures}
        if note:
            result["note"] = note
        if limit:
            result["limit"] = limit
            measured = value(figures[0])
            if measured:
                result["near"] = limit["value"] / measured if unit == "s" else measured / limit["value"]
        for peer in figures[1:]:
            for name, key in [("ratio", None), ("memory_ratio", "peak_mb")]:
                found = over(figures[0], peer, key)
                if found is not None:
                    peer[name] = found
        for figure in figures:
            say("  " + describe(figure, unit))
        self.report.rows.append(result)
        self.report.write()
        return result

    def promise(self, text, measured, bound, unit="×", least=False):
        """What the project promises of the full-size model, and what this run says of it."""
        if measured is not None:
            holds = measured >= bound if least else measured <= bound
            self.report.promises.append(
                {"promise": text, "bound": bound, "least": least, "unit": unit, "measured": measured, "holds": holds})


def spread(figure, key=None):
    """By what a contender is compared; None if it was not measured."""
    if figure is None or "not_measured" in figure:
        return None
    return figure.get(key or ("figure" if "figure" in figure else "wall_s"))


def value(figure, key=None):
    """The median of it."""
    found = spread(figure, key)
    return found and found["median"]


def find(result, name):
    """A contender's figures by its name, or else by the beginning of it."""
    figures = result["contenders"] if result else []
    exact = [figure for figure in figures if figure["name"] == name]
    return next(iter(exact + [figure for figure in figures if figure["name"].startswith(name)]), None)


def ratio(result, ours, theirs, key=None):
    """One contender over another in the same row; None unless both were measured."""
    return over(find(result, ours), find(result, theirs), key)


def over(ours, theirs, key=None):
    """The median of the ratios turn by turn, so that a machine that slows down touches both sides;
    the ratio of the medians where one of them had fewer turns."""
    a, b = spread(ours, key), spread(theirs, key)
    if not a or not b or not b["median"]:
        return None
    turns = [a.get("turns", []), b.get("turns", [])]
    if len(turns[0]) == len(turns[1]) > 0 and all(turns[1]):
        return statistics.median(x / y for x, y in zip(*turns))
    return a["median"] / b["median"]


def describe(figure, unit):
    if "not_measured" in figure:
        return f"{figure['name']}: not measured, {figure['not_measured']}"
    text = f"{figure['name']}: {value(figure):.4g} {unit}"
    if "cpu_s" in figure:
        text += f"  (CPU {figure['cpu_s']['median']:.3g} s, {figure['peak_mb']['median']:.0f} MB)"
    return text + (f"  modelve is {figure['ratio']:.3g} × of it" if "ratio" in figure else "")


def source_config(bench):
    """A folder with config.json and tokenizer, and what makes a full-size model of it."""
    options = bench.options
    if options.tokenizer:
        return options.tokenizer, []
    return bench.root / "models" / "tiny-phi3", [] if bench.quick else FULL_SIZE


def long_text(bench, model, size):
    """Text of about `size` tokens in this vocabulary."""
    command = [bench.tools.modelve, "vocab", "-m", model, "--json", "--no-bos", "--encode", LINE + " " + LINE]
    ids = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["ids"]
    return " ".join([LINE] * max(1, round(2 * size / len(ids))))


def products_per_token(bench, model):
    """Multiplications of a token in a prompt, of which only the last has logits: the matrices of all layers."""
    told = subprocess.run([bench.tools.modelve, "meta", model, "--json"], capture_output=True, check=True).stdout
    return sum(tensor["n_elements"] for tensor in json.loads(told)["tensors"]
               if tensor["name"].startswith("blk.") and len(tensor["shape"]) == 2)


def contender(bench, name, needs, steps, **more):
    """A peer's contender, with the reason if one of the tools in `needs` is missing."""
    return Contender(name, steps, reason=bench.tools.why(*needs), **more)
