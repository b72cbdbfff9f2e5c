#!/usr/bin/env python3
"""Makes the references of tests/library/detect.rs: small random Llama, GPT-2 and Gemma 3 models, the
two random Phi-3 of make_probe_fixtures.py, and results that transformers computes from all of them in
64 bits: scores of their heads on repeated tokens, the output of each head at the last token, states,
and the answer with a direction added to the residual stream.

    python3 -m venv venv && venv/bin/pip install torch transformers safetensors gguf
    venv/bin/python scripts/make_heads_fixtures.py tests/fixtures/heads

With a model and the output of `modelve heads --json` for it, it compares the scores of that model:

    venv/bin/python scripts/make_heads_fixtures.py --compare model.gguf heads.json

If TransformerLens is installed, its detection patterns are compared with ours.
"""
import json
import pathlib
import sys

import gguf
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
)

N_VOCAB = 352
WIDTH = 64
HEADS = 4
KV_HEADS = 2
LAYERS = 3
FORWARD = 96
# Random tokens before they repeat, and rows of states that are kept.
LENGTH = 24
ROWS = 8


def patterns(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Where a head of each kind looks, `[query, key]`, as TransformerLens' detect_head has it."""
    n = len(ids)
    query, key = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    same = (ids[:, None] == ids[None, :]) & (key < query)
    after = torch.zeros_like(same)
    after[:, 1:] = same[:, :-1]
    found = {
        "duplicate": same,
        "induction": after & (key <= query),
        "previous": key == query - 1,
    }
    try:
        from transformer_lens import head_detector as lens
    except ImportError:
        return found
    for name, theirs in {
        "duplicate": lens.get_duplicate_token_head_detection_pattern,
        "induction": lens.get_induction_head_detection_pattern,
        "previous": lens.get_previous_token_head_detection_pattern,
    }.items():
        assert torch.equal(found[name].float(), theirs(ids[None])), name
    return found


def scores(ids: torch.Tensor, attention: torch.Tensor) -> dict[str, torch.Tensor]:
    """`[layer, head]`: the mean weight on each pattern over the tokens that have one."""
    found = {}
    for name, pattern in patterns(ids).items():
        with_target = int(pattern.any(-1).sum())
        found[name] = (attention * pattern).sum((-1, -2)) / with_target
    found["first"] = attention[:, :, 1:, 0].mean(-1)
    later = attention[:, :, 1:]
    entropy = -(later * later.clamp_min(1e-300).log2()).sum(-1)
    found["entropy_bits"] = entropy.mean(-1)
    return found


class Layout:
    """Where an architecture keeps what is looked at."""

    def __init__(self, model) -> None:
        gpt2 = isinstance(model, GPT2LMHeadModel)
        self.model = model
        self.layers = model.transformer.h if gpt2 else model.model.layers
        self.final = model.transformer.ln_f if gpt2 else model.model.norm
        self.normed_again = isinstance(model, Gemma3ForCausalLM)
        self.gpt2 = gpt2

    def attention(self, layer):
        """What attention adds is the output of this."""
        if self.normed_again:
            return layer.post_attention_layernorm
        return layer.attn if self.gpt2 else layer.self_attn

    def mlp(self, layer):
        return layer.post_feedforward_layernorm if self.normed_again else layer.mlp

    def output(self, layer):
        """The product with the output matrix, and that matrix as `[width, heads · values]`."""
        if self.gpt2:
            return layer.attn.c_proj, layer.attn.c_proj.weight.T
        return layer.self_attn.o_proj, layer.self_attn.o_proj.weight


def first(value):
    return value[0] if isinstance(value, tuple) else value


def look(model, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """One pass, and what is expected of ours."""
    at = Layout(model)
    seen: dict[str, list] = {name: [] for name in ("residual", "attention", "mlp", "heads", "raw")}
    hooks = []

    def keep(name, module, pick=lambda _, out: first(out)):
        hooks.append(module.register_forward_hook(
            lambda _, inputs, out: seen[name].append(pick(inputs, out)[0])))

    for layer in at.layers:
        keep("residual", layer)
        keep("attention", at.attention(layer))
        keep("mlp", at.mlp(layer))
        keep("heads", at.output(layer)[0], lambda inputs, _: inputs[0])
        keep("raw", at.output(layer)[0])
    with torch.no_grad():
        out = model(ids[None], output_attentions=True)
    for hook in hooks:
        hook.remove()
    attention = torch.stack([a[0] for a in out.attentions])
    expected = {
        "ids": ids.to(torch.int32),
        "logits": out.logits[0, -1],
        **scores(ids, attention),
        **{name: torch.stack(seen[name])[:, :ROWS] for name in ("residual", "attention", "mlp", "heads")},
        "writes": writes(model, at, seen),
    }
    direction = torch.sin(torch.arange(expected["residual"].shape[-1]).double()) * 2
    add = at.layers[1].register_forward_hook(
        lambda _, __, out: (out[0] + direction, *out[1:]) if isinstance(out, tuple) else out + direction)
    with torch.no_grad():
        expected["steered"] = model(ids[None]).logits[0, -1]
    add.remove()
    expected["direction"] = direction
    return {name: value.float().contiguous() if value.is_floating_point() else value.contiguous()
            for name, value in expected.items()}


def writes(model, at: Layout, seen) -> torch.Tensor:
    """`[layer, head, token]`: what each head adds to the logits at the last token, less the mean."""
    state = seen["residual"][-1][-1]
    unembed = model.lm_head.weight
    eps = getattr(at.final, "eps", None) or getattr(at.final, "variance_epsilon", None) or 1e-6
    rows = []
    for number, layer in enumerate(at.layers):
        _, matrix = at.output(layer)
        outputs = seen["heads"][number][-1]
        size = len(outputs) // HEADS
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            adds = matrix[:, part] @ outputs[part]
            if at.normed_again:
                norm = at.attention(layer)
                raw = seen["raw"][number][-1]
                adds = adds / (raw.pow(2).mean() + norm.eps).sqrt() * (1 + norm.weight)
            if at.gpt2:
                scale = (state.var(unbiased=False) + eps).sqrt()
                normed = (adds - adds.mean()) / scale * at.final.weight
            else:
                weight = 1 + at.final.weight if at.normed_again else at.final.weight
                normed = adds / (state.pow(2).mean() + eps).sqrt() * weight
            logits = unembed @ normed
            rows.append(logits - logits.mean())
    return torch.stack(rows).reshape(len(at.layers), HEADS, -1).detach()


def randomize(model) -> None:
    with torch.no_grad():
        for key, weight in model.named_parameters():
            norm = "norm" in key or ".ln_" in key
            if norm and key.endswith("weight"):
                middle = 0 if isinstance(model, Gemma3ForCausalLM) else 1
                weight.copy_(middle + 0.1 * torch.randn_like(weight))
            else:
                embeds = "embed" in key or "wte" in key
                weight.copy_((0.6 if embeds else 0.2) * torch.randn_like(weight))
            weight.copy_(weight.bfloat16())


def permuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Llama's query and key rows in the order of GGUF, whose rotation takes neighbours."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def gguf_tensors(model) -> dict[str, torch.Tensor]:
    table = [
        ("model.embed_tokens", "token_embd"), ("transformer.wte", "token_embd"),
        ("transformer.wpe", "position_embd"), ("model.norm", "output_norm"),
        ("transformer.ln_f", "output_norm"), ("lm_head", "output"), ("model.layers", "blk"),
        ("transformer.h", "blk"), ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"), ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"), ("self_attn.k_norm", "attn_k_norm"),
        ("attn.c_attn", "attn_qkv"), ("attn.c_proj", "attn_output"), ("mlp.c_fc", "ffn_up"),
        ("mlp.c_proj", "ffn_down"), ("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"), ("input_layernorm", "attn_norm"), ("ln_1", "attn_norm"),
        ("ln_2", "ffn_norm"), ("post_feedforward_layernorm", "post_ffw_norm"),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_attention_layernorm",
         "post_attention_norm" if isinstance(model, Gemma3ForCausalLM) else "ffn_norm"),
    ]
    tied = model.config.tie_word_embeddings
    tensors = {}
    for key, weight in model.state_dict().items():
        if tied and key.startswith("lm_head"):
            continue
        name = key
        for theirs, ours in table:
            name = name.replace(theirs, ours)
        if isinstance(model, GPT2LMHeadModel) and name.startswith("blk") and weight.dim() == 2:
            weight = weight.T
        if isinstance(model, Gemma3ForCausalLM) and "norm" in name:
            weight = weight + 1
        if isinstance(model, LlamaForCausalLM) and ".attn_q." in name:
            weight = permuted(weight, HEADS)
        if isinstance(model, LlamaForCausalLM) and ".attn_k." in name:
            weight = permuted(weight, KV_HEADS)
        # A sum with 1 has more digits than bfloat16.
        exact = torch.equal(weight.bfloat16().float(), weight.float())
        tensors[name] = (weight.bfloat16() if exact else weight.float()).contiguous()
    return tensors


def models():
    """Architecture, model, and the header's numbers that its GGUF needs."""
    common = {"context_length": 512, "embedding_length": WIDTH, "block_count": LAYERS,
              "feed_forward_length": FORWARD, "attention.head_count": HEADS}
    grouped = {"attention.head_count_kv": KV_HEADS, "attention.layer_norm_rms_epsilon": 1e-5}
    sizes = dict(vocab_size=N_VOCAB, hidden_size=WIDTH, intermediate_size=FORWARD,
                 num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS,
                 max_position_embeddings=512, rms_norm_eps=1e-5, attn_implementation="eager")
    yield "llama", LlamaForCausalLM(LlamaConfig(**sizes)), {
        **common, **grouped, "rope.dimension_count": WIDTH // HEADS, "rope.freq_base": 10000.0}
    yield "gpt2", GPT2LMHeadModel(GPT2Config(
        vocab_size=N_VOCAB, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_inner=FORWARD,
        n_positions=512, layer_norm_epsilon=1e-5, attn_implementation="eager")), {
        **common, "attention.layer_norm_epsilon": 1e-5}
    yield "gemma3", Gemma3ForCausalLM(Gemma3TextConfig(
        **sizes, head_dim=16, query_pre_attn_scalar=16, sliding_window=512)), {
        **common, **grouped, "attention.key_length": 16, "attention.value_length": 16,
        "attention.sliding_window": 512, "rope.freq_base": 1000000.0}


def phi3(name: str, kv_heads: int) -> Phi3ForCausalLM:
    """A random Phi-3 of make_probe_fixtures.py."""
    pairs = 8
    model = Phi3ForCausalLM(Phi3Config(
        vocab_size=N_VOCAB, hidden_size=WIDTH, intermediate_size=80, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=kv_heads, max_position_embeddings=4096,
        original_max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=False,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, attn_implementation="eager",
        rope_scaling={"type": "longrope", "short_factor": [1.0 + 0.05 * i for i in range(pairs)],
                      "long_factor": [1.0 + 3.0 * i for i in range(pairs)]}))
    folder = pathlib.Path(__file__).parent.parent / "tests/fixtures/probe"
    model.load_state_dict(load_file(folder / f"{name}-weights.safetensors"))
    return model


def repeated(seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    once = torch.randperm(N_VOCAB - 3)[:LENGTH] + 3
    return torch.cat([torch.tensor([1]), once, once])


def make(folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, (arch, model, keys) in enumerate(models()):
        torch.manual_seed(number)
        randomize(model)
        tensors = gguf_tensors(model)
        expected = look(model.double().eval(), repeated(number))
        save_file({**{f"weights.{n}": t for n, t in tensors.items()}, **expected},
                  folder / f"{arch}.safetensors",
                  metadata={"architecture": arch, "keys": json.dumps(keys), "length": str(LENGTH)})
    for name, kv_heads in [("grouped", 2), ("even", 4)]:
        expected = look(phi3(name, kv_heads).double().eval(), repeated(kv_heads))
        save_file(expected, folder / f"phi3-{name}.safetensors",
                  metadata={"architecture": "phi3", "length": str(LENGTH)})
    # A control vector as gguf-py, and so repeng, writes it.
    writer = gguf.GGUFWriter(folder / "control.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", 2)
    for layer in [1, 2]:
        direction = (torch.arange(WIDTH) * layer / 16 - 1).numpy()
        writer.add_tensor(f"direction.{layer}", direction.astype("float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for path in sorted(folder.iterdir()):
        print(path, path.stat().st_size)


def compare(file: pathlib.Path, found: pathlib.Path) -> None:
    said = json.loads(found.read_text())
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, attn_implementation="eager").eval()
    sums: dict[str, torch.Tensor] = {}
    for draw in said["random"]:
        ids = torch.tensor(draw)
        with torch.no_grad():
            attention = torch.stack([a[0] for a in model(ids[None], output_attentions=True).attentions])
        for name, table in scores(ids, attention.double()).items():
            sums[name] = sums.get(name, 0) + table / len(said["random"])
    for name, table in sums.items():
        ours = torch.tensor(said[name], dtype=torch.float64)
        best = (table == table.max()).nonzero()[0].tolist()
        print(f"{name:13} largest difference {(ours - table).abs().max():.4f}, mean {(ours - table).abs().mean():.5f}; "
              f"highest {table.max():.4f} at {best[0]}.{best[1]}, here {ours[best[0], best[1]]:.4f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--compare"]:
        compare(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
    else:
        make(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures/heads"))
