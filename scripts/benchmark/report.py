"""The table on the terminal, in Markdown and in JSON."""

import json
import os
import platform
import subprocess
from datetime import date


def machine():
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as info:
            name = next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
        with open("/proc/meminfo") as info:
            memory = int(info.readline().split()[1]) * 1024
    except (OSError, StopIteration):
        memory = 0
    return {"cpu": name, "cores": os.cpu_count(), "memory_gb": round(memory / 1e9, 1), "system": platform.platform()}


def write(out, results, tools, options):
    out.mkdir(parents=True, exist_ok=True)
    version = subprocess.run([str(tools.modelve), "--version"], capture_output=True, text=True).stdout.strip()
    data = {"date": date.today().isoformat(), "version": version, "machine": machine(),
            "model": "built-in" if options.quick else "full size, random weights", "rows": results}
    (out / "BENCHMARKS.json").write_text(json.dumps(data, indent=1) + "\n")
    text = markdown(data)
    (out / "BENCHMARKS.md").write_text(text)
    print(text)


def number(value):
    return "–" if value is None else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def markdown(data):
    m = data["machine"]
    lines = [
        "# Benchmarks", "",
        f"{data['version']} on {m['cpu']}, {m['cores']} cores, {m['memory_gb']} GB, {m['system']}; {data['date']}; "
        f"model: {data['model']}. Page cache warm; medians, with minimum–maximum; commands of a row took turns. "
        "Ratio: modelve over the peer; below 1 is better for seconds, above 1 for tokens/s.", "",
        "Repeat with `scripts/bench` (`scripts/bench --quick` for the built-in model).", "",
        "| job | program | figure | min–max | CPU s | peak MB | ratio | memory ratio | limit |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in data["rows"]:
        limit = row.get("limit") or {}
        for index, figure in enumerate(row["contenders"]):
            job = row["row"] if index == 0 else ""
            if "not_measured" in figure:
                lines.append(f"| {job} | {figure['name']} | not measured: {figure['not_measured']} | | | | | | |")
                continue
            value = figure.get("figure", figure["wall_s"])
            unit = row["unit"]
            bound = f"{number(limit.get('value'))} ({limit['what']})" if index == 0 and limit else ""
            lines.append(
                f"| {job} | {figure['name']} | {number(value['median'])} {unit} | {number(value['min'])}–{number(value['max'])} "
                f"| {number(figure['cpu_s']['median'])} | {number(figure['peak_mb']['median'])} "
                f"| {number(figure['ratio']) if 'ratio' in figure else ''} "
                f"| {number(figure['memory_ratio']) if 'memory_ratio' in figure else ''} | {bound} |")
    return "\n".join(lines) + "\n"
