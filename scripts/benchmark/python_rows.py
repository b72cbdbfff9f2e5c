"""The Python module: what a question costs beyond the Rust function, and beside transformers."""

import random
import re

from . import table
from .measure import Contender
from .peers import DRIVERS

SECTION = "From Python"
PROMPTS = 100
TOKENS = 20
ROUNDS = 10
NEXT = re.compile(rb"^next +([\d.]+) s", re.MULTILINE)


def rows(bench, checkpoint, model):
    cost(bench, model)
    questions(bench, checkpoint, model)


def cost(bench, model):
    tools = bench.tools
    name = f"next of {TOKENS} tokens, a loaded model"
    imports = []

    def from_python(measured):
        imported, seconds = map(float, measured.stdout.split())
        imports.append(imported)
        return seconds

    module = table.contender(bench, "modelve in Python", ["wheel"],
                             [[tools.wheel, DRIVERS / "modelve_questions.py", "--next", model, TOKENS, ROUNDS]], figure=from_python)
    rust = Contender("the Rust function (examples/probe_cost)", [[tools.example("probe_cost"), model, TOKENS, ROUNDS]],
                     figure=lambda measured: float(NEXT.search(measured.stdout).group(1)))
    result = bench.row(SECTION, name, [module, rust])
    bench.promise("m.next: time, of the Rust function", table.ratio(result, module.name, rust.name), 1.1)
    if imports:
        bench.promise("import modelve: milliseconds", min(imports), 50, unit="ms")


def questions(bench, checkpoint, model):
    """A process each, from launch: load, ask, end."""
    name = f"the next token of {PROMPTS} prompts and one lens, from launch"
    if not bench.wanted(name):
        return
    words = "the ball hit a bat in our park and it was night at sea when they saw an old red house".split()
    draw = random.Random(7)
    prompts = bench.work / "prompts-python.txt"
    prompts.write_text("\n".join(" ".join(draw.choices(words, k=draw.randint(5, 20))) for _ in range(PROMPTS)) + "\n")
    tools = bench.tools
    module = table.contender(bench, "modelve in Python", ["wheel"],
                             [[tools.wheel, DRIVERS / "modelve_questions.py", model, prompts]], warm=[model])
    transformers = table.contender(bench, "transformers, bfloat16", ["python"],
                                   [[tools.python, DRIVERS / "transformers_questions.py", checkpoint, prompts]],
                                   once=True, greedy=True, env={"HF_HUB_OFFLINE": "1"})
    bench.row(SECTION, name, [module, transformers], long=True)
