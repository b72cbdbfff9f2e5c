"""The tables on the terminal, in Markdown and in JSON; written anew after every row."""

import json
import os
import platform
from datetime import date
from pathlib import Path

from . import peers

NOTES = Path(__file__).with_name("notes.md")
HEAD = "| job | program | figure | min–max | runs | CPU s | peak MB | disk MB | modelve is | its memory | limit | near |"


class Report:
    """What a run has found so far."""

    def __init__(self, out, tools, options):
        self.out, self.quick = out, options.quick
        self.command = "scripts/bench --quick" if options.quick else "scripts/bench"
        self.partial = bool(options.only)
        self.versions = peers.versions(tools)
        self.machine = machine()
        self.limits, self.rows, self.promises, self.curve = {}, [], [], {}
        self.complete = False

    def picture(self, svg):
        (self.out / "docs").mkdir(exist_ok=True)
        (self.out / "docs" / "benchmarks.svg").write_text(svg)

    def write(self):
        data = {"complete": self.complete and not self.partial, "date": date.today().isoformat(), "command": self.command,
                "model": self.model(), "machine": self.machine, "versions": self.versions, "limits": self.limits,
                "rows": self.rows, "promises": [] if self.quick else self.promises, "curve": self.curve}
        (self.out / "docs").mkdir(exist_ok=True)
        (self.out / "docs" / "benchmarks.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
        (self.out / "BENCHMARKS.md").write_text(self.markdown())

    def model(self):
        return "the built-in model" if self.quick else "a Phi-3-mini of full size with random weights (3.82 billion)"

    def markdown(self):
        m = self.machine
        notes = sections(NOTES.read_text())
        lines = ["# Benchmarks", ""]
        if not self.complete or self.partial:
            lines += ["**Incomplete: this run left rows out or was interrupted.**", ""]
        lines += [f"modelve {self.versions['modelve']} on {m['cpu']}, {m['cores']} cores, {m['memory_gb']} GB, {m['system']}; "
                  f"{date.today().isoformat()}. The model is {self.model()}.", ""]
        lines += [notes["How to read"], ""]
        if self.limits:
            known = self.limits
            lines += [f"This machine reads {known['read_bytes_per_s'] / 1e9:.1f} GB/s from memory with all cores and writes "
                      f"{known['write_bytes_per_s'] / 1e6:.0f} MB/s to its disk; a process that does nothing takes "
                      f"{known['process_start_s'] * 1e3:.1f} ms and is seen with {known['process_peak_mb']:.1f} MB.", ""]
        if self.promises and not self.quick:
            lines += ["## What was promised", "", "| promise | bound | measured | |", "|---|---|---|---|"]
            lines += [promise_line(promise) for promise in self.promises] + [""]
        section = None
        for row in self.rows:
            if row["section"] != section:
                section = row["section"]
                lines += ["", f"## {section}", "", HEAD, "|---" * HEAD.count(" | ") + "|---|"]
            lines += row_lines(row)
        remarks = [f"- {row['row']}: {row['note']}." for row in self.rows if "note" in row]
        if self.curve:
            lines += ["", "## How cost grows", ""] + [f"- {sentence}" for sentence in self.curve["words"]]
            if (self.out / "docs" / "benchmarks.svg").exists():
                lines += ["", "![Time and memory by layers and by prompts at once](docs/benchmarks.svg)"]
        if remarks:
            lines += ["", "## Remarks", "", *remarks]
        if not self.quick:
            lines += ["", "## What is not faster, and why", "", notes["What is not faster, and why"]]
        lines += ["", "## How to repeat", "", notes["How to repeat"], "", "Measured: " +
                  "; ".join(f"{name} {version}" for name, version in self.versions.items()) + "."]
        return "\n".join(lines) + "\n"


def sections(text):
    """{heading: text} of a Markdown file's second-level headings."""
    found = {}
    for part in text.split("\n## ")[1:]:
        heading, _, body = part.partition("\n")
        found[heading] = body.strip()
    return found


def machine():
    name, memory = platform.processor() or platform.machine(), 0
    try:
        with open("/proc/cpuinfo") as info:
            name = next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
        with open("/proc/meminfo") as info:
            memory = int(info.readline().split()[1]) * 1024
    except (OSError, StopIteration):
        pass
    return {"cpu": name, "cores": os.cpu_count(), "memory_gb": round(memory / 1e9, 1), "system": platform.system() + " " + platform.release()}


def number(value):
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def promise_line(promise):
    word = "at least" if promise["least"] else "at most"
    unit = "" if promise["unit"] == "×" else " " + promise["unit"]
    times = " ×" if promise["unit"] == "×" else ""
    verdict = "holds" if promise["holds"] else "**does not hold**"
    return f"| {promise['promise']} | {word} {number(promise['bound'])}{times}{unit} | {number(promise['measured'])}{times}{unit} | {verdict} |"


def row_lines(row):
    limit = row.get("limit")
    for index, figure in enumerate(row["contenders"]):
        job = row["row"] if index == 0 else ""
        if "not_measured" in figure:
            reason = figure["not_measured"].replace("|", "\\|").replace("\n", " ")
            yield f"| {job} | {figure['name']} | not measured: {reason} |" + " |" * 9
            continue
        value = figure.get("figure") or figure["wall_s"]
        cells = [
            job, figure["name"], f"{number(value['median'])} {row['unit']}",
            "" if value["min"] == value["max"] else f"{number(value['min'])}–{number(value['max'])}",
            str(figure.get("runs", "")),
            number(figure["cpu_s"]["median"]) if "cpu_s" in figure else "",
            number(figure["peak_mb"]["median"]) if "peak_mb" in figure else "",
            number(figure["disk_mb"]) if "disk_mb" in figure else "",
            f"{number(figure['ratio'])} ×" if "ratio" in figure else "",
            f"{number(figure['memory_ratio'])} ×" if "memory_ratio" in figure else "",
            f"{number(limit['value'])} {row['unit']}: {limit['what']}" if limit and index == 0 else "",
            f"{100 * row['near']:.0f} %" if "near" in row and index == 0 else "",
        ]
        yield "| " + " | ".join(cells) + " |"
