"""One finished process: wall and CPU seconds, peak memory, disk, output. Commands take turns."""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

LAUNCH = [sys.executable, "-I", "-S", str(Path(__file__).with_name("launch.py"))]
TIMEOUT = 1800
# For what may take all memory, and the machine with it.
GREEDY_TIMEOUT = 300
# A second run of what took this many times as long as the fastest would tell nothing new.
FAR = 1.3


@dataclass
class Run:
    """What the operating system says of one run (all steps of a contender added up)."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_mb: float = 0.0
    disk_mb: float = 0.0
    stdout: bytes = b""
    error: str = ""


@dataclass
class Contender:
    """A command with a name, or several that run one after the other.

    `figure` turns a run into a number of the row's unit, such as tokens per second; without it
    the figure is the wall time. `outputs` are files that the steps write; they are removed
    before a run. `warm` are files that are read before a run, so that the page cache holds
    them. `once` is for what takes minutes: one run, no warm-up. `greedy` may want all memory
    and gets less time. `reason` says why a contender cannot be measured; `at_least_s` how long it ran all the same."""

    name: str
    steps: list
    figure: object = None
    reason: str = ""
    env: dict = field(default_factory=dict)
    outputs: list = field(default_factory=list)
    warm: list = field(default_factory=list)
    once: bool = False
    greedy: bool = False
    at_least_s: float = 0.0
    runs: list = field(default_factory=list)


def wait(process, timeout):
    """Waits for the launcher; ends it and its command after `timeout` seconds, and says so."""
    try:
        process.wait(timeout=timeout)
        return ""
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            return f"stopped after {timeout / 60:.0f} minutes"
        raise


def step(command, env, timeout=TIMEOUT):
    """One command, as a Run."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        result = Path(folder) / "result"
        start = time.monotonic()
        process = subprocess.Popen(
            [*LAUNCH, result, *(str(part) for part in command)], stdout=out, stderr=err, stdin=subprocess.DEVNULL,
            env={**os.environ, **env}, start_new_session=True)
        stopped = wait(process, timeout)
        out.seek(0)
        run = Run(stdout=out.read())
        if stopped or not result.exists():
            run.error, run.wall_s = stopped or "the launcher failed", time.monotonic() - start
            return run
        told = json.loads(result.read_text())
        run.wall_s, run.cpu_s, run.peak_mb = told["wall_s"], told["cpu_s"], told["peak_bytes"] / 1e6
        if told["exit"] != 0:
            err.seek(0)
            lines = [line.strip() for line in err.read()[-3000:].decode(errors="replace").splitlines()]
            # A backtrace says where; the line wanted is the one that says what.
            telling = [line for line in lines if "error" in line.lower()] or [line for line in lines if line] or [""]
            run.error = f"exit {told['exit']}: {telling[-1][:200]}"
            if told["exit"] == -signal.SIGKILL:
                run.error = f"ended by the system after {run.wall_s:.0f} s, when it held {run.peak_mb / 1e3:.1f} GB"
        return run


def read_through(paths):
    """Reads files, so that the page cache holds them if memory allows."""
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


def once(contender):
    """Runs a contender's steps and adds up time; memory is the largest single process."""
    total = Run()
    for path in contender.outputs:
        Path(path).unlink(missing_ok=True)
    if contender.outputs:
        # What others wrote reaches the disk now, not while this runs.
        os.sync()
    read_through(contender.warm)
    for command in contender.steps:
        run = step(command, contender.env, GREEDY_TIMEOUT if contender.greedy else TIMEOUT)
        total.wall_s += run.wall_s
        total.cpu_s += run.cpu_s
        total.peak_mb = max(total.peak_mb, run.peak_mb)
        total.stdout = run.stdout
        if run.error:
            total.error = run.error
            return total
    total.disk_mb = sum(Path(path).stat().st_size for path in contender.outputs if Path(path).exists()) / 1e6
    return total


def count(contender):
    """A counted run; what failed says why and is not run again."""
    run = once(contender)
    if run.error:
        contender.reason, contender.at_least_s = run.error, run.wall_s
    elif contender.figure:
        try:
            contender.figure(run)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, ZeroDivisionError) as error:
            contender.reason = f"its output was not understood: {error!r}"
    if not contender.reason:
        contender.runs.append(run)


def take_turns(contenders, runs, long=False):
    """One warm-up each, then A B A B …

    Those marked `once` run once, in the middle: what they are compared with ran before and
    after them. A `long` row has no warm-up, and who is far behind after a turn is not run again."""
    for contender in contenders:
        if not long and not contender.once and not contender.reason:
            contender.reason = once(contender).error
    middle = (runs - 1) // 2
    for turn in range(runs):
        for contender in contenders:
            if contender.reason or (contender.once and turn != middle):
                continue
            if not (long and contender.runs and contender is not contenders[0] and far_behind(contender, contenders)):
                count(contender)


def far_behind(contender, contenders):
    fastest = min(other.runs[0].wall_s for other in contenders if other.runs)
    return contender.runs[0].wall_s > FAR * fastest


def spread(values):
    """Median, minimum and maximum, and what they are of, turn by turn."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "turns": values}


def summary(contender):
    """The figures of a contender, ready for JSON."""
    if not contender.runs:
        return {"name": contender.name, "not_measured": contender.reason or "no run", "at_least_s": contender.at_least_s}
    result = {
        "name": contender.name,
        "wall_s": spread([run.wall_s for run in contender.runs]),
        "cpu_s": spread([run.cpu_s for run in contender.runs]),
        "peak_mb": spread([run.peak_mb for run in contender.runs]),
        "runs": len(contender.runs),
    }
    if contender.outputs:
        result["disk_mb"] = contender.runs[-1].disk_mb
    if contender.figure:
        result["figure"] = spread([contender.figure(run) for run in contender.runs])
    return result
