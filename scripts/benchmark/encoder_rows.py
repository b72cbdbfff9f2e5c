"""What benches/ measures: encoders and kernels beside ggml's, and the parts that touch no weights."""

import re

from . import table
from .measure import step

SECTION, KERNELS, PARTS = "Encoders, one core", "Matrices times columns, one core", "Parts without weights"
# At least this many times as fast as ggml's own on AVX-512, half of it on AVX2.
BARS = {"Q4_K": 8, "Q5_K": 8, "Q6_K": 5, "Q2_K": 5, "Q3_K": 5, "Q4_0": 2, "Q8_0": 2}
OTHERS = ["Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "IQ4_XS"]
SCALE = {"K": 1e-3, "M": 1.0, "G": 1e3, "ns": 1e-3, "µs": 1.0, "ms": 1e3, "s": 1e6}
CASE = re.compile(r"^([│ ]*)[├╰]─ (.+?) {2,}")
TIME = re.compile(r"([\d.]+) (ns|µs|ms|s) ")
RATE = re.compile(r"([\d.]+) ([KMG])item/s")
PART_NAMES = {
    "read_header": "read a header of 197 tensors and 32,064 tokens",
    "read_vocabulary": "read it and find a token by its text",
    "build_plan": "plan a conversion of 197 tensors",
    "assemble_text 0": "assemble 9 kB of text from cut characters",
    "assemble_text 4": "the same, four stop strings",
}


def rows(bench):
    """A row for each type; keeps nanoseconds per weight for the limit of convert."""
    if any(bench.wanted(name) for name in ["encoders", "convert"]):
        encoders(bench)
    if bench.wanted("kernels"):
        kernels(bench)
    if bench.wanted("parts"):
        parts(bench)


def cases(bench, name, *arguments):
    """Runs a bench; (its cases, ""), or ({}, why there are none)."""
    program = bench.tools.benches.get(name)
    if not program:
        return {}, bench.tools.why("benches")
    measured = step([program, "--bench", *arguments], {})
    found = parse(measured.stdout.decode(errors="replace"))
    return found, measured.error or ("" if found else "its output was not understood")


def encoders(bench):
    table.say("encoders")
    types = ["Q4_K", "Q4_0", "Q6_K"] if bench.quick else [*BARS, *OTHERS]
    found, why = cases(bench, "quant", *types, "--skip", "imatrix")
    if why:
        bench.add(SECTION, "encoders", [{"name": "modelve", "not_measured": why}])
        return
    for kind in types:
        by = {name.split()[1]: case["rate"] for name, case in found.items() if name.split()[0] == kind}
        ours = sorted(by.keys() - {"ggml"}, key=lambda isa: -by[isa]["median"])
        if not ours or "ggml" not in by:
            continue
        bench.encode_ns[kind] = 1e3 / by[ours[0]]["median"]
        figures = [{"name": f"modelve, {isa}", "figure": by[isa]} for isa in ours]
        bench.add(SECTION, f"encode {kind}, millions of weights per second",
                  [*figures, {"name": "ggml_quantize_chunk", "figure": by["ggml"]}],
                  limit=memory_limit(found, kind), unit="M/s")
        for isa, share in [("avx512", 1.0), ("avx2", 0.5)]:
            if isa in by and kind in BARS:
                bench.promise(f"encoding {kind}, {isa}: speed, of ggml_quantize_chunk", by[isa]["median"] / by["ggml"]["median"],
                              BARS[kind] * share, least=True)


def kernels(bench):
    """The kernels of complete, beside ggml's product of a row and a column."""
    table.say("kernels")
    types = ["Q4_K", "Q6_K", "Q4_0"]
    found, why = cases(bench, "matmul", *types)
    if why:
        bench.add(KERNELS, "kernels", [{"name": "modelve", "not_measured": f"{why}; there are kernels for AVX2, AVX-512 with VNNI and AMX"}])
    for name, case in found.items():
        kind, whose, n = name.split()
        if whose == "ggml":
            ours = [{"name": f"modelve, {isa}", "figure": found[f"{kind} {isa} {n}"]["rate"]}
                    for isa in ["amx", "avx512", "avx2"] if f"{kind} {isa} {n}" in found]
            bench.add(KERNELS, f"{kind}, {n} column{'s' if n != '1' else ''}, millions of products per second",
                      [*ours, {"name": "ggml's vec_dot", "figure": case["rate"]}], unit="M/s")


def memory_limit(found, kind):
    """What one core gets through the memory: 2 bytes read and a block's share written per weight."""
    case = found.get(f"memory {kind} ggml")
    return case and {"what": "reading the weights and writing the blocks, nothing else", "value": case["rate"]["median"]}


def parts(bench):
    table.say("parts")
    found, why = cases(bench, "parts")
    if why:
        bench.add(PARTS, "parts", [{"name": "modelve", "not_measured": why}])
    for name, case in found.items():
        bench.add(PARTS, PART_NAMES.get(name, name), [{"name": "modelve", "figure": case["time"]}], unit="µs")


def parse(text):
    """{case: {"time": spread in µs, "rate": spread in millions per second}} of divan's table.

    A case is a line of times (fastest, slowest, median, mean) and, where something is counted, a
    line of rates below it; the argument of a function stands indented under its name."""
    found, case, outer = {}, None, ""
    for line in text.splitlines():
        named, times, rates = CASE.match(line), TIME.findall(line), RATE.findall(line)
        if named and len(times) < 3:
            outer = named.group(2)
        elif named:
            # The one group of the encoders is no part of a case's name.
            inner = bool(named.group(1)) and outer not in ["encode", "products"]
            case = f"{outer} {named.group(2)}" if inner else named.group(2)
            found[case] = {"time": spread(times)}
        elif case and len(rates) >= 3:
            found[case]["rate"] = spread(rates)
    return found


def spread(columns):
    """Of divan's fastest, slowest and median."""
    fastest, slowest, median = (float(number) * SCALE[unit] for number, unit in columns[:3])
    return {"median": median, "min": min(fastest, slowest), "max": max(fastest, slowest)}
