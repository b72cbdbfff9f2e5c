#!/usr/bin/env python3
"""Merges LoRAs into a checkpoint with `modelve convert --adapter` and with PEFT, and compares.

    scripts/compare_adapter.py CHECKPOINT [--modelve PATH]

CHECKPOINT is a folder that transformers and modelve read. Each adapter has random matrices. PEFT merges
in 32 bits (`merge_and_unload`), its result is saved and converted to F32; both files must have the same
tensors, equal to the bit where the adapter changes nothing, and elsewhere within 2 · rank · 2^-24 of the
sum of the sizes of the products (two orders of adding them up). Needs torch, transformers, peft, gguf.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("checkpoint", type=Path)
parser.add_argument("--modelve", default="modelve")
args = parser.parse_args()

is_gpt2 = json.loads((args.checkpoint / "config.json").read_text())["model_type"] == "gpt2"
LINEAR = ["c_attn", "c_proj", "c_fc"] if is_gpt2 else ["q_proj", "v_proj", "o_proj", "down_proj"]
ONE, OTHER = LINEAR[0], LINEAR[-1]
HEAD = [] if is_gpt2 else ["lm_head"]
VARIANTS = {
    "plain": dict(r=8, lora_alpha=16),
    "rslora": dict(r=16, lora_alpha=5, use_rslora=True),
    "patterns": dict(r=4, lora_alpha=8, rank_pattern={ONE: 2, rf"0\..*{OTHER}": 7}, alpha_pattern={OTHER: 3}),
    "half": dict(r=8, lora_alpha=16, dtype=torch.bfloat16),
    "whole": dict(r=4, lora_alpha=4, modules_to_save=["norm" if not is_gpt2 else "ln_f"]),
    "biases": dict(r=4, lora_alpha=4, bias="all"),
}


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{command}\n{done.stdout[-1500:]}{done.stderr[-3000:]}")


def tensors(path):
    return {t.name: np.array(t.data).view(np.float32).reshape(-1) for t in gguf.GGUFReader(path).tensors}


failed = False
for name, settings in VARIANTS.items():
    torch.manual_seed(11)
    dtype = settings.pop("dtype", torch.float32)
    base = AutoModelForCausalLM.from_pretrained(args.checkpoint, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(target_modules=LINEAR, fan_in_fan_out=is_gpt2, **settings))
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.05)
            parameter.data = parameter.data.to(dtype).to(torch.float32)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        adapter = scratch / "lora"
        if dtype != torch.float32:
            for key, parameter in model.named_parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.to(dtype)
        model.save_pretrained(adapter)
        for parameter in model.parameters():
            parameter.data = parameter.data.float()
        # Bounds of the difference, by module: the sum of |B| · |A| times the scale.
        bounds = {}
        for key, module in model.named_modules():
            if hasattr(module, "lora_A") and len(module.lora_A):
                a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
                sizes = (b.abs() @ a.abs() * module.scaling["default"]).max().item()
                rank = a.shape[0]
                largest = module.get_base_layer().weight.abs().max().item()
                bounds[key] = 2 * rank * 2.0**-24 * sizes + 2.0**-23 * (largest + sizes)
        bound = max(bounds.values())
        merged = model.merge_and_unload()
        merged.save_pretrained(scratch / "merged")
        for file in args.checkpoint.iterdir():
            if file.name.startswith("tokenizer"):
                (scratch / "merged" / file.name).write_bytes(file.read_bytes())
        run(args.modelve, "convert", args.checkpoint, "--adapter", adapter, "-q", "F32", "-o", scratch / "ours.gguf")
        run(args.modelve, "convert", scratch / "merged", "-q", "F32", "-o", scratch / "theirs.gguf")
        run(args.modelve, "convert", args.checkpoint, "-q", "F32", "-o", scratch / "base.gguf")
        ours, theirs, plain = (tensors(scratch / f"{which}.gguf") for which in ("ours", "theirs", "base"))
        changed = [key for key in theirs if key in plain and not np.array_equal(theirs[key], plain[key])]
        differences = {key: float(np.abs(ours[key] - theirs[key]).max()) for key in theirs}
        unequal = sum(int((ours[key] != theirs[key]).sum()) for key in changed)
        total = sum(theirs[key].size for key in changed)
        worst = max(differences.values())
        wrong = ours.keys() != theirs.keys() or worst > bound
        wrong |= any(differences[key] for key in theirs if key not in changed)
        failed |= wrong
        print(f"{name}: {len(changed)} of {len(theirs)} tensors changed, {unequal} of {total} weights differ in the last bits, "
              f"at most by {worst:.2g} (bound {bound:.2g}){' WRONG' if wrong else ''}", flush=True)
sys.exit(failed)
