"""lm-evaluation-harness: log-likelihoods of 200 requests of a task from a local file, by
`local-completions`, held against `modelve score --special` of the same texts; and chat.

In F32 with an f32 cache (the built-in model is Q4_K_M, so EXACT_MODEL names a file in F32, where
one is at hand) they agree within 1e-4, else within 2e-2.
"""

import json
import os
import pathlib
import random
import tempfile

from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI
from server import MODEL, ask, modelve, serving

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
            tokenized_requests=False, num_concurrent=8, max_retries=1, batch_size=1)
        own = OwnTokens(url)
        whole = [(c, e, own.encode(c), own.encode(c + e)) for c, e in pairs]
        # As the harness does with a tokenizer: the continuation is what comes after the context.
        encoded = [((c, e), ids[:len(ctx)], ids[len(ctx):]) for c, e, ctx, ids in whole]
        lm.tokenized_requests = True
        got = lm._loglikelihood_tokens(encoded)
    worst = 0.0
    texts = sorted({c + e for c, e in pairs})
    scored = {}
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as file:
        file.write("\n".join(texts))
    lines = modelve("score", "-m", model, "--special", "--json", "--lines", "--file", file.name, *flags)
    for line in lines.splitlines():
        value = json.loads(line)
        scored[value["text"]] = value["tokens"]
    os.unlink(file.name)
    for (context, continuation), (_, ctx, cont), (logprob, greedy) in zip(pairs, encoded, got):
        tokens = scored[context + continuation]
        assert [t["id"] for t in tokens] == ctx + cont
        told = tokens[len(ctx):]
        expected = sum(t["logprob"] for t in told)
        worst = max(worst, max(abs(logprob - expected) / len(told), 0))
        assert abs(logprob - expected) < most * len(told), (context, continuation, logprob, expected)
        assert greedy == all(t["rank"] == 1 for t in told), (context, continuation)
    print(f"lm-eval local-completions, {model}: {len(pairs)} log-likelihoods within {worst:.1e} a token, "
          "greedy flags equal")


compare(MODEL, [], 2e-2)
if os.environ.get("EXACT_MODEL"):
    compare(os.environ["EXACT_MODEL"], ["--kv-type", "f32", "--flash-attn", "off"], 1e-4)

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
