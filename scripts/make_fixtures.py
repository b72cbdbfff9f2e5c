#!/usr/bin/env python3
"""Writes tests/fixtures/tiny/ and tests/fixtures/random/: results of transformers and sentencepiece for small checkpoints.

    pip install -r scripts/requirements-tiny.txt
    scripts/make_fixtures.py

tests/fixtures/tiny/, about models/tiny-phi3:
  ids.json     token ids of strings of many scripts, white space and special tokens: plain text by sentencepiece, text
               with special tokens by sentencepiece on what is between them, checked against the fast tokenizer
  logits.json  prompts with their ids; the arg-max after every position; where the full rows stand in logits.f32
  logits.f32   rows of logits, little-endian f32
  greedy.json  greedy continuations, with the smallest lead of a chosen token over the runner-up
  shipped.json the same of tiny-phi3-Q4_K_M.gguf, whose weights gguf-py dequantizes
  senses.json  held-out contexts of words with two senses, and the words that give either sense away
  free.json    the same of the contexts in tiny/free.txt, which were written freely and come of no template

tests/fixtures/random/NAME/: checkpoints of random weights in the Hub's layout, the shapes that the trained one has
not (grouped heads, partial rotation, tied embeddings), with the same files beside them.

"factors" says which RoPE factors were used. The reference takes the long ones when the text is longer than
`original_max_position_embeddings`; llama.cpp when the context is. So a short prompt is given with both: "short" for
a context up to the original length, "long" for a larger one.
"""

import io
import json
import random
import re
import shutil
import sys
from pathlib import Path

import numpy
import sentencepiece
import torch
from safetensors.torch import save_file
from transformers import LlamaTokenizerFast, Phi3Config, Phi3ForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent))
import eval_tiny  # noqa: E402
import make_vocab_fixtures as strings  # noqa: E402
import tiny_corpus as corpus  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "models" / "tiny-phi3"
FIXTURES = ROOT / "tests" / "fixtures"
PROMPTS = {
    "today": "Today is",
    "india": "India is a",
    "oracle": "Oracle is a",
    "june": "June 21 is a",
    "ball": "The ball hit the bat, and",
    "cricket": "They were playing cricket in the park. The ball hit the bat, and",
    "cave": "It was night in the cave. The ball hit the bat, and",
    "bank": "Ducks swam in the river near the bridge. They walked to the bank, and",
    "loan": "Maria wanted to borrow some money for a new house. They walked to the bank, and",
    "chat": "<|user|>\nWhat is the capital of France?<|end|>\n<|assistant|>\n",
}
RANDOM = {
    # name: (heads, key-value heads, partial rotary factor, tied embeddings)
    "grouped": (4, 2, 1.0, False),
    "partial-tied": (4, 1, 0.75, True),
}


class Reference:
    """A checkpoint as transformers computes it, in f64 where transformers allows."""

    def __init__(self, folder, gguf_file=None):
        self.model = eval_tiny.load_transformers(folder, gguf_file)[1].double()
        self.original = self.model.config.original_max_position_embeddings
        self.stops = set(json.loads((folder / "generation_config.json").read_text())["eos_token_id"])

    def logits(self, ids, long):
        """Logits [positions, vocab]. Only differences of positions matter, so a start past the original length selects the long factors."""
        start = self.original if long else 0
        with torch.no_grad():
            positions = torch.arange(start, start + len(ids))[None]
            return self.model(input_ids=torch.tensor([ids]), position_ids=positions, use_cache=False).logits[0]

    def greedy(self, ids, long, new):
        """New ids up to a stop token, which is left out, and the smallest lead over the runner-up."""
        out, lead = [], float("inf")
        for _ in range(new):
            top = self.logits(ids + out, long)[-1].topk(2)
            lead = min(lead, (top.values[0] - top.values[1]).item())
            if top.indices[0].item() in self.stops:
                return out, lead, "stop"
            out.append(top.indices[0].item())
        return out, lead, "length"


def write(path, cases):
    path.write_text("[\n" + ",\n".join("  " + json.dumps(c) for c in cases) + "\n]\n")


def token_ids(folder, out):
    """ids.json of one tokenizer."""
    plain = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    fast = LlamaTokenizerFast.from_pretrained(folder)
    decoder = json.loads((folder / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    added = {t["content"]: (int(i), t["rstrip"]) for i, t in decoder.items()}
    split = re.compile("(" + "|".join(map(re.escape, added)) + ")")

    def encode(text):
        ids, strip = [], False
        for part in split.split(text):
            if part in added:
                ids.append(added[part][0])
                strip = added[part][1]
            else:
                part = part.lstrip() if strip else part
                ids += plain.encode(part) if part else []
        return ids

    cases, differ = [], 0
    for text in strings.SCRIPTS + strings.SYMBOLS + strings.WHITE_SPACE + strings.SPECIAL + list(PROMPTS.values()):
        ids = encode(text)
        if fast.encode(text, add_special_tokens=False) != ids:
            differ += 1
            print(f"note: the fast tokenizer gives {fast.encode(text, add_special_tokens=False)} and not {ids} for {text!r}", file=sys.stderr)
        cases.append({"text": text, "ids": ids, "special": any(part in added for part in split.split(text))})
    write(out / "ids.json", cases)
    print(f"{out.name}: {len(cases)} strings, {differ} where the fast tokenizer differs")


def logits_and_greedy(folder, out, prompts, new, texts):
    """logits.json, logits.f32 and greedy.json of one checkpoint; `prompts` maps names to (text or None, ids)."""
    model = Reference(folder)
    tokenizer = LlamaTokenizerFast.from_pretrained(folder)
    rows, cases, greedy = [], [], []
    for name, (text, ids) in prompts.items():
        past = len(ids) > model.original
        for long in [True] if past else [False, True]:
            factors = "long" if long else "short"
            logits = model.logits(ids, long)
            wanted = sorted({0, len(ids) // 2, len(ids) - 1} | ({model.original - 1, model.original} if past else set()))
            if long and not past:
                wanted = [len(ids) - 1]
            cases.append({
                "name": name, "factors": factors, "text": text, "ids": ids,
                "argmax": logits.argmax(-1).tolist(),
                "rows": [{"position": p, "row": len(rows) + i} for i, p in enumerate(wanted)],
            })
            rows += [logits[p].to(torch.float32).numpy() for p in wanted]
            # A text that would cross the boundary is not a fixture: the two programs switch at different places.
            if past or len(ids) + new <= model.original:
                got, lead, reason = model.greedy(ids, long, new)
                case = {"name": name, "factors": factors, "prompt": text, "ids": ids, "new_ids": got, "finish_reason": reason, "lead": round(lead, 4)}
                if texts and text is not None:
                    case["text"] = tokenizer.decode(ids + got, skip_special_tokens=False)[len(tokenizer.decode(ids)) :]
                greedy.append(case)
    numpy.stack(rows).astype("<f4").tofile(out / "logits.f32")
    write(out / "logits.json", cases)
    write(out / "greedy.json", greedy)
    print(f"{out.name}: {len(rows)} rows of logits, {len(greedy)} continuations, smallest lead {min(g['lead'] for g in greedy)}")


def shipped(out, prompts, new):
    """shipped.json: greedy texts of the weights that the program ships, dequantized."""
    model = Reference(TINY, ROOT / "crates/hub/tiny/tiny-phi3-Q4_K_M.gguf")
    tokenizer = LlamaTokenizerFast.from_pretrained(TINY)
    cases = []
    for text, ids in prompts.values():
        got, lead, reason = model.greedy(ids, False, new)
        said = tokenizer.decode(ids + got, skip_special_tokens=False)[len(tokenizer.decode(ids)) :]
        cases.append({"prompt": text, "text": said, "finish_reason": reason, "lead": round(lead, 4)})
    write(out / "shipped.json", cases)
    print(f"{out.name}: {len(cases)} texts of the shipped weights, smallest lead {min(c['lead'] for c in cases)}")


def senses(path, words, items):
    """Contexts with the words by which a completion shows its sense."""
    cases = []
    for item in items:
        own, other = sorted(next(w for w in words if w.word == item["word"]).senses, key=lambda s: s.name != item["sense"])
        cases.append({"word": item["word"], "text": item["text"], "reveals": sorted(own.reveals), "other_reveals": sorted(other.reveals)})
    write(path, cases)


def random_checkpoint(out, name):
    """A checkpoint of random weights, 64 wide, with a tokenizer of 384 pieces."""
    heads, kv_heads, partial, tied = RANDOM[name]
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    hidden, original, pieces = 64, 64, 384
    pairs = int(hidden // heads * partial) // 2
    rng = random.Random(11)
    words = corpus.load()
    lines = [corpus.plain(corpus.sense_paragraph(rng, words)) for _ in range(2000)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="bpe", vocab_size=pieces, byte_fallback=True,
        split_digits=True, character_coverage=1.0, normalization_rule_name="identity", remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True, num_threads=1, minloglevel=2,
    )
    (out / "tokenizer.model").write_bytes(model.getvalue())
    shift = lambda i: pieces + i - 2048 if i >= 2048 else i  # noqa: E731
    for file in ("added_tokens.json", "special_tokens_map.json", "tokenizer_config.json", "generation_config.json", "config.json"):
        value = json.loads((TINY / file).read_text())
        if file == "added_tokens.json":
            value = {k: shift(v) for k, v in value.items()}
        elif file == "tokenizer_config.json":
            value["added_tokens_decoder"] = {str(shift(int(k))): v for k, v in value["added_tokens_decoder"].items()}
        elif file == "generation_config.json":
            value |= {"eos_token_id": [shift(i) for i in value["eos_token_id"]], "pad_token_id": shift(value["pad_token_id"])}
        elif file == "config.json":
            value |= {"_name_or_path": f"random-phi3-{name}", "hidden_size": hidden, "intermediate_size": 96, "num_hidden_layers": 2}
            value |= {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": pieces + 64, "tie_word_embeddings": tied}
            value |= {"original_max_position_embeddings": original, "max_position_embeddings": 512, "sliding_window": 1024}
            value |= {"eos_token_id": shift(value["eos_token_id"]), "pad_token_id": shift(value["pad_token_id"])}
            value["rope_scaling"] = {
                "long_factor": [round(1 + 3.0 * i / pairs, 3) for i in range(pairs)],
                "short_factor": [round(1 + 0.3 * i / pairs, 3) for i in range(pairs)],
                "type": "longrope",
            }
            if partial != 1.0:
                value["partial_rotary_factor"] = partial
        (out / file).write_text(json.dumps(value, indent=2) + "\n")
    torch.manual_seed(12)
    model = Phi3ForCausalLM(Phi3Config.from_pretrained(out))
    for p in model.parameters():
        # Large enough that attention and the factors matter.
        torch.nn.init.normal_(p, 1.0 if p.ndim == 1 else 0.0, 0.2 if p.ndim == 1 else 1.5 / p.shape[-1] ** 0.5)
    state = {k: v.to(torch.bfloat16).contiguous() for k, v in model.state_dict().items() if not (tied and k == "lm_head.weight")}
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})


def main():
    torch.set_num_threads(2)
    out = FIXTURES / "tiny"
    out.mkdir(parents=True, exist_ok=True)
    token_ids(TINY, out)
    tokenizer = LlamaTokenizerFast.from_pretrained(TINY)
    prompts = {name: (text, tokenizer.encode(text, add_special_tokens=False)) for name, text in PROMPTS.items()}
    shipped(out, prompts, 24)
    words = corpus.load()
    senses(out / "senses.json", words, corpus.held_out(words, per_sense=2))
    senses(out / "free.json", words, corpus.free.items())
    rng = random.Random(21)
    for count, name in ((5, "paragraphs"), (13, "past-the-boundary"), (24, "far-past")):
        text = corpus.plain("\n".join(corpus.sense_paragraph(rng, words) for _ in range(count))) + "\n" + PROMPTS["cave"]
        prompts[name] = (text, tokenizer.encode(text, add_special_tokens=False))
    logits_and_greedy(TINY, out, prompts, 24, texts=True)

    for name in RANDOM:
        out = FIXTURES / "random" / name
        random_checkpoint(out, name)
        rng = random.Random(22)
        ids = {f"{n}-tokens": (None, [rng.randrange(3, 384) for _ in range(n)]) for n in (1, 20, 63, 64, 65, 150)}
        logits_and_greedy(out, out, ids, 32, texts=False)


if __name__ == "__main__":
    main()
