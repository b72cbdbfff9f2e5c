"""lm-evaluation-harness: compares the log-likelihoods of 200 requests of a task from a local file, by
`local-completions`, with `modelve score --special` of the same texts; also tests chat.

The small model in F32 with an f32 cache agrees within 1e-4, quantized with the defaults within 2e-2 a token. With
CONCURRENT requests at once, 1 by default as in the harness, quantized models differ by more: activations are rounded to
8 bits, and texts that share a batch are rounded otherwise.
"""

import json
import os
import pathlib
import random
import tempfile

from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI
from server import MODEL, ROOT, ask, modelve, serving

SUBJECTS = ["The ball", "A bat", "My uncle", "The club", "The young man", "China"]
VERBS = ["hit", "sleeps by", "talked about", "swung at", "could not afford", "is a country near"]
ENDS = [" the bat", " day", " the sea.", " a large country.", " ärger 😀"]


def requests() -> list[tuple[str, str]]:
    """Contexts and continuations, from a file as a task would have them."""
    draw = random.Random(1)
    rows = []
    while len(rows) < 200:
        rows.append({"context": f"{draw.choice(SUBJECTS)} {draw.choice(VERBS)}",
                     "continuation": draw.choice(ENDS)})
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "task.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        read = map(json.loads, path.read_text().splitlines())
        return [(row["context"], row["continuation"]) for row in read]


class OwnTokens:
    """The server's own tokenizer, as the harness asks for one."""

    def __init__(self, url: str):
        self.url = url

    def encode(self, text: str) -> list[int]:
        body = {"content": text, "add_special": True}
        return ask(self.url + "/tokenize", body)["tokens"]


def compare(model: str, flags: list[str], most: float) -> None:
    pairs = requests()
    with serving(*flags, model=model) as (url, _):
        lm = LocalCompletionsAPI(
            base_url=url + "/v1/completions", model=model, tokenizer_backend=None,
            tokenized_requests=False, num_concurrent=int(os.environ.get("CONCURRENT", "1")),
            max_retries=1, batch_size=1)
        own = OwnTokens(url)
        whole = [(c, e, own.encode(c), own.encode(c + e)) for c, e in pairs]
        # As the harness does with a tokenizer: the continuation is what comes after the context.
        encoded = [((c, e), ids[:len(ctx)], ids[len(ctx):]) for c, e, ctx, ids in whole]
        lm.tokenized_requests, lm.tokenizer = True, own
        got = lm._loglikelihood_tokens(encoded)
    texts = sorted({c + e for c, e in pairs})
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as file:
        file.write("\n".join(texts))
    lines = modelve("score", "-m", model, "--special", "--json", "--lines", "--file", file.name, *flags)
    os.unlink(file.name)
    scored = {value["text"]: value["tokens"] for value in map(json.loads, lines.splitlines())}
    differences = []
    for (context, continuation), (_, ctx, cont), (logprob, greedy) in zip(pairs, encoded, got):
        tokens = scored[context + continuation]
        assert [t["id"] for t in tokens] == ctx + cont
        told = tokens[len(ctx):]
        expected = sum(t["logprob"] for t in told)
        differences.append(abs(logprob - expected) / len(told))
        assert greedy == all(t["rank"] == 1 for t in told), (context, continuation)
    differences.sort()
    print(f"lm-eval local-completions, {model} {' '.join(flags)}: {len(pairs)} log-likelihoods differ a token by "
          f"{differences[len(differences) // 2]:.1e} in the middle and {differences[-1]:.1e} at most; greedy flags equal")
    assert differences[-1] < most, "that is too much"


compare(MODEL, [], 2e-2)
with tempfile.TemporaryDirectory() as folder:
    exact = str(pathlib.Path(folder) / "tiny-f32.gguf")
    modelve("convert", str(ROOT / "models/tiny-phi3"), "-q", "F32", "-o", exact)
    os.environ["CONCURRENT"] = "8"
    compare(exact, ["--kv-type", "f32", "--flash-attn", "off"], 1e-4)

with serving() as (url, _):
    chat = LocalChatCompletion(base_url=url + "/v1/chat/completions", model=MODEL, tokenizer_backend=None,
                               tokenized_requests=False, num_concurrent=1, max_retries=1)
    instances = [Instance("generate_until", {}, (text, {"until": ["\n"], "max_gen_toks": 16}), i)
                 for i, text in enumerate(["What is a bat?", "Where is China?"])]
    try:
        answers = chat.generate_until(instances)
    except AssertionError:
        messages = [json.dumps([{"role": "user", "content": i.args[0]}]) for i in instances]
        from lm_eval.models.api_models import JsonChatStr
        instances = [Instance("generate_until", {}, (JsonChatStr(m), i.args[1]), n)
                     for n, (m, i) in enumerate(zip(messages, instances))]
        answers = chat.generate_until(instances)
    assert all(answers), answers
    print("lm-eval local-chat-completions: runs")
