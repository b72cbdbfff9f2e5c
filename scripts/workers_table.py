#!/usr/bin/env python3
"""What large models would do on several machines: the table of docs/several-machines.md.

    scripts/workers_table.py            prints it
    scripts/workers_table.py --check    fails if the page shows another one

The time of a token is the sum over the machines of the bytes of weights that they read for it, divided by
the rate at which they read, and for each worker of a round trip and of the bytes on the way divided by the
rate of the network. This is the model of `crates/runtime/src/placement.rs`, which plans with it;
`scripts/workers` compares it with runs. A prompt is computed in pieces of 512 tokens, one machine after the
other, limited by arithmetic.
"""

import argparse
import math
import sys
from pathlib import Path

GIB = 1 << 30
# The machines: usable memory, bytes read per second, multiplications and additions per second for prompts.
MEMORY = 28 * GIB
READING = 60e9
ARITHMETIC = 1.0e12
NETWORKS = [("1 Gbit", 1e9 / 8, 0.0003), ("10 Gbit", 1e10 / 8, 0.0001)]
CONTEXT = 4096
PASS_BYTES = 4096
PIECE = 512

# Bytes of the files in Q4_K_M; bytes outside the layers and the output matrix's share of them; layers; width;
# values of keys and values of a token and layer; weights, those of experts, and the part of these that a token
# uses.
MODELS = [
    ("Llama-3-70B", 42.5e9, 1.45e9, 0.86e9, 80, 8192, 2 * 8 * 128, 70.6e9, 0, 0),
    ("Qwen3-235B-A22B", 142.6e9, 0.86e9, 0.51e9, 94, 4096, 2 * 4 * 128, 235e9, 227e9, 8 / 128),
]


def row(model, machines, network):
    name, size, outside, output, layers, width, kv, weights, experts, share = model
    _, rate, round_trip = network
    layer = (size - outside) / layers + CONTEXT * kv * 2
    working = 0.6 * GIB
    first = int((MEMORY - working - outside) / layer)
    other = int((MEMORY - working) / layer)
    if first + other * (machines - 1) < layers:
        need, room = layer * layers + outside, MEMORY * machines
        return None, f"does not fit: {need / GIB:.0f} of {room / GIB:.0f} GiB"
    # The first is filled, then as many as are needed.
    left = layers - min(first, layers)
    workers = math.ceil(left / other)
    largest = max(min(first, layers) * layer + outside, min(left, other) * layer) + working

    def seconds(texts):
        """Of a token of each of this many texts: experts that several of them use are read once."""
        used = weights - experts + experts * (1 - (1 - share) ** texts)
        read = ((size - outside) * used / weights + output) / READING
        computed = texts * (weights - experts + experts * share) / ARITHMETIC
        sent = texts * (2 * width * 4 + 2 * CONTEXT) + PASS_BYTES
        return max(read, computed), workers * (round_trip + sent / rate)

    (read, way), (read_16, way_16) = seconds(1), seconds(16)
    piece = PIECE * (2 * width * 4 + 2 * CONTEXT)
    prompt = CONTEXT * (weights - experts + experts * share) / ARITHMETIC + CONTEXT / PIECE * workers * (round_trip + piece / rate)
    return workers, (
        f"{workers + 1}",
        f"{largest / GIB:.1f} GiB",
        f"{1 / (read + way):.2f}",
        f"{way * 1e3:.1f} of {(read + way) * 1e3:.0f} ms",
        f"{prompt:.0f} s",
        f"{16 / (read_16 + way_16):.1f}",
    )


def table():
    lines = [
        "| model | machines | network | used | largest part | tokens/s | on the way | 4,096 tokens of prompt | tokens/s of 16 texts |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for model in MODELS:
        for machines in (2, 4, 8):
            for network in NETWORKS:
                workers, cells = row(model, machines, network)
                head = f"| {model[0]} | {machines} | {network[0]} |"
                lines.append(f"{head} {' | '.join(cells)} |" if workers is not None else f"{head} {cells} | | | | | |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    text = table()
    if not parser.parse_args().check:
        print(text, end="")
        return 0
    page = Path(__file__).parent.parent / "docs/several-machines.md"
    if text in page.read_text():
        return 0
    print(f"{page} shows another table than {__file__}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
