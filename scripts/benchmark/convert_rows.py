"""convert: from a checkpoint to a quantized GGUF."""

import json
import subprocess

from . import limits, table
from .measure import Contender
from .peers import call

SECTION = "From a checkpoint to a GGUF"
# Of the two llama.cpp steps' time; and of any conversion's memory.
SHARE = {"Q4_0": 0.2, "Q4_K_M": 0.15}
PEAK_MB = 700


def rows(bench, checkpoint):
    """Measures; returns the models that later rows use, by type."""
    tools, models = bench.tools, {}
    for quant in ["Q4_0", "Q4_K_M"]:
        ours, between, theirs = (bench.work / f"{kind}-{quant}.gguf" for kind in ["modelve", "bf16", "llama"])
        modelve = Contender("modelve convert", [[tools.modelve, "convert", checkpoint, "-q", quant, "-o", ours]], outputs=[ours])
        tree = tools.llama_cpp or ""
        peer = table.contender(bench, "convert_hf_to_gguf.py + llama-quantize", ["llama_cpp", "python"], [
            [tools.python, f"{tree}/convert_hf_to_gguf.py", checkpoint, "--outtype", "bf16", "--outfile", between],
            [tools.llama("llama-quantize"), between, theirs, quant, bench.threads],
        ], outputs=[between, theirs], once=not bench.quick)
        result = None
        if bench.wanted(f"convert to {quant}"):
            result = bench.row(SECTION, f"convert to {quant}", [modelve, peer], long=True, limit=limit(bench, checkpoint, quant))
        for path in [between, theirs]:
            path.unlink(missing_ok=True)
        if not ours.exists():
            call(modelve.steps[0])
        models[quant] = ours
        two_steps = "convert_hf_to_gguf.py"
        name = f"convert to {quant}"
        bench.promise(f"{name}: time, of the two llama.cpp steps", table.ratio(result, "modelve", two_steps), SHARE[quant])
        bench.promise(f"{name}: peak memory, of the two steps", table.ratio(result, "modelve", two_steps, "peak_mb"), 0.5)
        bench.promise(f"{name}: peak memory", table.value(table.find(result, "modelve"), "peak_mb"), PEAK_MB, "MB")
    return models


def limit(bench, checkpoint, quant):
    """Writing the file, or the encoders' own CPU time over the cores, whichever is more."""
    command = [bench.tools.modelve, "convert", checkpoint, "-q", quant, "--dry-run", "--json"]
    plan = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    encode, known = 0.0, bool(bench.encode_ns)
    for tensor in plan["tensors"]:
        weights = 1
        for dimension in tensor["shape"]:
            weights *= dimension
        if tensor["type"] == "F32":
            continue
        known = known and tensor["type"] in bench.encode_ns
        encode += weights * bench.encode_ns.get(tensor["type"], 0.0) / 1e9
    return limits.convert(bench.limits, plan["file_bytes"], encode if known else None, bench.threads)
