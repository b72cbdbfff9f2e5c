#!/usr/bin/env python3
"""Measures importance matrices with `modelve imatrix` and with llama-imatrix, and compares.

    scripts/compare_imatrix.py --llama-imatrix PATH [--modelve PATH] [--chunks N] TEXT MODEL.gguf...

Both read the same file over the same text, first with the same kernels (ggml's, on the weights in the mapped
file): the same matrices must be measured, with the same counts, and every sum must agree within 1e-3 of its
size (or of the mean of its matrix, for columns that hardly get any input: their sums are rounding). Then each
with the kernels that it takes by itself: these round the inputs of quantized products in other ways, so that
single columns differ by up to a few hundredths, as llama-imatrix itself does with and without --no-repack. The
time is that of these runs, which take turns; the better of two counts. Needs gguf and numpy; llama-imatrix is of
the llama.cpp that modelve is built with.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gguf
import numpy as np

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("text", type=Path)
parser.add_argument("models", type=Path, nargs="+")
parser.add_argument("--llama-imatrix", required=True)
parser.add_argument("--modelve", default="modelve")
parser.add_argument("--chunks", type=int, default=8, help="chunks of 512 tokens to read")
args = parser.parse_args()


def run(*command, **variables):
    start = time.perf_counter()
    command = [str(part) for part in command]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables})
    if done.returncode != 0:
        raise SystemExit(f"{command}\n{done.stdout[-1500:]}{done.stderr[-3000:]}")
    return time.perf_counter() - start


def read(path):
    reader = gguf.GGUFReader(path)
    chunks = int(reader.get_field("imatrix.chunk_count").contents())
    tensors = {t.name: np.array(t.data, dtype=np.float64).reshape(-1) for t in reader.tensors}
    # Later versions of llama-imatrix write the sums without squares, too.
    return chunks, {name: values for name, values in tensors.items() if not name.endswith(".in_sum")}


def compare(a, b):
    """Returns whether the same was measured, the largest deviation of a sum, and its matrix."""
    (a_chunks, a), (b_chunks, b) = a, b
    same = sorted(a) == sorted(b) and a_chunks == b_chunks
    worst, where = 0.0, "none"
    for name in sorted(set(a) & set(b)):
        if a[name].shape != b[name].shape:
            same = False
        elif name.endswith(".counts"):
            same = same and np.array_equal(a[name], b[name])
        else:
            size = np.maximum(b[name], b[name].mean())
            deviation = float(np.max(np.abs(a[name] - b[name]) / np.maximum(size, 1e-30)))
            if not deviation <= worst:
                worst, where = deviation, name.removesuffix(".in_sum2")
    return same, worst, where


failed = False
for model in args.models:
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder, "ours.gguf"), Path(folder, "theirs.gguf")
        tokens = args.chunks * 512
        a = args.modelve, "imatrix", model, "--file", args.text, "-w", 512, "-n", tokens, "-o", ours, "--force"
        b = args.llama_imatrix, "-m", model, "-f", args.text, "--chunks", args.chunks, "-o", theirs, "--no-ppl"
        run(*a, "--weights", "mapped", MODELVE_ISA="plain")
        run(*b, "--no-repack")
        count = len(read(ours)[1]) // 2
        same, worst, where = compare(read(ours), read(theirs))
        times = [(run(*a), run(*b)) for _ in range(2)]
        _, own, _ = compare(read(ours), read(theirs))
    good = same and worst <= 1e-3
    failed = failed or not good
    ours, theirs = (min(column) for column in zip(*times))
    said = "the same matrices, chunks and counts" if same else "OTHER matrices, chunks or counts"
    print(
        f"{'ok ' if good else 'BAD'} {model.name}: {said} ({count} matrices); largest deviation {worst:.1e} ({where}), "
        f"with kernels of their own {own:.1e}; {ours:.1f} s, llama-imatrix {theirs:.1f} s, ratio {ours / theirs:.2f}",
        flush=True,
    )
sys.exit(failed)
