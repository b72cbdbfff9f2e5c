"""How cost grows: with the layers of a model, and with the prompts computed together."""

import json
import shutil

from . import plot
from .measure import step
from .peers import call, say

SECTION = "How cost grows"
NAME = "curve"
TOKENS = 16
PROMPTS = [1, 2, 4, 8, 16, 32, 64]


def rows(bench, checkpoint, model):
    """Measures, draws the picture, says the slopes."""
    if not bench.wanted(NAME):
        return
    say(NAME)
    layers = [point for point in (layer_point(bench, checkpoint, share) for share in (1, 2, 4)) if point]
    prompts = [point for point in (prompt_point(bench, model, n) for n in PROMPTS) if point]
    words = (layer_words(layers) if len(layers) > 1 else []) + (prompt_words(prompts) if len(prompts) > 1 else [])
    for sentence in words:
        say("  " + sentence)
    bench.report.curve = {"layers": layers, "prompts": prompts, "words": words}
    if layers and prompts:
        bench.report.picture(plot.page(panels(layers, prompts)))
    bench.report.write()


def layer_point(bench, checkpoint, quarters):
    """Convert and complete a model of some quarters of the checkpoint's layers."""
    whole = json.loads((checkpoint / "config.json").read_text())["num_hidden_layers"]
    layers = whole // 4 * quarters
    folder, output = checkpoint, bench.work / "curve.gguf"
    if layers != whole:
        folder = bench.work / "curve"
        generator = bench.tools.example("make_checkpoint")
        if not generator.exists():
            say(f"  {layers} layers: not measured, {generator} is not built")
            return None
        shutil.rmtree(folder, ignore_errors=True)
        call([generator, "--config", checkpoint, "--layers", layers, "--out", folder])
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    converted = best(bench, [bench.tools.modelve, "convert", folder, "-q", "Q4_K_M", "-o", output, "--force"])
    completed = best(bench, [bench.tools.modelve, "complete", "-m", output, "--ignore-eos", "--json", "-n", TOKENS, "Today is"])
    output.unlink(missing_ok=True)
    if folder != checkpoint:
        shutil.rmtree(folder)
    if not converted or not completed:
        return None
    timing = json.loads(completed.stdout)["timing"]
    return {"layers": layers, "source_gb": size / 1e9, "convert_s": converted.wall_s, "convert_mb": converted.peak_mb,
            "ms_per_token": 1e3 / timing["tokens_per_s"], "complete_mb": completed.peak_mb}


def prompt_point(bench, model, n):
    """16 tokens each of n prompts in one command."""
    file = bench.work / "prompts.txt"
    file.write_text("".join(f"Chapter {number} is a\n" for number in range(1, n + 1)))
    done = best(bench, [bench.tools.modelve, "complete", "-m", model, "--ignore-eos", "-n", TOKENS, "--lines", "--file", file])
    if not done:
        return None
    return {"prompts": n, "s": done.wall_s, "ms_per_token": 1e3 * done.wall_s / (n * TOKENS), "mb": done.peak_mb}


def best(bench, command):
    """The fastest of some runs of a command; None, and why, if it fails."""
    runs = [step(command, {}) for _ in range(bench.options.runs or (3 if bench.quick else 1))]
    failed = next((measured.error for measured in runs if measured.error), None)
    if failed:
        say(f"  not measured: {failed}")
        return None
    return min(runs, key=lambda measured: measured.wall_s)


def slope(points, x, y):
    """Least squares: how much y grows with one more x, and y at x = 0."""
    xs, ys = [point[x] for point in points], [point[y] for point in points]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    rise = sum((a - mean_x) * (b - mean_y) for a, b in zip(xs, ys)) / sum((a - mean_x) ** 2 for a in xs)
    return rise, mean_y - rise * mean_x


def layer_words(points):
    convert, base = slope(points, "layers", "convert_s")
    memory, _ = slope(points, "layers", "convert_mb")
    token, token_base = slope(points, "layers", "ms_per_token")
    held, _ = slope(points, "layers", "complete_mb")
    first, last = points[0], points[-1]
    return [
        f"Converting: a layer more costs {convert:.3g} s ({base:.2g} s are there without layers) and {memory:.3g} MB of memory: "
        f"{last['layers'] / first['layers']:.0f} times the layers take {last['convert_s'] / first['convert_s']:.2f} times the time "
        f"and {last['convert_mb'] / first['convert_mb']:.2f} times the memory.",
        f"Completing one prompt: a layer more costs {token:.3g} ms per token ({token_base:.2g} ms are there without layers) and "
        f"{held:.3g} MB, most of it the layer's weights.",
    ]


def prompt_words(points):
    first, last = points[0], points[-1]
    memory, _ = slope(points, "prompts", "mb")
    return [
        f"Prompts together: from {first['prompts']} to {last['prompts']} at once a token's time falls from {first['ms_per_token']:.0f} "
        f"to {last['ms_per_token']:.0f} ms, {last['prompts'] / first['prompts']:.0f} times the text takes "
        f"{last['s'] / first['s']:.1f} times the time; a prompt more holds {memory:.2g} MB of memory."
    ]


def panels(layers, prompts):
    """The four drawings."""

    def series(points, x, y, name):
        return {"name": name, "points": [(point[x], point[y]) for point in points]}

    return [
        {"title": "Converting to Q4_K_M", "x": "layers", "y": "seconds", "lines": [series(layers, "layers", "convert_s", "time")]},
        {"title": "Peak memory by layers", "x": "layers", "y": "MB",
         "lines": [series(layers, "layers", "complete_mb", "complete"), series(layers, "layers", "convert_mb", "convert")]},
        {"title": "Time of one token by layers", "x": "layers", "y": "ms", "lines": [series(layers, "layers", "ms_per_token", "complete")]},
        {"title": "Time of one token by prompts", "x": "prompts at once", "y": "ms, from launch", "doubling": True,
         "lines": [series(prompts, "prompts", "ms_per_token", "complete")]},
        {"title": "Peak memory by prompts", "x": "prompts at once", "y": "MB", "doubling": True,
         "lines": [series(prompts, "prompts", "mb", "complete")]},
        {"title": "Time of all prompts", "x": "prompts at once", "y": "seconds, from launch", "doubling": True,
         "lines": [series(prompts, "prompts", "s", "complete")]},
    ]
