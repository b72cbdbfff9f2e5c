"""Physical limits: what no program on this machine can beat."""

import subprocess

READ = """
import sys, time, threading, numpy
block = numpy.ones(1 << 27, dtype=numpy.int64)
threads = int(sys.argv[1])
parts = numpy.array_split(block, threads)
best = 0
for _ in range(5):
    start = time.perf_counter()
    pool = [threading.Thread(target=part.max) for part in parts]
    [t.start() for t in pool]; [t.join() for t in pool]
    best = max(best, block.nbytes / (time.perf_counter() - start))
print(best)
"""


def read_bandwidth(tools, threads):
    """Bytes per second that `threads` threads read from memory together; 0 if not known."""
    if not tools.python:
        return 0.0
    result = subprocess.run([str(tools.python), "-c", READ, str(threads)], capture_output=True, text=True)
    return float(result.stdout or 0)


def generate(weights, tokens, bandwidth):
    """Every token reads all weights once."""
    if not bandwidth:
        return None
    return {"what": f"{tokens} x {weights / 1e9:.2f} GB at {bandwidth / 1e9:.1f} GB/s", "value": tokens * weights / bandwidth}


def convert(source_bytes):
    """The input is read once; from a warm page cache that is a copy, from disk the disk's speed."""
    return {"what": f"reading {source_bytes / 1e9:.2f} GB once", "value": None}
