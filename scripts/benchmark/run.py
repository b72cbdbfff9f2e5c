"""A run: what is measured in which order, and the models it makes and removes."""

import shutil

from . import complete_rows, convert_rows, curve, encoder_rows, inspect_rows, limits, measure, probe_rows, python_rows, table
from .peers import call, say


def everything(bench):
    say(f"machine: {bench.threads} threads; measuring its limits")
    bench.limits = bench.report.limits = limits.gather(bench.work, bench.threads, bench.quick, bench.tools.example("multiply_rate"))
    encoder_rows.rows(bench)
    checkpoint = find_checkpoint(bench)
    measure.read_through(checkpoint.glob("*.safetensors"))
    models = convert_rows.rows(bench, checkpoint)
    measure.read_through(models.values())
    inspect_rows.rows(bench, models["Q4_K_M"])
    for quant in ["Q4_K_M", "Q4_0"]:
        complete_rows.rows(bench, quant, models[quant])
    probe_rows.rows(bench, models)
    curve.rows(bench, checkpoint, models["Q4_K_M"])
    python_rows.rows(bench, checkpoint, models["Q4_K_M"])
    # Last, because it takes all memory and so empties the page cache.
    complete_rows.other_programs(bench, checkpoint, models["Q4_K_M"])
    bench.report.complete = True


def clean_up(bench):
    if bench.options.keep:
        return
    for pattern in ["*.gguf", "text*.txt", "prompts*.txt", "logits.bin", "tokenizer.json"]:
        for leftover in bench.work.glob(pattern):
            leftover.unlink()
    if bench.options.checkpoint is None:
        shutil.rmtree(bench.work / "checkpoint", ignore_errors=True)


def find_checkpoint(bench):
    if bench.options.checkpoint:
        return bench.options.checkpoint
    if bench.quick:
        return bench.root / "models" / "tiny-phi3"
    folder = bench.work / "checkpoint"
    if not list(folder.glob("*.safetensors")):
        say("generating a full-size Phi-3-mini with random weights")
        config, flags = table.source_config(bench)
        call([bench.tools.example("make_checkpoint"), "--config", config, "--out", folder, *flags])
    return folder
