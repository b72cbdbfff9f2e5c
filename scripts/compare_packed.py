#!/usr/bin/env python3
"""Packs the matrices of a checkpoint in every way that `modelve convert` unpacks, and compares the
result of the conversion with implementations that are not ours.

    scripts/compare_packed.py CHECKPOINT LLAMA_CPP [--modelve PATH] [--quantize PROGRAM] [--awq FILE]

CHECKPOINT is a folder with plain weights in one model.safetensors. LLAMA_CPP is a checkout with
convert_hf_to_gguf.py. For what its converter unpacks, every tensor of `convert -q F32`, F16 and Q8_0 is
compared with it byte for byte. For what it does not, the reference are the weights that AutoAWQ's
packing_utils.py (--awq) or PyTorch compute, written as a plain F32 checkpoint and converted. With
--quantize (a program that takes IN OUT NUMBER, for llama_model_quantize), Q4_K_M is compared too.

With --fixtures the parts of one matrix are kept for the tests, with the SHA-256 of what the reference
makes of it; CHECKPOINT is then a small one.

Needs torch, numpy, safetensors, transformers and gguf.
"""

import argparse
import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("checkpoint", type=Path)
parser.add_argument("llama_cpp", type=Path)
parser.add_argument("--modelve", default="modelve")
parser.add_argument("--quantize")
parser.add_argument("--awq", type=Path)
parser.add_argument("--only", default="", help="the variants whose name contains this")
parser.add_argument("--types", default="F32,F16,Q8_0,Q4_K_M", help="the types that are compared; Q4_K_M needs --quantize")
parser.add_argument("--fixtures", type=Path, help="a folder for the fixtures of the tests")
args = parser.parse_args()
sys.path.insert(0, str(args.llama_cpp / "gguf-py"))
import gguf  # noqa: E402
from compare_families import CONVERTER  # noqa: E402

rng = np.random.default_rng(5)
plain = load_file(args.checkpoint / "model.safetensors")
linear = sorted(name for name in plain if ".layers." in name and plain[name].ndim == 2)


def words(values, axis, bits=4, order=None):
    """Packs unsigned integers along an axis into 32-bit words, the first in the lowest bits."""
    values = np.moveaxis(values.astype(np.uint32), axis, -1)
    n = 32 // bits
    values = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, -values.shape[-1] % n)])
    values = values.reshape(*values.shape[:-1], -1, n)
    if order is not None:
        values = values[..., order]
    packed = (values << (np.arange(n, dtype=np.uint32) * bits)).sum(-1, dtype=np.uint32)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(packed, -1, axis)).view(np.int32))


def scaled(block=None, per_row=False, ending="_scale_inv", dtype=torch.float8_e4m3fn, scale=torch.float32,
           static=False):
    """8-bit numbers with scales for blocks, rows or the matrix."""

    def pack(name, w, out, reference):
        rows, columns = w.shape
        high, wide = block or ((1, columns) if per_row else (rows, columns))
        shape = [-(-rows // high), -(-columns // wide)]
        scales = torch.from_numpy(rng.uniform(1e-4, 3e-3, shape)).to(scale)
        full = scales.float().repeat_interleave(high, 0).repeat_interleave(wide, 1)[:rows, :columns]
        values = w.float() / full
        values = values.round().clamp(-127, 127) if dtype == torch.int8 else values.clamp(-400, 400)
        out[name] = values.to(dtype)
        if block is None and not per_row:
            scales = scales.reshape(()) if ending == "_scale_inv" else scales.reshape(1)
        out[name + ending] = scales
        if static:
            out[name.removesuffix(".weight") + ".input_scale"] = torch.tensor([0.5])
        reference[name] = out[name].float() * full

    return pack


def groups_of(inputs, size, act_order):
    index = np.arange(inputs) // size
    return rng.permutation(index) if act_order else index


def gptq(size=32, bits=4, act_order=False, sym=False, with_index=True, v2=False, zero_bias=False):
    def pack(name, w, out, reference):
        module = name.removesuffix(".weight")
        outputs, inputs = w.shape
        index = groups_of(inputs, size if size > 0 else inputs, act_order)
        count = index.max() + 1
        codes = rng.integers(0, 1 << bits, (inputs, outputs))
        zeros = np.full((count, outputs), 1 << (bits - 1)) if sym else rng.integers(1, 1 << bits, (count, outputs))
        out[module + ".qweight"] = words(codes, 0, bits)
        out[module + ".qzeros"] = words(zeros - (0 if v2 else 1), 1, bits)
        scales = torch.from_numpy(rng.uniform(1e-3, 2e-2, (count, outputs))).half()
        out[module + ".scales"] = scales
        if with_index:
            out[module + ".g_idx"] = torch.from_numpy(index.astype(np.int32))
        if zero_bias:
            out[module + ".bias"] = torch.zeros(outputs, dtype=torch.float16)
        difference = torch.from_numpy(codes - zeros[index]).float()
        reference[name] = (scales[torch.from_numpy(index)].float() * difference).T.contiguous()

    return pack


def awq(size=64):
    spec = importlib.util.spec_from_file_location("packing_utils", args.awq) if args.awq else None
    theirs = importlib.util.module_from_spec(spec) if spec else None
    if spec:
        spec.loader.exec_module(theirs)

    def pack(name, w, out, reference):
        module = name.removesuffix(".weight")
        outputs, inputs = w.shape
        count, order = inputs // size, [0, 2, 4, 6, 1, 3, 5, 7]
        qweight = words(rng.integers(0, 16, (inputs, outputs)), 1, 4, order)
        qzeros = words(rng.integers(0, 16, (count, outputs)), 1, 4, order)
        scales = torch.from_numpy(rng.uniform(1e-3, 2e-2, (count, outputs))).half()
        out.update({module + ".qweight": qweight, module + ".qzeros": qzeros, module + ".scales": scales})
        if theirs:
            # In 32 bits, where the product is exact; AutoAWQ itself rounds it to 16.
            reference[name] = theirs.dequantize_gemm(qweight, qzeros, scales.float(), 4, size).T.contiguous()
            half = theirs.dequantize_gemm(qweight, qzeros, scales, 4, size).T
            assert torch.equal(reference[name].half(), half), name

    return pack


def packed(size=32, bits=4, zero=False):
    """compressed-tensors' pack-quantized."""

    def pack(name, w, out, reference):
        rows, columns = w.shape
        count = columns // size
        codes = rng.integers(0, 1 << bits, (rows, columns))
        out[name + "_packed"] = words(codes, 1, bits)
        scales = torch.from_numpy(rng.uniform(1e-3, 2e-2, (rows, count))).bfloat16()
        out[name + "_scale"] = scales
        out[name + "_shape"] = torch.tensor([rows, columns])
        zeros = np.full((rows, count), 1 << (bits - 1))
        if zero:
            zeros = rng.integers(0, 1 << bits, (rows, count))
            out[name + "_zero_point"] = words(zeros, 0, bits)
        difference = torch.from_numpy(codes - zeros.repeat(size, 1)).float()
        reference[name] = scales.float().repeat_interleave(size, 1) * difference

    return pack


def compressed(form, **weights):
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {
        "group_0": {"targets": ["Linear"], "weights": weights}}}


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}
FP8 = {"quant_method": "fp8"}
# Name, what quantization_config says, how to pack, whether llama.cpp's converter unpacks it.
VARIANTS = [
    ("fp8-blocks", FP8 | {"weight_block_size": [128, 128]}, scaled((128, 128)), True),
    ("fp8-odd-blocks", FP8 | {"weight_block_size": [48, 80]}, scaled((48, 80), scale=torch.bfloat16), True),
    ("fp8-tensor", FP8, scaled(), True),
    ("fp8-static", FP8 | {"activation_scheme": "static"}, scaled(ending="_scale", static=True), False),
    ("fp8-e5m2", FP8, scaled(ending="_scale", dtype=torch.float8_e5m2), False),
    ("modelopt-fp8", {"quant_method": "modelopt", "quant_algo": "FP8"}, scaled(ending="_scale", static=True), True),
    ("float-channel", compressed("float-quantized", num_bits=8, type="float", strategy="channel"),
     scaled(per_row=True, ending="_scale", scale=torch.bfloat16), True),
    ("float-block", compressed("float-quantized", num_bits=8, type="float", strategy="block", block_structure=[128, 128]),
     scaled((128, 128), ending="_scale"), True),
    ("int8-channel", compressed("int-quantized", num_bits=8, type="int", strategy="channel"),
     scaled(per_row=True, ending="_scale", dtype=torch.int8), True),
    ("packed-4", compressed("pack-quantized", num_bits=4, type="int", strategy="group", group_size=32), packed(), True),
    ("packed-4-zero", compressed("pack-quantized", num_bits=4, type="int", strategy="group", group_size=64),
     packed(64, zero=True), True),
    ("packed-8", compressed("pack-quantized", num_bits=8, type="int", strategy="group", group_size=32), packed(bits=8), True),
    ("gptq", GPTQ, gptq(), True),
    ("gptq-sym", GPTQ | {"sym": True}, gptq(sym=True), True),
    ("gptq-act-order", GPTQ | {"desc_act": True}, gptq(act_order=True), True),
    ("gptq-v2", GPTQ | {"checkpoint_format": "gptq_v2"}, gptq(v2=True), True),
    ("gptq-one-group", GPTQ | {"group_size": -1}, gptq(size=-1), True),
    ("gptq-8", GPTQ | {"bits": 8}, gptq(bits=8), True),
    ("gptq-2", GPTQ | {"bits": 2}, gptq(bits=2), True),
    ("gptq-without-index", GPTQ, gptq(with_index=False), False),
    ("gptq-zero-biases", GPTQ, gptq(zero_bias=True), False),
]
# What the tests keep, and the matrix of which.
FIXTURES = ["fp8-odd-blocks", "float-channel", "int8-channel", "packed-4-zero", "gptq-act-order", "gptq-v2",
            "gptq-8", "gptq-without-index", "awq"]
FIXTURE = "model.layers.0.mlp.down_proj."
if args.awq:
    VARIANTS.append(("awq", {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm", "zero_point": True}, awq(), False))


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{command}\n{done.stdout[-1500:]}{done.stderr[-3000:]}")


def tensors(path):
    return {t.name: (t.tensor_type.name, t.shape.tolist(), t.data.tobytes()) for t in gguf.GGUFReader(path).tensors}


def differing(ours, theirs):
    ours, theirs = tensors(ours), tensors(theirs)
    return len(theirs), [name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)]


def folder(path, weights, quantization):
    path.mkdir()
    for file in args.checkpoint.iterdir():
        if file.suffix != ".safetensors" and file.is_file():
            shutil.copy(file, path)
    config = json.loads((path / "config.json").read_text())
    if quantization:
        config["quantization_config"] = quantization
    (path / "config.json").write_text(json.dumps(config))
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


failed = False
for name, quantization, pack, theirs_reads in VARIANTS:
    if args.only not in name:
        continue
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        out = {key: value for key, value in plain.items() if key not in linear}
        reference = dict(out)
        for key in linear:
            pack(key, plain[key], out, reference)
        folder(scratch / "packed", out, quantization)
        if not theirs_reads:
            folder(scratch / "plain", reference, None)
        results, wanted = [], [label for label in args.types.split(",") if label != "Q4_K_M" or args.quantize]
        theirs = {label: scratch / f"theirs-{label}.gguf" for label in ["F32", *wanted]}
        # F32 is what llama-quantize starts from.
        outtypes = [part for label, file in theirs.items() if label != "Q4_K_M" for part in (label.lower(), file)]
        source = scratch / ("packed" if theirs_reads else "plain")
        run(sys.executable, "-c", CONVERTER, args.llama_cpp / "convert_hf_to_gguf.py", source, *outtypes)
        if "Q4_K_M" in wanted:
            run(args.quantize, theirs["F32"], theirs["Q4_K_M"], 15)
        for label in wanted:
            ours = scratch / f"ours-{label}.gguf"
            run(args.modelve, "convert", scratch / "packed", "-q", label, "-o", ours, "--verify")
            if label == "F32" and args.fixtures and name in FIXTURES:
                parts = {key: value for key, value in out.items() if key.startswith(FIXTURE)}
                sha256 = hashlib.sha256(tensors(theirs[label])["blk.0.ffn_down.weight"][2]).hexdigest()
                about = {"quantization_config": json.dumps(quantization), "sha256": sha256}
                save_file(parts, args.fixtures / f"{name}.safetensors", metadata=about)
            count, names = differing(ours, theirs[label])
            failed |= bool(names)
            results.append(f"{label} {'same' if not names else f'{len(names)} differ: {sorted(names)[:3]}'}")
        print(f"{name}: {count} tensors, {', '.join(results)}{'' if theirs_reads else ' (weights computed by PyTorch)'}", flush=True)
sys.exit(failed)
