#!/usr/bin/env python3
"""Makes the references of tests/library/probe.rs and tests/library/probe_tiny.rs: two small random Phi-3
checkpoints, one with as many key heads as query heads and one with grouped heads, and results that
transformers computes from them and from models/tiny-phi3 in 64 bits: the logits of the residual
stream after every layer, the attention, and the scores of a text.

    python3 -m venv venv && venv/bin/pip install torch transformers safetensors sentencepiece
    venv/bin/python scripts/make_probe_fixtures.py tests/fixtures/probe

Weights are stored in bfloat16, which F32 represents exactly, so both sides compute with the same weights.
"""
import json
import pathlib
import sys

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoTokenizer, Phi3Config, Phi3ForCausalLM

# The vocabulary of tests/support/tiny_gguf.rs has so many entries or more.
N_VOCAB = 352
N_TOKENS = 20


def make(folder: pathlib.Path, name: str, kv_heads: int, seed: int) -> None:
    torch.manual_seed(seed)
    pairs = 8
    config = Phi3Config(
        vocab_size=N_VOCAB,
        hidden_size=64,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        max_position_embeddings=4096,
        original_max_position_embeddings=256,
        rope_theta=10000.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        rope_scaling={
            "type": "longrope",
            "short_factor": [1.0 + 0.05 * i for i in range(pairs)],
            "long_factor": [1.0 + 3.0 * i for i in range(pairs)],
        },
        attn_implementation="eager",
    )
    model = Phi3ForCausalLM(config)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "norm" in key:
                weight.copy_(1 + 0.1 * torch.randn_like(weight))
            else:
                scale = {"embed": 1.0, "lm_head": 0.4, "qkv": 0.25}
                size = next((s for part, s in scale.items() if part in key), 0.15)
                weight.copy_(size * torch.randn_like(weight))
            weight.copy_(weight.bfloat16())
    stored = {k: v.bfloat16().contiguous() for k, v in model.state_dict().items()}
    save_file(stored, folder / f"{name}-weights.safetensors")

    model = model.double().eval()
    ids = torch.randint(3, N_VOCAB, (1, N_TOKENS))
    lens, attention = look(model, ids)
    expected = {
        "ids": ids[0].to(torch.int32).contiguous(),
        "lens": lens.float().contiguous(),
        "attention": attention.float().contiguous(),
    }
    meta = {
        "kv_heads": str(kv_heads),
        "attn_factor": repr(float(model.model.rotary_emb.attention_scaling)),
        **versions(),
    }
    save_file(expected, folder / f"{name}-expected.safetensors", metadata=meta)
    print(name, json.dumps(meta))


def versions() -> dict[str, str]:
    return {"transformers": transformers.__version__, "torch": torch.__version__}


def look(model: Phi3ForCausalLM, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [layer, position, token] after every layer, weights [layer, head, query, key]."""
    states = []
    hooks = [
        layer.register_forward_hook(
            lambda _, __, out: states.append(out[0] if isinstance(out, tuple) else out)
        )
        for layer in model.model.layers
    ]
    with torch.no_grad():
        out = model(ids, output_attentions=True)
        through = (model.model.norm(state.reshape(1, ids.shape[1], -1)) for state in states)
        lens = torch.stack([model.lm_head(state)[0] for state in through])
    for hook in hooks:
        hook.remove()
    # The last layer through the lens is the model itself.
    assert torch.allclose(lens[-1], out.logits[0], rtol=1e-9, atol=1e-9)
    attention = torch.stack([a[0] for a in out.attentions])
    assert torch.allclose(attention.sum(-1), torch.ones_like(attention[..., 0]))
    return lens, attention


# Every 8th token of the vocabulary stands for all; the sum of all exponentials is kept.
SAMPLED = 8
TEXT = "It was night in the cave. The ball hit the bat, and it opened its wings."


def built_in(folder: pathlib.Path, checkpoint: pathlib.Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = Phi3ForCausalLM.from_pretrained(
        checkpoint, torch_dtype=torch.float64, attn_implementation="eager"
    ).eval()
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    lens, attention = look(model, ids)
    # Longer than the original context, so with the long RoPE factors.
    long = ids.repeat(1, 300 // ids.shape[1] + 1)[:, :300]
    with torch.no_grad():
        said = model(long).logits[0].log_softmax(-1)
    scores = said[:-1].gather(1, long[0, 1:, None])[:, 0]
    expected = {
        "ids": ids[0].to(torch.int32).contiguous(),
        "lens": lens[..., ::SAMPLED].float().contiguous(),
        "log_sum": lens.logsumexp(-1).float().contiguous(),
        "best": lens.argmax(-1).to(torch.int32).contiguous(),
        "attention": attention.float().contiguous(),
        "long_ids": long[0].to(torch.int32).contiguous(),
        "long_scores": scores.float().contiguous(),
    }
    save_file(expected, folder / "tiny-expected.safetensors", metadata=versions())
    print("tiny", {name: list(tensor.shape) for name, tensor in expected.items()})


def main() -> None:
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures/probe")
    folder.mkdir(parents=True, exist_ok=True)
    make(folder, "grouped", kv_heads=2, seed=1)
    make(folder, "even", kv_heads=4, seed=2)
    built_in(folder, pathlib.Path(__file__).parent.parent / "models/tiny-phi3")


if __name__ == "__main__":
    main()
