#!/usr/bin/env python3
"""Makes the references of tests/library/experiment_reference.rs, which transformers computes in 64 bits from
the models of make_heads_fixtures.py: results with parts removed, results with states of one prompt put into
another, and the contribution of every part to the difference of two logits.

    venv/bin/python scripts/make_experiment_fixtures.py tests/fixtures/experiment

Needs the same packages as make_heads_fixtures.py; the weights must be those in tests/fixtures/heads.
"""
import json
import pathlib
import sys

import torch
from safetensors.torch import load_file

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import make_heads_fixtures as base  # noqa: E402

CLEAN = [1, 270, 280, 290, 300, 310]
CORRUPT = [1, 271, 280, 265, 300, 291]
TOKEN, AGAINST = 285, 301


def first(value):
    return value[0] if isinstance(value, tuple) else value


def replaced(out, value):
    return (value, *out[1:]) if isinstance(out, tuple) else value


class Experiment:
    """A model with values of its pass read and replaced."""

    def __init__(self, model):
        self.model, self.at = model, base.Layout(model)
        self.n_layer, self.n_head = len(self.at.layers), base.HEADS

    def module(self, what, layer):
        """What writes a value, and whether it is that one's input."""
        block = self.at.layers[layer]
        return {"residual": (block, False), "attention": (self.at.attention(block), False),
                "mlp": (self.at.mlp(block), False), "head": (self.at.output(block)[0], True)}[what]

    def run(self, ids, edits=()):
        """Logits after the last token. An edit is (what, layer, function of the value in place)."""
        hooks = []
        for what, layer, change in edits:
            module, is_input = self.module(what, layer)
            if is_input:
                def before(_, inputs, change=change):
                    value = inputs[0].clone()
                    change(value[0])
                    return (value, *inputs[1:])
                hooks.append(module.register_forward_pre_hook(before))
            else:
                def after(_, __, out, change=change):
                    value = first(out).clone()
                    change(value[0])
                    return replaced(out, value)
                hooks.append(module.register_forward_hook(after))
        with torch.no_grad():
            logits = self.model(torch.tensor([ids])).logits[0, -1]
        for hook in hooks:
            hook.remove()
        return logits

    def read(self, ids):
        """Every value of a pass: `[what][layer]` as `[tokens, width]`."""
        seen = {what: [None] * self.n_layer for what in ("residual", "attention", "mlp", "head")}

        def keep(what, layer):
            def change(value):
                seen[what][layer] = value.clone()
            return (what, layer, change)

        self.run(ids, [keep(what, layer) for what in seen for layer in range(self.n_layer)])
        return seen

    def value(self, logits):
        return float(logits[TOKEN] - logits[AGAINST])

    def head(self, state, head):
        size = state.shape[-1] // self.n_head
        return state[..., head * size:(head + 1) * size]


def ablated(run):
    """The measure without each head, attention, MLP and layer, at all positions."""
    def zero(value):
        value.zero_()

    found = {"head": [], "attention": [], "mlp": [], "layer": []}
    for layer in range(run.n_layer):
        heads = []
        for head in range(run.n_head):
            def change(value, head=head):
                run.head(value, head).zero_()
            heads.append(run.value(run.run(CLEAN, [("head", layer, change)])))
        found["head"].append(heads)
        found["attention"].append(run.value(run.run(CLEAN, [("attention", layer, zero)])))
        found["mlp"].append(run.value(run.run(CLEAN, [("mlp", layer, zero)])))
        found["layer"].append(run.value(run.run(CLEAN, [("attention", layer, zero), ("mlp", layer, zero)])))
    return found


def mean_ablated(run, seen):
    """The measure with each MLP replaced by its mean over the prompt."""
    found = []
    for layer in range(run.n_layer):
        mean = seen["mlp"][layer].mean(0)

        def change(value, mean=mean):
            value.copy_(mean.expand_as(value))
        found.append(run.value(run.run(CLEAN, [("mlp", layer, change)])))
    return found


def patched(run, seen):
    """The measure of the corrupt prompt with values of the clean one, `[layer][position or head]`."""
    found = {}
    for what in ("residual", "attention", "mlp"):
        rows = []
        for layer in range(run.n_layer):
            row = []
            for position in range(len(CORRUPT)):
                def change(value, what=what, layer=layer, position=position):
                    value[position] = seen[what][layer][position]
                row.append(run.value(run.run(CORRUPT, [(what, layer, change)])))
            rows.append(row)
        found[what] = rows
    rows = []
    for layer in range(run.n_layer):
        row = []
        for head in range(run.n_head):
            def change(value, layer=layer, head=head):
                run.head(value, head).copy_(run.head(seen["head"][layer], head))
            row.append(run.value(run.run(CORRUPT, [("head", layer, change)])))
        rows.append(row)
    found["head"] = rows
    return found


def contributions(run, seen):
    """What each part adds to the measure at the last token, the final norm's scale as it is."""
    model, at = run.model, run.at
    state = seen["residual"][-1][-1]
    unembed = model.lm_head.weight
    direction = unembed[TOKEN] - unembed[AGAINST]
    eps = getattr(at.final, "eps", None) or getattr(at.final, "variance_epsilon", None) or 1e-6
    if at.gpt2:
        scale = (state.var(unbiased=False) + eps).sqrt()

        def through(x):
            return float((x - x.mean()) / scale * at.final.weight @ direction)
    else:
        scale = (state.pow(2).mean() + eps).sqrt()
        weight = 1 + at.final.weight if at.normed_again else at.final.weight

        def through(x):
            return float(x / scale * weight @ direction)
    parts = {"mlp": [through(seen["mlp"][layer][-1]) for layer in range(run.n_layer)], "head": [], "bias": []}
    for number, layer in enumerate(at.layers):
        module, matrix = at.output(layer)
        outputs = seen["head"][number][-1]
        size = len(outputs) // run.n_head
        norm = at.attention(layer) if at.normed_again else None
        raw = matrix @ outputs
        rows = []
        for head in range(run.n_head):
            part = slice(head * size, (head + 1) * size)
            adds = matrix[:, part] @ outputs[part]
            if norm is not None:
                adds = adds / (raw.pow(2).mean() + norm.eps).sqrt() * (1 + norm.weight)
            rows.append(through(adds))
        parts["head"].append(rows)
        bias = getattr(module, "bias", None)
        parts["bias"].append(through(bias) if bias is not None else 0.0)
    added = sum((seen["attention"][layer][-1] + seen["mlp"][layer][-1] for layer in range(run.n_layer)), torch.zeros_like(state))
    parts["embed"] = through(state - added)
    bias = getattr(at.final, "bias", None)
    parts["final"] = float(bias @ direction) if bias is not None else 0.0
    return parts


@torch.no_grad()
def described(model):
    run = Experiment(model.double().eval())
    seen = run.read(CLEAN)
    found = {
        "clean": CLEAN, "corrupt": CORRUPT, "token": TOKEN, "against": AGAINST,
        "clean_value": run.value(run.run(CLEAN)), "corrupt_value": run.value(run.run(CORRUPT)),
        "ablated": ablated(run), "mean_ablated_mlp": mean_ablated(run, seen),
        "patched": patched(run, seen), "parts": contributions(run, seen),
    }
    parts = found["parts"]
    total = parts["embed"] + parts["final"] + sum(parts["mlp"]) + sum(map(sum, parts["head"])) + sum(parts["bias"])
    # transformers norms in 32 bits whatever the model computes in.
    assert abs(total - found["clean_value"]) < 1e-5 * (1 + abs(total)), (total, found["clean_value"])
    return found


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures/experiment")
    folder.mkdir(parents=True, exist_ok=True)
    heads = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/heads"
    made = []
    for number, (arch, model, _) in enumerate(base.models()):
        torch.manual_seed(number)
        base.randomize(model)
        stored = load_file(heads / f"{arch}.safetensors")
        for name, tensor in base.gguf_tensors(model).items():
            assert torch.equal(stored[f"weights.{name}"], tensor), f"{arch}: {name} is not what was stored"
        made.append((arch, model))
    made += [(f"phi3-{name}", base.phi3(name, kv)) for name, kv in [("grouped", 2), ("even", 4)]]
    for name, model in made:
        path = folder / f"{name}.json"
        path.write_text(json.dumps(described(model)) + "\n")
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
