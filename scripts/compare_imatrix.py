#!/usr/bin/env python3
"""Measures importance matrices with `modelve imatrix` and with llama-imatrix, and compares.

    scripts/compare_imatrix.py --llama-imatrix PATH [--modelve PATH] [--chunks N] TEXT MODEL.gguf...

Both read the same file over the same text. The same matrices must be measured, with the same counts, and
every sum must agree within 1e-3 of its size (or of the mean of its matrix, for columns that hardly get any
input: their sums are differences of rounding). Prints the largest deviation and the time of each; the runs
take turns, and the better of two counts. Needs gguf and numpy; llama-imatrix is of the llama.cpp that
modelve is built with.
"""

import argparse
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


def run(*command):
    start = time.perf_counter()
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{command}\n{done.stdout[-1500:]}{done.stderr[-3000:]}")
    return time.perf_counter() - start


def read(path):
    reader = gguf.GGUFReader(path)
    chunks = int(reader.get_field("imatrix.chunk_count").contents())
    return chunks, {t.name: np.array(t.data, dtype=np.float64).reshape(-1) for t in reader.tensors}


failed = False
for model in args.models:
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder, "ours.gguf"), Path(folder, "theirs.gguf")
        tokens = args.chunks * 512
        times = []
        for _ in range(2):
            a = run(args.modelve, "imatrix", model, "--file", args.text, "-n", tokens, "-o", ours, "--force")
            b = run(args.llama_imatrix, "-m", model, "-f", args.text, "--chunks", args.chunks, "-o", theirs, "--no-ppl")
            times.append((a, b))
        (a_chunks, a), (b_chunks, b) = read(ours), read(theirs)
    b = {name: values for name, values in b.items() if not name.endswith(".in_sum")}
    worst, where = 0.0, ""
    same = sorted(a) == sorted(b) and a_chunks == b_chunks
    for name in sorted(set(a) & set(b)):
        if a[name].shape != b[name].shape:
            same = False
        elif name.endswith(".counts"):
            same = same and np.array_equal(a[name], b[name])
        else:
            size = np.maximum(b[name], b[name].mean())
            deviation = float(np.max(np.abs(a[name] - b[name]) / np.maximum(size, 1e-30)))
            if not deviation <= worst:
                worst, where = deviation, name
    good = same and worst <= 1e-3
    failed = failed or not good
    ours, theirs = (min(column) for column in zip(*times))
    said = "the same matrices, chunks and counts" if same else "OTHER matrices, chunks or counts"
    print(f"{'ok ' if good else 'BAD'} {model.name}: {said} ({len(a) // 2} matrices, {a_chunks} chunks); "
          f"largest deviation {worst:.1e} ({where}); {ours:.1f} s, llama-imatrix {theirs:.1f} s, ratio {ours / theirs:.2f}")
sys.exit(failed)
