"""One finished process: wall and CPU seconds, peak memory, output. Commands take turns."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field


@dataclass
class Run:
    """What the operating system says of one run (all children of a step added up)."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_mb: float = 0.0
    first_byte_s: float = 0.0
    stdout: bytes = b""
    error: str = ""


@dataclass
class Contender:
    """A command with a name, or several that run one after the other.

    `figure` turns a run's output into a number of its own, such as tokens per second;
    without it the figure is the wall time."""

    name: str
    steps: list
    figure: object = None
    before: object = None
    reason: str = ""
    env: dict = field(default_factory=dict)
    runs: list = field(default_factory=list)


def once(contender):
    """Runs a contender's steps and adds up time; memory is the largest single process."""
    total = Run()
    if contender.before:
        contender.before()
    for command in contender.steps:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            start = time.monotonic()
            process = subprocess.Popen(
                [str(part) for part in command], stdout=out, stderr=err, stdin=subprocess.DEVNULL,
                env={**os.environ, **contender.env})
            _, status, usage = os.wait4(process.pid, 0)
            total.wall_s += time.monotonic() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            total.cpu_s += usage.ru_utime + usage.ru_stime
            scale = 1 if sys.platform == "darwin" else 1024
            total.peak_mb = max(total.peak_mb, usage.ru_maxrss * scale / 1e6)
            out.seek(0)
            total.stdout = out.read()
            if process.returncode != 0:
                err.seek(0)
                tail = err.read()[-300:].decode(errors="replace").strip().splitlines()
                total.error = f"exit {process.returncode}: {tail[-1] if tail else ''}"
                return total
    return total


def take_turns(contenders, runs):
    """One warm-up each, then A B A B …; a contender that fails is left out with its reason."""
    for contender in contenders:
        if contender.reason:
            continue
        warm = once(contender)
        if warm.error:
            contender.reason = warm.error
    for _ in range(runs):
        for contender in contenders:
            if not contender.reason:
                contender.runs.append(once(contender))


def spread(values):
    """Median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summary(contender):
    """The figures of a contender, ready for JSON."""
    if contender.reason:
        return {"name": contender.name, "not_measured": contender.reason}
    result = {
        "name": contender.name,
        "wall_s": spread([run.wall_s for run in contender.runs]),
        "cpu_s": spread([run.cpu_s for run in contender.runs]),
        "peak_mb": spread([run.peak_mb for run in contender.runs]),
        "runs": len(contender.runs),
    }
    if contender.figure:
        result["figure"] = spread([contender.figure(run.stdout) for run in contender.runs])
    return result
