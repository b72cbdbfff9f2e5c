"""Encoders: weights per second of each type, ours beside ggml's, from benches/quant.rs."""

import os
import re
import subprocess

from . import run
from .measure import step

SECTION = "Encoders, one core"
# At least this many times as fast as ggml's own on AVX-512, half of it on AVX2.
BARS = {"Q4_K": 8, "Q5_K": 8, "Q6_K": 5, "Q2_K": 5, "Q3_K": 5, "Q4_0": 2, "Q8_0": 2}
SCALE = {"": 1e-6, "K": 1e-3, "M": 1.0, "G": 1e3}
LINE = re.compile(r"[├╰]─ (\S+) (\S+) +\S+ \S+ +│")
RATE = re.compile(r"([\d.]+) ([KMG]?)item/s")


def rows(bench):
    """A row for each type; keeps nanoseconds per weight for the limit of convert."""
    if not any(bench.wanted(name) for name in ["encode", *BARS]):
        return
    program, types = bench.tools.benches.get("quant"), ["Q4_K", "Q4_0"] if bench.quick else [*BARS, "Q4_1", "Q5_0", "Q5_1"]
    name = "encode {}: millions of weights per second"
    if not program:
        bench.add(SECTION, name.format("weights"), [{"name": "modelve", "not_measured": bench.tools.why("benches")}])
        return
    measured = step([program, "--bench", "encode"], {}) if not bench.quick else step([program, "--bench", "encode/Q4_"], {})
    if measured.error:
        bench.add(SECTION, name.format("weights"), [{"name": "modelve", "not_measured": measured.error}])
        return
    rates = parse(measured.stdout.decode())
    for kind in types:
        by = rates.get(kind, {})
        ours = sorted((isa for isa in by if isa != "ggml"), key=lambda isa: -by[isa]["median"])
        if not ours or "ggml" not in by:
            continue
        bench.encode_ns[kind] = 1e3 / by[ours[0]]["median"]
        figures = [{"name": f"modelve, {isa}", "figure": by[isa]} for isa in ours] + [{"name": "ggml_quantize_chunk", "figure": by["ggml"]}]
        bench.add(SECTION, name.format(kind), figures, unit="M/s")
        for isa, share in [("avx512", 1.0), ("avx2", 0.5)]:
            if isa in by and kind in BARS:
                bench.promise(f"encoding {kind}, {isa}: speed, of ggml_quantize_chunk", by[isa]["median"] / by["ggml"]["median"],
                              BARS[kind] * share, least=True)


def parse(text):
    """{type: {instruction set: spread in millions of weights per second}} from divan's table.

    A case takes two lines, times and rates, each with the columns fastest, slowest, median, mean."""
    rates, case = {}, None
    for line in text.splitlines():
        named = LINE.search(line)
        found = RATE.findall(line)
        if named:
            case = named.groups()
        elif case and len(found) >= 3:
            fastest, slowest, median = (float(number) * SCALE[unit] for number, unit in found[:3])
            rates.setdefault(case[0], {})[case[1]] = {"median": median, "min": slowest, "max": fastest}
            case = None
    return rates
