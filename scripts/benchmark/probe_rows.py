"""Probes: what looking inside costs beyond the prefill of the same tokens; compare."""

import re

from . import limits, measure, table
from .measure import Contender

SECTION = "Probes"
TOKENS = 200
WORKS = re.compile(r"^(.+?) +([\d.]+) s +([\d.]+) x prefill$", re.MULTILINE)
PATCHED = re.compile(r"^patch of .*: ([\d.]+) s, ([\d.]+) x that many prefills \(([\d.]+) s\)$", re.MULTILINE)
WHY = re.compile(r"^why of .*: ([\d.]+) s$", re.MULTILINE)
PATCH_TOKENS = 15
UNEMBEDDING = re.compile(r"([\d.]+) x the multiplications of the prefill")


def rows(bench, models):
    model = models["Q4_K_M"]
    cost(bench, model)
    experiments(bench, model)
    compare(bench, model, models["Q4_0"])


def cost(bench, model):
    """One process that does all of them in turns on one loaded model."""
    name = f"probe {TOKENS} tokens"
    if not bench.wanted(name):
        return
    table.say(name)
    program = bench.tools.example("probe_cost")
    measured = measure.step([program, model, TOKENS, bench.options.runs or 2], {})
    found = WORKS.findall(measured.stdout.decode())
    if measured.error or not found:
        reason = measured.error or "its output was not understood"
        bench.add(SECTION, name, [{"name": "modelve", "not_measured": reason}])
        return
    seconds = {work: float(value) for work, value, _ in found}
    prefill = seconds["prefill"]
    unembedding = float(UNEMBEDDING.search(measured.stdout.decode()).group(1))
    for work, value in seconds.items():
        figure = {"name": f"modelve, {value / prefill:.2f} × the prefill", "figure": measure.spread([value])}
        if work == "prefill":
            figure = {"name": "modelve, one process for this and the next rows", "figure": measure.spread([value]),
                      "cpu_s": measure.spread([measured.cpu_s]), "peak_mb": measure.spread([measured.peak_mb])}
        limit = {"what": "the prefill of the same tokens", "value": prefill}
        if work == "prefill":
            limit = limits.prefill(bench.limits, table.products_per_token(bench, model), TOKENS)
        elif work == "lens":
            limit = {"what": f"the prefill and {unembedding:.2f} × its multiplications", "value": (1 + unembedding) * prefill}
        bench.add(SECTION, f"{work}, {TOKENS} tokens", [figure], limit=limit)
    bench.promise(f"score of {TOKENS} tokens: time, of their prefill", seconds["score"] / prefill, 1.15)
    bench.promise(f"lens of {TOKENS} tokens: time, of their prefill (2 × and {unembedding:.2f} × for the unembedding)",
                  seconds["lens"] / prefill, 2 + unembedding)


def experiments(bench, model):
    """Activation patching at every layer and token, beside as many prefills, and an answer explained."""
    name = f"patch, {PATCH_TOKENS} tokens, every layer and token"
    if not bench.wanted(name):
        return
    table.say(name)
    program = bench.tools.example("experiment_cost")
    measured = measure.step([program, model, PATCH_TOKENS], {})
    said = measured.stdout.decode()
    patched, why = PATCHED.search(said), WHY.search(said)
    if measured.error or not patched or not why:
        reason = measured.error or "its output was not understood"
        bench.add(SECTION, name, [{"name": "modelve", "not_measured": reason}])
        return
    seconds, ratio, prefills = map(float, patched.groups())
    figure = {"name": f"modelve, {ratio:.2f} × as many prefills", "figure": measure.spread([seconds]), "peak_mb": measure.spread([measured.peak_mb])}
    bench.add(SECTION, name, [figure], limit={"what": "as many separate prefills", "value": prefills})
    explained = float(why.group(1))
    bench.add(SECTION, f"why, {PATCH_TOKENS} tokens", [{"name": "modelve", "figure": measure.spread([explained])}])
    bench.promise(f"patch of {PATCH_TOKENS} tokens at every layer and token: time, of as many prefills", ratio, 0.6)
    bench.promise(f"why of {PATCH_TOKENS} tokens: time", explained, 30, "s")


def compare(bench, a, b):
    """KL divergence of two files: one pass over both, or llama.cpp's two with a file of logits."""
    window, chunks = 128, 4
    text, logits = bench.work / "text-compare.txt", bench.work / "logits.bin"
    text.write_text(table.long_text(bench, a, window * (chunks + 1)))
    tool = [bench.tools.llama("llama-perplexity"), "-c", window, "-b", window, "-t", bench.threads, "--chunks", chunks,
            "--kl-divergence-base", logits]
    bench.row(SECTION, "compare Q4_K_M with Q4_0", [
        Contender("modelve compare", [[bench.tools.modelve, "compare", a, b, "--file", text, "-w", window, "-s", window - 1,
                                       "-n", (window - 1) * chunks + 1, "--greedy", "0"]]),
        table.contender(bench, "llama-perplexity --kl-divergence, two runs", ["llama_cpp"],
                      [[*tool, "-m", a, "-f", text], [*tool, "-m", b, "--kl-divergence"]], outputs=[logits]),
    ], limit=limits.prefill(bench.limits, table.products_per_token(bench, a), 2 * window * chunks), long=True, runs=bench.options.runs or 1,
        note=f"{window * chunks} tokens; modelve scores every token and compares the weights of all tensors too, "
             "llama-perplexity scores the second half of each window and keeps a file of logits")
