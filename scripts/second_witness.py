#!/usr/bin/env python3
"""Compares results of `modelve why` and `modelve patch` with TransformerLens: the ten largest
contributions, and the ten largest effects of patching the residual stream, by sign and order.

    python3 -m venv venv && venv/bin/pip install torch transformers transformer-lens gguf
    modelve why -m exact.gguf PROMPT --json > why.json
    modelve patch -m exact.gguf CLEAN CORRUPT --json > patch.json
    venv/bin/python scripts/second_witness.py models/tiny-phi3 why.json patch.json

The model is a checkpoint's folder, or a GGUF that transformers unpacks. TransformerLens computes
from the tokens in the files, in 32 bits, with weights as they are (nothing folded or centred).
Exits with 1 where one of the ten largest has another sign, where a value is further from
TransformerLens' than --within allows, or where two of the ten change places that are further apart
than that. Of a file in 32 bits that is a thousandth of the largest value. A quantized file's products
round what they multiply to 8 bits, by up to 1/254 of the largest of each block, once in each of some
hundred products that a value passes through: 5 % of the largest value is what that may add up to.
"""
import argparse
import json
import pathlib
import sys

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer


def load(path: pathlib.Path):
    """The model in TransformerLens, and the same as transformers has it. Llama and what is built
    like it: an RMS norm at the end, no biases, nothing normed again before it is added."""
    where = {"pretrained_model_name_or_path": str(path)}
    if path.suffix == ".gguf":
        where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    model = AutoModelForCausalLM.from_pretrained(**where, **options).eval()
    folder = str(path if path.is_dir() else path.parent)
    tokenizer = AutoTokenizer.from_pretrained(**where)
    bridge = TransformerBridge.boot_transformers(
        folder, device="cpu", hf_model=model, tokenizer=tokenizer
    )
    return bridge, model


def direction(found: dict, unembedding: torch.Tensor) -> torch.Tensor:
    """What the normed state is multiplied with to give the measure."""
    rival = found["against"]
    row = unembedding[found["token"]["id"]]
    return row - (unembedding[rival["id"]] if rival else unembedding.mean(0))


def contributions(bridge, unembedding, norm, matrices, found: dict) -> dict[str, float]:
    """Each part's share of the measure at the last token, the final norm's scale frozen."""
    ids = torch.tensor([found["ids"]])
    _, cache = bridge.run_with_cache(ids)
    last = len(matrices) - 1
    final = cache[f"blocks.{last}.hook_resid_post"][0, -1]
    scale = torch.rsqrt(final.pow(2).mean() + norm.variance_epsilon)
    towards = direction(found, unembedding) * norm.weight * scale
    parts = {"embed": cache["blocks.0.hook_resid_pre"][0, -1] @ towards}
    for layer, matrix in enumerate(matrices):
        parts[f"mlp.{layer}"] = cache[f"blocks.{layer}.hook_mlp_out"][0, -1] @ towards
        heads = cache[f"blocks.{layer}.attn.hook_z"][0, -1]
        heads = heads.reshape(bridge.cfg.n_heads, -1)
        width = heads.shape[1]
        for head, output in enumerate(heads):
            columns = matrix[:, head * width : (head + 1) * width]
            parts[f"{layer}.{head}"] = (columns @ output) @ towards
    return {name: float(value) for name, value in parts.items()}


def patched(bridge, found: dict) -> dict[str, float]:
    """The measure with one state of the corrupt prompt replaced by the clean one's."""
    clean, corrupt = (torch.tensor([found[key]]) for key in ("clean_ids", "corrupt_ids"))
    _, cache = bridge.run_with_cache(clean)
    token, rival = found["token"]["id"], found["against"]
    values = {}
    for layer in found["layers"]:
        name = f"blocks.{layer}.hook_resid_post"
        for at, of in zip(found["positions"], found["clean_positions"]):

            def put(state, hook, at=at, of=of, name=name):
                state[0, at] = cache[name][0, of]
                return state

            logits = bridge.run_with_hooks(corrupt, fwd_hooks=[(name, put)])[0, -1]
            value = logits[token] - (logits[rival["id"]] if rival else logits.mean())
            values[f"layer {layer}, position {at}"] = float(value)
    return values


def compare(title: str, ours: dict[str, float], theirs: dict[str, float], within: float) -> bool:
    """Prints both, largest first, and returns whether signs, values and order agree."""
    largest = sorted(ours, key=lambda name: -abs(ours[name]))[:10]
    print(f"{title}\n{'':24}{'modelve':>10}{'TransformerLens':>18}")
    for name in largest:
        print(f"{name:24}{ours[name]:>+10.4f}{theirs[name]:>+18.4f}")
    far = max(abs(ours[name] - theirs[name]) for name in ours)
    signs = all(ours[n] * theirs[n] > 0 for n in largest)
    allowed = within * max(abs(value) for value in theirs.values())
    order = all(
        abs(theirs[a]) >= abs(theirs[b]) - allowed for a, b in zip(largest, largest[1:])
    )
    strict = all(abs(theirs[a]) >= abs(theirs[b]) for a, b in zip(largest, largest[1:]))
    told = "same order" if strict else "same order but for neighbours" if order else "ANOTHER ORDER"
    print(
        f"largest difference of {len(ours)}: {far:.2e}, {'within' if far <= allowed else 'NOT within'} {allowed:.2e}; "
        f"{'same signs' if signs else 'OTHER SIGNS'}, {told}\n"
    )
    return signs and order and far <= allowed


@torch.no_grad()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("found", type=pathlib.Path, nargs="+", help="what --json printed")
    parser.add_argument("--within", type=float, help="share of the largest value that each may differ by")
    args = parser.parse_args()
    bridge, model = load(args.model)
    # TransformerLens wraps the modules of the model, which changes their names.
    state = {name.replace("._original_component", ""): value for name, value in model.state_dict().items()}
    unembedding = state.get("lm_head.weight", state.get("model.embed_tokens.weight"))
    matrices = [
        state[f"model.layers.{layer}.self_attn.o_proj.weight"]
        for layer in range(model.config.num_hidden_layers)
    ]

    class Norm:
        weight = state["model.norm.weight"]
        variance_epsilon = model.config.rms_norm_eps

    agree = True
    for file in args.found:
        found = json.loads(file.read_text())
        exact = found["model"]["quantization"] == "F32"
        within = args.within or (1e-3 if exact else 5e-2)
        if "parts" in found:
            ours = {part["part"]: part["value"] for part in found["parts"]}
            theirs = contributions(bridge, unembedding, Norm, matrices, found)
            agree &= compare("contributions, logits", {n: v for n, v in ours.items() if n in theirs}, theirs, within)
        else:
            theirs = {name: value - found["corrupt_value"] for name, value in patched(bridge, found).items()}
            ours = {
                f"layer {layer}, position {at}": value - found["corrupt_value"]
                for layer, row in zip(found["layers"], found["values"])
                for at, value in zip(found["positions"], row)
            }
            agree &= compare("effects of patching, logits", ours, theirs, within)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
