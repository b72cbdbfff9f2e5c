"""What is measured: each row is one job, done by modelve and by its peers in turns."""

import json
import os
import re
from pathlib import Path

from . import limits, measure
from .measure import Contender
from .peers import call, say

PROMPTS = ["India is a", "Pakistan is a", "China is a", "Burma is a", "June 21 is a", "Oracle is a"]
PROMPT = "Today is"
LINE = "The ball hit the bat, and the crowd went home before the rain."
KEPT = ["--top-k", "1", "--temp", "0", "--no-warmup", "-no-cnv", "--no-display-prompt", "--simple-io"]


class Bench:
    def __init__(self, root, options, tools):
        self.root, self.options, self.tools = root, options, tools
        self.work = options.work
        self.threads = os.cpu_count() or 1
        self.results = []

    def row(self, name, contenders, limit=None, unit="s", runs=None):
        """Measures a row unless --only leaves it out. The first contender is modelve."""
        if self.options.only and not any(word in name for word in self.options.only):
            return
        say(name)
        for contender in contenders:
            needs = "python" if "python" in contender.name or "gguf" in contender.name else "llama.cpp"
            if contender is not contenders[0] and needs in self.tools.missing:
                contender.reason = self.tools.missing[needs]
        measure.take_turns(contenders, runs or self.options.runs)
        figures = [measure.summary(contender) for contender in contenders]
        result = {"row": name, "unit": unit, "contenders": figures}
        if limit:
            result["limit"] = limit
        for peer in figures[1:]:
            if "not_measured" in peer or "not_measured" in figures[0]:
                continue
            key = "figure" if "figure" in peer else "wall_s"
            peer["ratio"] = figures[0][key]["median"] / peer[key]["median"]
            peer["memory_ratio"] = figures[0]["peak_mb"]["median"] / peer["peak_mb"]["median"]
        self.results.append(result)
        for figure in figures:
            say("  " + describe(figure))


def describe(figure):
    if "not_measured" in figure:
        return f"{figure['name']}: not measured, {figure['not_measured']}"
    value = figure.get("figure", figure["wall_s"])["median"]
    ratio = f"  modelve is {figure['ratio']:.3g}x of it" if "ratio" in figure else ""
    return (f"{figure['name']}: {value:.4g}  (cpu {figure['cpu_s']['median']:.3g} s, "
            f"{figure['peak_mb']['median']:.0f} MB){ratio}")


def run(root, options, tools):
    bench = Bench(root, options, tools)
    checkpoint = find_checkpoint(bench)
    bench.bandwidth = limits.read_bandwidth(tools, bench.threads)
    models = convert_rows(bench, checkpoint)
    if models:
        inspect_rows(bench, models["Q4_K_M"])
        for quant, model in models.items():
            complete_rows(bench, quant, model)
    if not options.keep:
        for leftover in bench.work.glob("*.gguf"):
            leftover.unlink()
        if options.checkpoint is None and not options.quick:
            for leftover in (bench.work / "checkpoint").glob("*.safetensors"):
                leftover.unlink()
    return bench.results


def find_checkpoint(bench):
    options = bench.options
    if options.checkpoint:
        return options.checkpoint
    tiny = bench.root / "models" / "tiny-phi3"
    if options.quick:
        return tiny
    folder = bench.work / "checkpoint"
    if not list(folder.glob("*.safetensors")):
        say("generating a full-size Phi-3-mini with random weights")
        config = options.tokenizer or tiny
        generator = bench.root / "target" / "debug" / "examples" / "make_checkpoint"
        call([generator, "--config", config, "--full-size", "--out", folder])
    return folder


def convert_rows(bench, checkpoint):
    """Returns the models that later rows use, by type; modelve's own where it was measured."""
    tools, models = bench.tools, {}
    source = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    for quant in ["Q4_0", "Q4_K_M"]:
        ours, between, theirs = (bench.work / f"{kind}-{quant}.gguf" for kind in ["modelve", "bf16", "llama"])
        modelve = Contender("modelve convert",
                            [[tools.modelve, "convert", checkpoint, "-q", quant, "-o", ours, "--force"]])
        peer = Contender("convert_hf_to_gguf.py + llama-quantize", [])
        if tools.llama_cpp and tools.python:
            peer.steps = [
                [tools.python, tools.llama_cpp / "convert_hf_to_gguf.py", checkpoint, "--outtype", "bf16",
                 "--outfile", between],
                [tools.llama("llama-quantize"), between, theirs, quant, str(bench.threads)],
            ]
        else:
            peer.reason = "; ".join(tools.missing.values())
        bench.row(f"convert to {quant}", [modelve, peer], runs=1 if not bench.options.quick else None,
                  limit=limits.convert(source))
        between.unlink(missing_ok=True)
        theirs.unlink(missing_ok=True)
        if not ours.exists():
            call(modelve.steps[0])
        models[quant] = ours
    return models


def inspect_rows(bench, model):
    tools = bench.tools
    gguf_dump = [tools.python, "-m", "gguf.scripts.gguf_dump"] if tools.python else ["false"]
    bench.row("metadata, for a person", [
        Contender("modelve meta", [[tools.modelve, "meta", model]]),
        Contender("gguf-dump (gguf-py)", [[*gguf_dump, model]]),
    ])
    bench.row("metadata, all of it as JSON", [
        Contender("modelve meta --json --full", [[tools.modelve, "meta", model, "--json", "--full"]]),
        Contender("gguf-dump --json --json-array (gguf-py)", [[*gguf_dump, "--json", "--json-array", model]]),
    ])
    bench.row("look a token up", [
        Contender("modelve vocab 1001", [[tools.modelve, "vocab", "-m", model, "1001"]]),
    ])
    tokenize = [tools.llama("llama-tokenize"), "-m", model, "--log-disable"] if tools.llama_cpp else ["false"]
    bench.row("encode a line", [
        Contender("modelve vocab --encode", [[tools.modelve, "vocab", "-m", model, "--encode", LINE]]),
        Contender("llama-tokenize", [[*tokenize, "-p", LINE]]),
    ])
    text = bench.work / "text.txt"
    text.write_text((LINE + "\n") * (1_000_000 // (len(LINE) + 1)))
    bench.row("encode 1 MB of text", [
        Contender("modelve vocab --encode -", [["sh", "-c", f"'{tools.modelve}' vocab -m '{model}' --json --encode - < '{text}'"]]),
        Contender("llama-tokenize", [[*tokenize, "-f", text, "--ids"]]),
    ])


def tokens_per_s(output):
    """modelve's own timing, from `complete --json`."""
    return json.loads(output)["timing"]["tokens_per_s"]


def prefill_per_s(output):
    answer = json.loads(output)
    return answer["usage"]["prompt_tokens"] / answer["timing"]["prefill_s"]


def llama_bench(output):
    return json.loads(output)[0]["avg_ts"]


def complete_rows(bench, quant, model):
    tools, threads = bench.tools, ["-t", str(bench.threads)]
    ours = [tools.modelve, "complete", "-m", model, "--ignore-eos"]
    theirs = [tools.llama("llama-completion"), "-m", model, *threads, *KEPT, "--ignore-eos"] if tools.llama_cpp else ["false"]
    weights = model.stat().st_size
    n = "16"
    first = [
        Contender("modelve complete", [[*ours, "-n", n, PROMPT]]),
        Contender("llama-completion, best flags", [[*theirs, "-c", "256", "--no-repack", "-n", n, "-p", PROMPT]]),
        Contender("llama-completion -c 4096", [[*theirs, "-c", "4096", "-n", n, "-p", PROMPT]]),
    ]
    limit = limits.generate(weights, 16, bench.bandwidth)
    bench.row(f"{quant}: {n} tokens from launch", first, limit=limit)
    if not bench.options.quick:
        plain = [tools.llama("llama-completion"), "-m", model, "-no-cnv", "-n", n, "--temp", "0", "-p", PROMPT]
        bench.row(f"{quant}: {n} tokens from launch, peer without flags",
                  [Contender("modelve complete", [[*ours, "-n", n, PROMPT]]),
                   Contender("llama-completion without flags", [plain])], runs=1)
    bench.row(f"{quant}: launch to first token", [
        Contender("modelve complete -n 1", [[*ours, "-n", "1", PROMPT]]),
        Contender("llama-completion, best flags", [[*theirs, "-c", "256", "--no-repack", "-n", "1", "-p", PROMPT]]),
    ], limit=limits.generate(weights, 1, bench.bandwidth))
    bench.row(f"{quant}: six prompts, {n} tokens each", [
        Contender("modelve complete, one command", [[*ours, "-n", n, *PROMPTS]]),
        Contender("llama-completion, best flags, six runs",
                  [[*theirs, "-c", "256", "--no-repack", "-n", n, "-p", prompt] for prompt in PROMPTS]),
    ])
    bench_tool = [tools.llama("llama-bench"), "-m", model, *threads, "-o", "json", "-r", "1"] if tools.llama_cpp else ["false"]
    many = "256" if not bench.options.quick else "64"
    bench.row(f"{quant}: {many} tokens generated, tokens/s", [
        Contender("modelve complete", [[*ours, "-n", many, "--json", PROMPT]], figure=tokens_per_s),
        Contender("llama-bench tg, repacked", [[*bench_tool, "-p", "0", "-n", many]], figure=llama_bench),
        Contender("llama-bench tg, not repacked", [[*bench_tool, "-p", "0", "-n", many, "--repack", "0"]], figure=llama_bench),
    ], unit="tokens/s", limit={"what": "bandwidth over bytes of weights", "value": bench.bandwidth / weights})
    sizes = [512, 4000] if not bench.options.quick else [200]
    for size in sizes:
        prompt = long_prompt(tools, model, size)
        bench.row(f"{quant}: prefill of {size}, tokens/s", [
            Contender("modelve complete -n 1", [[*ours, "-n", "1", "--json", prompt]], figure=prefill_per_s),
            Contender("llama-bench pp, repacked", [[*bench_tool, "-p", str(size), "-n", "0"]], figure=llama_bench),
            Contender("llama-bench pp, not repacked", [[*bench_tool, "-p", str(size), "-n", "0", "--repack", "0"]], figure=llama_bench),
        ], unit="tokens/s", runs=1 if size > 1000 else None)


def long_prompt(tools, model, size):
    """About `size` tokens of text, by what a line takes in this vocabulary."""
    import subprocess
    output = subprocess.run([tools.modelve, "vocab", "-m", model, "--json", "--encode", LINE + " "],
                            capture_output=True, check=True).stdout
    per_line = len(json.loads(output)["ids"]) - 1
    return (LINE + " ") * max(1, size // max(per_line, 1))
