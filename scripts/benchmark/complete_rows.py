"""complete: text from a quantized model."""

import json
import os

from . import limits, table
from .measure import Contender
from .peers import DRIVERS, FAILURES, call

PROMPTS = ["India is a", "Pakistan is a", "China is a", "Burma is a", "June 21 is a", "Oracle is a"]
PROMPT = "Today is"
SHORT = 16
# Nothing that takes time without being needed: no warm-up run, no conversation.
PLAIN = ["--top-k", "1", "--temp", "0", "--no-warmup", "-no-cnv", "--no-display-prompt", "--simple-io", "--ignore-eos"]
MAPPED, REPACKED = "modelve complete --weights mapped", "modelve complete --weights repacked"
IN_PLACE, COPIED = "llama-completion -c 256 --no-repack", "llama-completion -c 256"


def rows(bench, quant, model):
    tools, section = bench.tools, f"Completing, {quant}"
    ours = [tools.modelve, "complete", "-m", model, "--ignore-eos"]
    theirs = [tools.llama("llama-completion"), "-m", model, "-t", bench.threads, *PLAIN]
    weights = model.stat().st_size
    products = table.products_per_token(bench, model)

    def peer(name, flags, prompts, tokens, **more):
        return table.contender(bench, name, ["llama_cpp"], [[*theirs, *flags, "-n", tokens, "-p", p] for p in prompts], **more)

    def three(arguments, **more):
        return [Contender("modelve complete", [[*ours, *arguments]], **more),
                Contender(MAPPED, [[*ours, "--weights", "mapped", *arguments]], **more),
                Contender(REPACKED, [[*ours, "--weights", "repacked", *arguments]], **more)]

    short = bench.row(section, f"{quant}: {SHORT} tokens from launch", [
        *three(["-n", SHORT, PROMPT]),
        peer(IN_PLACE, ["-c", "256", "--no-repack"], [PROMPT], SHORT),
        peer(COPIED, ["-c", "256"], [PROMPT], SHORT),
        peer("llama-completion -c 4096", ["-c", "4096"], [PROMPT], SHORT),
    ], limit=limits.generate(bench.limits, weights, SHORT), long=True, runs=bench.options.runs or 7)
    best = better(short, IN_PLACE, COPIED)
    flags = ["-c", "256"] if best == COPIED else ["-c", "256", "--no-repack"]
    auto_keeps_up(bench, short, f"{quant}, {SHORT} tokens")
    # Promised of the type that is the default.
    promise = bench.promise if quant == "Q4_K_M" else lambda *_, **__: None
    promise(f"{quant}: {SHORT} tokens from launch: time, of {best}", table.ratio(short, "modelve", best), 1.05)
    promise(f"{quant}: {SHORT} tokens from launch: time, of llama-completion -c 4096",
            table.ratio(short, "modelve", "llama-completion -c 4096"), 0.5)
    promise(f"{quant}: {SHORT} tokens from launch: memory, of {best}", table.ratio(short, "modelve", best, "peak_mb"), 1.1)

    bench.row(section, f"{quant}: launch to first token", [
        Contender("modelve complete -n 1", [[*ours, "-n", "1", PROMPT]]),
        peer(" ".join(["llama-completion", *flags, "-n 1"]), flags, [PROMPT], 1),
    ], limit=limits.generate(bench.limits, weights, 1))

    six = bench.row(section, f"{quant}: six prompts, {SHORT} tokens each", [
        Contender("modelve complete, one command", [[*ours, "-n", SHORT, *PROMPTS]]),
        peer(f"six runs of llama-completion {' '.join(flags)}", flags, PROMPTS, SHORT),
    ], limit=limits.generate(bench.limits, weights, SHORT), long=True)
    promise(f"{quant}: six prompts: time, of six runs of llama-completion", table.ratio(six, "modelve", "six runs"), 0.6)

    # What lies so close together takes more turns to tell apart.
    turns = bench.options.runs or 4
    many = 64 if bench.quick else 256
    result = bench.row(section, f"{quant}: {many} tokens generated", [
        *three(["-n", many, "--json", PROMPT], figure=tokens_per_s),
        *llama_bench(bench, model, "tg", ["-p", "0", "-n", many]),
    ], unit="tokens/s", limit=limits.generation_rate(bench.limits, weights), long=True, runs=turns)
    auto_keeps_up(bench, result, f"{quant}, {many} tokens")
    keeps_up(promise, result, f"{quant}: {many} tokens")

    size = 200 if bench.quick else 512
    result = bench.row(section, f"{quant}: prefill of {size}", [
        Contender("modelve complete -n 1", [[*ours, "-n", "1", "--json", table.long_text(bench, model, size)]], figure=prefill_per_s),
        *llama_bench(bench, model, "pp", ["-p", size, "-n", "0", "--no-warmup"]),
    ], unit="tokens/s", limit=limits.prefill_rate(bench.limits, products), long=True, runs=turns)
    keeps_up(promise, result, f"{quant}: prefill of {size}")

    size = 100 if bench.quick else 440
    prompt = table.long_text(bench, model, size)
    result = bench.row(section, f"{quant}: {SHORT} tokens after a prompt of {size}, from launch", three(["-n", SHORT, prompt]),
                       limit=limits.prefill_and_generate(bench.limits, products, size, weights, SHORT), long=True, runs=turns)
    auto_keeps_up(bench, result, f"{quant}, a prompt of {size} tokens")

    if not bench.quick and quant == "Q4_K_M":
        size = 4000
        bench.row(section, f"{quant}: prefill of {size}", [
            Contender("modelve complete -n 1", [[*ours, "-n", "1", "--json", table.long_text(bench, model, size)]], figure=prefill_per_s),
            llama_bench(bench, model, "pp", ["-p", size, "-n", "0", "--no-warmup"])[1],
        ], unit="tokens/s", limit=limits.prefill_rate(bench.limits, products), long=True, runs=1)


def llama_bench(bench, model, test, flags):
    tool = [bench.tools.llama("llama-bench"), "-m", model, "-t", bench.threads, "-o", "json", "-r", "1", *flags]
    return [table.contender(bench, f"llama-bench {test}, {name}", ["llama_cpp"], [[*tool, "--repack", repack]], figure=average)
            for name, repack in [("repacked", "1"), ("not repacked", "0")]]


def tokens_per_s(measured):
    """modelve's own timing, from `complete --json`."""
    return json.loads(measured.stdout)["timing"]["tokens_per_s"]


def prefill_per_s(measured):
    answer = json.loads(measured.stdout)
    return answer["usage"]["prompt_tokens"] / answer["timing"]["prefill_s"]


def average(measured):
    """llama-bench's own timing."""
    return json.loads(measured.stdout)[0]["avg_ts"]


def better(result, one, other):
    """The name of the faster of two contenders."""
    a, b = table.value(table.find(result, one)), table.value(table.find(result, other))
    return other if a is not None and b is not None and b < a else one


def auto_keeps_up(bench, result, what):
    """`--weights auto` against the better of the two choices, by the time from launch."""
    ratios = [table.ratio(result, "modelve complete", name, "wall_s") for name in (MAPPED, REPACKED)]
    if None not in ratios:
        bench.promise(f"--weights auto, of the better choice: {what}", max(ratios), 1.05)


def keeps_up(promise, result, what):
    """Tokens per second against the better of llama-bench's two ways."""
    ratios = [figure["ratio"] for figure in (result or {}).get("contenders", [])
              if figure["name"].startswith("llama-bench") and "ratio" in figure]
    if ratios:
        promise(f"{what}: tokens/s, of llama-bench's better", min(ratios), 0.97, least=True)


def other_programs(bench, checkpoint, model):
    """The same 16 tokens by programs that take long; llama.cpp's own with no flags among them."""
    tools = bench.tools
    name = f"other programs, Q4_K_M: {SHORT} tokens from launch"
    if not bench.wanted(name):
        return
    offline = {"HF_HUB_OFFLINE": "1"}
    tokenizer, no_tokenizer = fast_tokenizer(bench, checkpoint)
    quanto = table.contender(bench, "transformers + quanto int4 (Python)", ["quanto"],
                           [[tools.python, DRIVERS / "quanto_complete.py", checkpoint, SHORT, PROMPT]], once=True, greedy=True, env=offline)
    mistralrs = table.contender(bench, "mistral.rs (Python wheel)", ["mistralrs"],
                              [[tools.mistralrs, DRIVERS / "mistralrs_complete.py", model, SHORT, PROMPT]], once=True, greedy=True, env=offline)
    candle = table.contender(bench, "candle quantized-phi", ["candle"], [
        [tools.candle, "--model", model, "--tokenizer", tokenizer, "--which", "phi-3", "--cpu", "--prompt", PROMPT,
         "-n", SHORT, "--temperature", "0", "--repeat-penalty", "1"]], once=True, greedy=True, env={"RAYON_NUM_THREADS": str(bench.threads)})
    candle.reason = candle.reason or no_tokenizer
    no_flags = table.contender(bench, "llama-completion, no flags", ["llama_cpp"], [
        [tools.llama("llama-completion"), "-m", model, "-no-cnv", "-n", SHORT, "--temp", "0", "-p", PROMPT]], once=True, greedy=True)
    result = bench.row("Completing, other programs", name, [
        Contender("modelve complete", [[tools.modelve, "complete", "-m", model, "--ignore-eos", "-n", SHORT, PROMPT]], warm=[model]),
        candle, mistralrs, quanto, no_flags,
    ], limit=limits.generate(bench.limits, model.stat().st_size, SHORT), runs=2)
    bound = table.ratio(result, "modelve", "llama-completion, no flags")
    stopped = (table.find(result, "llama-completion, no flags") or {}).get("at_least_s")
    if bound is None and stopped:
        # It did not get to its answer in this time: the ratio is smaller still.
        bound = table.value(table.find(result, "modelve")) / stopped
    bench.promise(f"Q4_K_M: {SHORT} tokens from launch: time, of llama-completion with no flags", bound, 0.1)


def fast_tokenizer(bench, checkpoint):
    """A tokenizer.json for programs that read no other, and why there is none."""
    if (checkpoint / "tokenizer.json").exists():
        return checkpoint / "tokenizer.json", ""
    path = bench.work / "tokenizer.json"
    if not bench.tools.python:
        return path, f"needs a tokenizer.json; {bench.tools.why('python')}"
    try:
        call([bench.tools.python, DRIVERS / "fast_tokenizer.py", checkpoint, path], env={**os.environ, "HF_HUB_OFFLINE": "1"})
    except FAILURES as error:
        return path, f"no tokenizer.json could be made: {error}"
    return path, ""
