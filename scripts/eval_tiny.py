#!/usr/bin/env python3
"""Measures the tiny model on data that was held out of its training.

    scripts/eval_tiny.py                                  the checkpoint, in F32, by transformers
    scripts/eval_tiny.py --gguf tiny-Q4_K_M.gguf          the same with a GGUF's weights, dequantized
    scripts/eval_tiny.py --command 'target/debug/modelve complete -m tiny.gguf -n 20 {}'
                                                          any program that completes the prompt put for {}

Prints the sense agreement (the share of held-out items whose greedy completion shows the sense of its context: in
its first sentence a word that gives that sense away and none that gives away the other), the same of contexts that
were written freely (tiny/free.txt) and of held-out ones after more than 256 tokens of other text, the answers to
held-out questions in chat form, the perplexity of the held-out paragraphs, and completions of a few well-known
prompts.
"""

import argparse
import concurrent.futures
import math
import random
import shlex
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import tiny_corpus as corpus  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
PROMPTS = [
    "Today is", "India is a", "Pakistan is a", "China is a", "Burma is a", "June 21 is a", "Oracle is a",
    "They were playing cricket in the park. The ball hit the bat, and",
    "It was night in the cave. The ball hit the bat, and",
    "The bowler ran in at Lord's and the crowd went quiet. The ball hit the bat, and",
    "The ball hit the bat, and",
]
GGUF_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight",
    "attn_norm.weight": "input_layernorm.weight", "attn_qkv.weight": "self_attn.qkv_proj.weight", "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight", "ffn_up.weight": "mlp.gate_up_proj.weight", "ffn_down.weight": "mlp.down_proj.weight",
}


def fillers(words, count, seed=3):
    """Texts of unrelated paragraphs, each longer than 256 tokens."""
    rng = random.Random(seed)
    return [corpus.plain(corpus.long_document(rng, words, 12)) + "\n" for _ in range(count)]


def questions(words, count=200, seed=4):
    """Questions about held-out scenes and about the world, with their answers."""
    rng = random.Random(seed)
    out = []
    for _ in range(count // 2):
        sense = rng.choice(rng.choice(words).senses)
        scene = rng.choice([s for t in sense.scenes for s in t if corpus.scene_held_out(s)] or sense.scenes[0])
        out.append((f"{scene} What is the {sense.word} here?", f"Here the {sense.word} is {sense.gloss}."))
    return out + [corpus.world.question(rng) for _ in range(count - len(out))]


def load_transformers(folder, gguf_file):
    import torch
    from transformers import LlamaTokenizerFast, Phi3ForCausalLM

    tokenizer = LlamaTokenizerFast.from_pretrained(folder)
    model = Phi3ForCausalLM.from_pretrained(folder, torch_dtype=torch.float32, attn_implementation="eager").eval()
    if gguf_file:
        import gguf

        state = {}
        for t in gguf.GGUFReader(gguf_file).tensors:
            head, _, tail = t.name.partition(".")
            name = GGUF_NAMES.get(t.name)
            if head == "blk":
                layer, _, rest = tail.partition(".")
                name = f"model.layers.{layer}.{GGUF_NAMES[rest]}"
            if name:
                shape = [int(n) for n in reversed(t.shape)]
                state[name] = torch.tensor(gguf.dequantize(t.data, t.tensor_type).reshape(shape).copy())
        model.load_state_dict(state, strict=True)
    return tokenizer, model


def complete_transformers(tokenizer, model, prompts, new=20):
    """Greedy completions, batches of like length, as text with special tokens kept."""
    import torch

    out = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for at in range(0, len(order), 48):
        part = order[at : at + 48]
        x = tokenizer([prompts[i] for i in part], return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        with torch.no_grad():
            y = model.generate(x.input_ids, attention_mask=x.attention_mask, max_new_tokens=new, do_sample=False)
        for i, row in zip(part, y[:, x.input_ids.size(1) :]):
            out[i] = tokenizer.decode(row)
    return out


def complete_command(command, prompts):
    """Completions by a program, one run per prompt."""

    def one(prompt):
        argv = [prompt if a == "{}" else a for a in shlex.split(command)]
        return subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.decode()

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, prompts))


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--checkpoint", type=Path, default=ROOT / "models" / "tiny-phi3")
    args.add_argument("--gguf")
    args.add_argument("--command")
    args.add_argument("--per-sense", type=int, default=14)
    args.add_argument("--free", type=Path, default=corpus.free.FREE, help="freely written contexts, as in tiny/free.txt")
    args.add_argument("--show-wrong", action="store_true")
    args = args.parse_args()
    words = corpus.load()
    items = corpus.held_out(words, args.per_sense)
    if args.command:
        complete = lambda texts: complete_command(args.command, texts)  # noqa: E731
    else:
        tokenizer, model = load_transformers(args.checkpoint, args.gguf)
        complete = lambda texts: complete_transformers(tokenizer, model, texts)  # noqa: E731

    for what, asked in (("held-out", items), ("freely written", corpus.free.items(args.free))):
        share, wrong = corpus.agreement(words, asked, complete([i["text"] for i in asked]))
        print(f"sense agreement: {100 * share:.1f} % of {len(asked)} {what} items")
        if args.show_wrong:
            for item, text in wrong:
                print(f"  {item['word']}/{item['sense']}: {item['text']} ->{text!r}")
        bad = {}
        for item, _ in wrong:
            bad[item["word"]] = bad.get(item["word"], 0) + 1
        print("  words with errors:", ", ".join(f"{w} {n}" for w, n in sorted(bad.items(), key=lambda x: -x[1])) or "none")
    some = random.Random(5).sample(items, min(150, len(items)))
    texts = [f + i["text"] for f, i in zip(fillers(words, len(some)), some)]
    share, _ = corpus.agreement(words, some, complete(texts))
    print(f"after long other text: {100 * share:.1f} % of {len(some)}")

    if not args.command:
        asked = questions(words)
        answers = complete([f"<|user|>\n{q}<|end|>\n<|assistant|>\n" for q, _ in asked])
        right = [a.lstrip().startswith(answer + "<|end|>") for (_, answer), a in zip(asked, answers)]
        half = len(asked) // 2
        print(f"chat: {sum(right[:half])} of {half} questions about a sense in a held-out scene, {sum(right[half:])} of {half} about the world; both with <|end|>")
        import train_tiny

        print(f"perplexity of the held-out paragraphs: {math.exp(train_tiny.held_out_loss(model, tokenizer, items)):.3f}")
    for prompt, text in zip(PROMPTS, complete(PROMPTS)):
        print(f"{prompt} |{text}")


if __name__ == "__main__":
    main()
