#!/usr/bin/env python3
"""Trains models/tiny-phi3: a small Phi-3 with a tokenizer of its own, on the corpus of tiny_corpus.py.

    pip install -r scripts/requirements-tiny.txt
    scripts/train_tiny.py [--out models/tiny-phi3] [--tokens 5500000] [--threads 2]

With `--init` it continues from a checkpoint. The README of models/tiny-phi3 says how the shipped one was made.

Everything is seeded; the same machine, thread count and versions give the same weights. The model is transformers'
own `Phi3ForCausalLM`. A share of the training is past the original context length, where LongRoPE takes the long
factors, and a share of the short documents is trained with the long factors too, because llama.cpp chooses the
factors by the size of the context, not by the length of the text.
"""

import argparse
import bisect
import io
import json
import math
import random
import re
import shutil
import sys
import time
from pathlib import Path

import sentencepiece as spm
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaTokenizerFast, Phi3Config, Phi3ForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent))
import tiny_corpus as corpus  # noqa: E402

SEED = 20240621
PIECES = 2048  # SentencePiece pieces; the added tokens follow, as in Phi-3
VOCAB = PIECES + 64  # 11 added tokens and 53 unused rows, as in Phi-3 (32000, 32064)
ADDED = ["<|endoftext|>", "<|assistant|>"] + [f"<|placeholder{i}|>" for i in range(1, 5)]
ADDED += ["<|system|>", "<|end|>", "<|placeholder5|>", "<|placeholder6|>", "<|user|>"]
IDS = {text: PIECES + i for i, text in enumerate(ADDED)}
HIDDEN, LAYERS, HEADS, INTERMEDIATE = 256, 6, 4, 512
ORIGINAL, CONTEXT = 256, 1024
PAIRS = HIDDEN // HEADS // 2  # rotary pairs per head
SHORT_FACTOR = [round(1 + 0.3 * (i / (PAIRS - 1)) ** 2, 2) for i in range(PAIRS)]
LONG_FACTOR = [round(1 + 5.0 * (i / (PAIRS - 1)) ** 1.5, 2) for i in range(PAIRS)]
HINGE_WEIGHT, LOOSE_WEIGHT = 4.0, 0.3
MATRIX_RATE, EMBEDDING_RATE = 0.02, 0.015  # of Muon and of Adam, at their highest
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)


def config():
    """config.json, with the keys of Phi-3's."""
    return {
        "_name_or_path": "tiny-phi3",
        "architectures": ["Phi3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "embd_pdrop": 0.0,
        "eos_token_id": IDS["<|endoftext|>"],
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": CONTEXT,
        "model_type": "phi3",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": HEADS,
        "original_max_position_embeddings": ORIGINAL,
        "pad_token_id": IDS["<|endoftext|>"],
        "resid_pdrop": 0.0,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {"long_factor": LONG_FACTOR, "short_factor": SHORT_FACTOR, "type": "longrope"},
        "rope_theta": 10000.0,
        "sliding_window": 2 * CONTEXT,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.57.6",
        "use_cache": True,
        "vocab_size": VOCAB,
    }


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def train_tokenizer(out, words):
    """Train the SentencePiece model and write the tokenizer's files in the Hub's layout."""
    rng = random.Random(SEED)
    lines = []
    for _ in range(25000):
        lines.append(corpus.plain(corpus.paragraph(rng, words)).replace("\n", " "))
        ask, answer = corpus.sense_question(rng, words) if rng.random() < 0.3 else corpus.world.question(rng)
        if rng.random() < 0.3:
            lines += [ask, corpus.plain(answer)]
    # Written by us: the trainer would keep the path of the file in the model.
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=PIECES,
        byte_fallback=True,
        split_digits=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    (out / "tokenizer.model").write_bytes(model.getvalue())

    def added(text, rstrip, special):
        return {"content": text, "lstrip": False, "normalized": False, "rstrip": rstrip, "single_word": False, "special": special}

    # White space after an added token is dropped, but not after <|endoftext|>; </s> is an ordinary added token.
    decoder = {"0": added("<unk>", False, True), "1": added("<s>", False, True), "2": added("</s>", True, False)}
    for text, i in IDS.items():
        decoder[str(i)] = added(text, text != "<|endoftext|>", True)
    write_json(out / "added_tokens.json", IDS)
    special = {"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<unk>"}
    write_json(
        out / "special_tokens_map.json",
        {k: {"content": v, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False} for k, v in special.items()},
    )
    settings = {"add_bos_token": False, "add_eos_token": False, "added_tokens_decoder": decoder}
    settings |= {"chat_template": CHAT_TEMPLATE, "clean_up_tokenization_spaces": False, "legacy": False}
    settings |= {"model_max_length": CONTEXT, "padding_side": "left", "sp_model_kwargs": {}, "tokenizer_class": "LlamaTokenizer"}
    settings |= {"use_default_system_prompt": False} | special
    # The fast tokenizer is made with `legacy`: the text after an added token then starts a word, as it does with the
    # tokenizer.json of Phi-3 and in llama.cpp.
    write_json(out / "tokenizer_config.json", settings | {"legacy": True})
    LlamaTokenizerFast.from_pretrained(out, from_slow=True).backend_tokenizer.save(str(out / "tokenizer.json"))
    write_json(out / "tokenizer_config.json", dict(sorted(settings.items())))


class Muon(torch.optim.Optimizer):
    """Momentum whose step is made orthogonal (K. Jordan and others, 2024), for matrices; fused ones by their parts.

    Matrices of one shape are done together.
    """

    def __init__(self, matrices, lr, momentum=0.95, weight_decay=0.02):
        super().__init__([m for m, _ in matrices], {"lr": lr})
        self.parts = {m: parts for m, parts in matrices}
        self.momentum, self.weight_decay = momentum, weight_decay

    @staticmethod
    def orthogonal(x):
        """Five Newton-Schulz steps on [batch, rows, columns]."""
        tall = x.size(1) > x.size(2)
        x = x.bfloat16()
        x = x.transpose(1, 2) if tall else x
        x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
        for _ in range(5):
            a = x @ x.transpose(1, 2)
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
        return (x.transpose(1, 2) if tall else x).float()

    @torch.no_grad()
    def step(self):
        shapes = {}
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                buffer = state.setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - self.momentum)
                step = p.grad.lerp(buffer, self.momentum)
                p.mul_(1 - group["lr"] * self.weight_decay)
                for weight, update in zip(p.chunk(self.parts[p]), step.chunk(self.parts[p])):
                    shapes.setdefault(tuple(weight.shape), []).append((weight, update))
            for (rows, columns), pairs in shapes.items():
                updates = self.orthogonal(torch.stack([u for _, u in pairs]))
                for (weight, _), update in zip(pairs, updates):
                    weight.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def build_model():
    torch.manual_seed(SEED)
    settings = Phi3Config(**config() | {"sliding_window": None, "torch_dtype": "float32"}, attn_implementation="eager")
    model = Phi3ForCausalLM(settings)
    for name, p in model.named_parameters():  # the branches start small
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            p.data.mul_(1 / math.sqrt(2 * LAYERS))
    return model


def weighed(tokenizer, texts, limit):
    """Ids of documents, each with its end of text, and the weight of each id in the loss.

    What the sense decides is a few tokens in a hundred: the four after a hinge weigh more. What is put together at
    random cannot be learned: it weighs less.
    """
    marks = []
    for text in texts:
        found = re.finditer(f"[{corpus.HINGE}{corpus.LOOSE}{corpus.TIGHT}]", text)
        marks.append([(m.group(), m.start() - n) for n, m in enumerate(found)])
    made = tokenizer([corpus.plain(t) for t in texts], add_special_tokens=False, return_offsets_mapping=True)
    out = []
    for ids, spans, found in zip(made["input_ids"], made["offset_mapping"], marks):
        starts = [s for s, _ in spans]
        weights = [1.0] * len(ids)
        loose = None
        for mark, at in found:
            first = bisect.bisect_left(starts, at)
            if mark == corpus.LOOSE:
                loose = first
            elif mark == corpus.TIGHT:
                weights[loose:first] = [LOOSE_WEIGHT] * (first - loose)
            else:
                weights[first : first + 4] = [HINGE_WEIGHT] * len(weights[first : first + 4])
        out.append((ids[: limit - 1] + [IDS["<|endoftext|>"]], weights[: limit - 1] + [1.0]))
    return out


def batches(tokenizer, words, budget, per_batch, seed):
    """Batches of token ids [documents, length] padded with -1, their weights and the progress, until the budget is used up.

    One batch in nine is long: past ORIGINAL. Documents of about one length go together.
    """
    rng = random.Random(seed)
    used = 0
    while used < budget:
        short = weighed(tokenizer, [corpus.document(rng, words) for _ in range(2000)], ORIGINAL)
        short.sort(key=lambda s: (len(s[0]), rng.random()))
        long = weighed(tokenizer, [corpus.long_document(rng, words, rng.choice((8, 10, 13, 18, 24))) for _ in range(24)], CONTEXT)
        long = sorted((s for s in long if len(s[0]) > ORIGINAL), key=lambda s: len(s[0]))
        made = []
        for group in (short, long):
            batch = []
            for s in group:
                if batch and (len(batch) + 1) * len(s[0]) > per_batch:
                    made.append(batch)
                    batch = []
                batch.append(s)
            made.append(batch)
        rng.shuffle(made)
        for batch in made:
            width = max(len(s) for s, _ in batch)
            used += sum(len(s) for s, _ in batch)
            ids = torch.tensor([s + [-1] * (width - len(s)) for s, _ in batch])
            weights = torch.tensor([w + [0.0] * (width - len(w)) for _, w in batch])
            yield ids, weights, min(1.0, used / budget)
            if used >= budget:
                return


def held_out_loss(model, tokenizer, items):
    """Mean negative log-likelihood per token of held-out items (scene, prefix, one continuation, end of text)."""
    total = count = 0
    texts = [f"{i['text']} {i['end']}" for i in items]
    rows = sorted((ids + [IDS["<|endoftext|>"]] for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]), key=len)
    with torch.no_grad():
        for i in range(0, len(rows), 64):
            part = rows[i : i + 64]
            x = torch.tensor([r + [-1] * (len(part[-1]) - len(r)) for r in part])
            logits = model(input_ids=x.clamp(min=0), use_cache=False).logits[:, :-1].float()
            total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten(), ignore_index=-1, reduction="sum").item()
            count += (x[:, 1:] >= 0).sum().item()
    return total / count


def write_checkpoint(model, out):
    """Weights in bf16 and the configuration."""
    write_json(out / "config.json", config())
    stops = [IDS["<|endoftext|>"], IDS["<|assistant|>"], IDS["<|end|>"]]
    generation = {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": stops, "pad_token_id": stops[0]}
    write_json(out / "generation_config.json", generation | {"transformers_version": "4.57.6"})
    tensors = {k: v.detach().to(torch.bfloat16).contiguous() for k, v in model.state_dict().items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "models" / "tiny-phi3")
    args.add_argument("--tokens", type=int, default=5_500_000)
    args.add_argument("--batch", type=int, default=2048, help="tokens per step")
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--init", type=Path, help="a checkpoint folder to go on from, with its tokenizer")
    args.add_argument("--decay", type=float, default=0.5, help="share of the training, at its end, over which the rates fall to nothing")
    args.add_argument("--rate", type=float, default=1.0, help="share of the learning rates to train with")
    args.add_argument("--seed", type=int, default=SEED)
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    words = corpus.load()
    if args.init:
        for file in args.init.glob("*token*"):
            shutil.copy(file, args.out)
    else:
        train_tokenizer(args.out, words)
    tokenizer = LlamaTokenizerFast.from_pretrained(args.out)
    items = corpus.held_out(words, per_sense=4)
    model = build_model()
    if args.init:
        model.load_state_dict({k: v.float() for k, v in load_file(args.init / "model.safetensors").items()})
    matrices, rest = [], []
    for name, p in model.named_parameters():
        if "layers" in name and p.ndim == 2:
            matrices.append((p, 3 if "qkv" in name else 2 if "gate_up" in name else 1))
        else:
            rest.append(p)
    muon = Muon(matrices, lr=MATRIX_RATE)
    adam = torch.optim.AdamW(rest, lr=EMBEDDING_RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} million parameters", flush=True)

    rng = random.Random(args.seed + 2)
    began, seen, mean = time.time(), 0, None
    for step, (x, weights, progress) in enumerate(batches(tokenizer, words, args.tokens, args.batch, args.seed + 1)):
        scale = args.rate * min(1.0, (step + 1) / 60) * min(1.0, (1 - progress) / args.decay + 0.01)
        muon.param_groups[0]["lr"], adam.param_groups[0]["lr"] = MATRIX_RATE * scale, EMBEDDING_RATE * scale
        # Positions that start at ORIGINAL make a short text take the long factors; only differences matter to RoPE.
        start = ORIGINAL if x.size(1) <= ORIGINAL and rng.random() < 0.3 else 0
        positions = torch.arange(start, start + x.size(1))[None]
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.model(input_ids=x.clamp(min=0), position_ids=positions, use_cache=False).last_hidden_state
            keep = x[:, 1:] >= 0
            logits = model.lm_head(hidden[:, :-1][keep])
        each = torch.nn.functional.cross_entropy(logits.float(), x[:, 1:][keep], reduction="none")
        weight = weights[:, 1:][keep]
        (each @ weight / weight.sum()).backward()
        loss = each.detach().mean()
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        muon.step()
        adam.step()
        model.zero_grad(set_to_none=True)
        seen += int(keep.sum())
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if step % 50 == 0:
            print(f"step {step} progress {progress:.3f} loss {mean:.3f} {seen / (time.time() - began):.0f} tok/s", flush=True)
        if step % 200 == 199:
            model.eval()
            print(f"held out: perplexity {math.exp(held_out_loss(model, tokenizer, items)):.3f}", flush=True)
            write_checkpoint(model, args.out)
            model.train()
    model.eval()
    print(f"held out: perplexity {math.exp(held_out_loss(model, tokenizer, items)):.3f} after {time.time() - began:.0f} s", flush=True)
    write_checkpoint(model, args.out)


if __name__ == "__main__":
    main()
