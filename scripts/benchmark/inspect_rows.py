"""meta and vocab: what is in a file, without its weights."""

from . import limits, table
from .measure import Contender

SECTION = "Looking inside a file"


def rows(bench, model):
    tools, promise = bench.tools, bench.promise
    start = limits.start(bench.limits)
    dump = [tools.python, "-m", "gguf.scripts.gguf_dump"]
    ours = [tools.modelve, "meta", model]
    person = bench.row(SECTION, "metadata for a person", [
        Contender("modelve meta", [ours]),
        table.contender(bench, "gguf-dump (gguf-py)", ["python"], [[*dump, model]]),
    ], limit=start)
    promise("meta: time", seconds(person), 0.010, "s")
    promise("meta: peak memory", memory(person), 16, "MB")
    whole = bench.row(SECTION, "all metadata as JSON", [
        Contender("modelve meta --json --full", [[*ours, "--json", "--full"]]),
        table.contender(bench, "gguf-dump --json --json-array", ["python"], [[*dump, "--json", "--json-array", model]]),
    ], limit=start)
    promise("meta --json --full: time, of gguf-dump", table.ratio(whole, "modelve", "gguf-dump"), 1 / 20)
    promise("meta --json --full: peak memory, of gguf-dump", table.ratio(whole, "modelve", "gguf-dump", "peak_mb"), 1 / 4)

    vocab = [tools.modelve, "vocab", "-m", model]
    token = bench.row(SECTION, "look a token up", [Contender("modelve vocab 1001", [[*vocab, "1001"]])], limit=start)
    promise("vocab 1001: time", seconds(token), 0.015, "s")
    promise("vocab 1001: peak memory", memory(token), 32, "MB")
    tokenize = [tools.llama("llama-tokenize"), "-m", model, "--log-disable"]
    line = bench.row(SECTION, "encode a line", [
        Contender("modelve vocab --encode", [[*vocab, "--encode", table.LINE]]),
        table.contender(bench, "llama-tokenize", ["llama_cpp"], [[*tokenize, "-p", table.LINE]]),
    ], limit=start, runs=bench.options.runs or 25)
    promise("vocab --encode of a line: time, of llama-tokenize", table.ratio(line, "modelve", "llama-tokenize"), 1.0)
    text = bench.work / "text.txt"
    text.write_text((table.LINE + "\n") * (1_000_000 // (len(table.LINE) + 1)))
    encode = 'exec "$0" vocab -m "$1" --json --encode - < "$2"'
    bench.row(SECTION, "encode 1 MB of text", [
        Contender("modelve vocab --json --encode -", [["sh", "-c", encode, tools.modelve, model, text]]),
        table.contender(bench, "llama-tokenize --ids", ["llama_cpp"], [[*tokenize, "-f", text, "--ids"]]),
    ], limit=start)


def seconds(result):
    return table.value(table.find(result, "modelve"))


def memory(result):
    return table.value(table.find(result, "modelve"), "peak_mb")
