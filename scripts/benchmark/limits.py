"""Physical limits: what no program on this machine can beat, measured in the same run."""

import os
import statistics
import time

from . import measure

BLOCK = 256 << 20


def read_bandwidth(threads):
    """Bytes per second that `threads` processes read from memory together.

    Each looks for a byte that is not there in a block larger than the caches: memchr, which the
    C library has in vector code."""
    pipes = []
    for _ in range(threads):
        reader, writer = os.pipe()
        if os.fork() == 0:
            block = bytearray(BLOCK)
            block.find(b"\1")
            end, passes, start = time.monotonic() + 1.0, 0, time.monotonic()
            while time.monotonic() < end:
                block.find(b"\1")
                passes += 1
            os.write(writer, repr(passes * BLOCK / (time.monotonic() - start)).encode())
            os._exit(0)
        os.close(writer)
        pipes.append(reader)
    total = 0.0
    for reader in pipes:
        with os.fdopen(reader) as file:
            total += float(file.read())
        os.wait()
    return total


def write_speed(folder, size):
    """Bytes per second that reach the disk: a new file, written and flushed."""
    path = folder / "write-speed"
    block = os.urandom(8 << 20)
    start = time.monotonic()
    with open(path, "wb") as file:
        for _ in range(size // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.monotonic() - start
    path.unlink()
    return size // len(block) * len(block) / seconds


def process_start():
    """Seconds and MB of a process that does nothing, as they are measured here."""
    runs = [measure.step(["true"], {}) for _ in range(11)]
    return statistics.median(run.wall_s for run in runs), statistics.median(run.peak_mb for run in runs)


def multiply_rate(program):
    """Products of 8-bit numbers that all cores add up per second; None where nothing tells."""
    told = measure.step([program], {})
    return float(told.stdout) if not told.error and told.stdout.strip() else None


def gather(work, threads, quick, multiply):
    """`multiply` is the program that measures what the processor multiplies."""
    start, floor = process_start()
    return {
        "products_per_s": multiply_rate(multiply),
        "read_bytes_per_s": read_bandwidth(threads),
        "write_bytes_per_s": write_speed(work, (64 if quick else 2048) << 20),
        "process_start_s": start,
        "process_peak_mb": floor,
    }


def size(count):
    """Bytes in a unit that leaves digits to read."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"


def start(limits):
    return {"what": "a process that does nothing", "value": limits["process_start_s"]}


def generate(limits, weights, passes):
    """Seconds: every pass reads all weights once."""
    speed = limits["read_bytes_per_s"]
    return {"what": f"{passes} × {size(weights)} of weights at {speed / 1e9:.1f} GB/s", "value": passes * weights / speed}


def generation_rate(limits, weights):
    """Tokens per second of one stream."""
    speed = limits["read_bytes_per_s"]
    return {"what": f"{speed / 1e9:.1f} GB/s over {size(weights)} of weights", "value": speed / weights}


def prefill_rate(limits, products):
    """Tokens per second: every token is multiplied with all weights, `products` of them."""
    rate = limits["products_per_s"]
    return rate and {"what": f"{rate / 1e9:.0f} billion 8-bit products/s over {products / 1e6:,.0f} million a token", "value": rate / products}


def prefill(limits, products, tokens):
    """Seconds: a prompt is bound by arithmetic."""
    rate = prefill_rate(limits, products)
    return rate and {"what": f"{tokens} tokens at {rate['value']:.0f}/s", "value": tokens / rate["value"]}


def prefill_and_generate(limits, products, tokens, weights, passes):
    """Seconds: a prompt, bound by arithmetic, then tokens, bound by memory."""
    first, then = prefill(limits, products, tokens), generate(limits, weights, passes)
    return first and {"what": f"{first['what']}; {then['what']}", "value": first["value"] + then["value"]}


def convert(limits, written, encode_s, threads):
    """Seconds: the larger of writing the file and encoding it; reading is from the page cache.

    `encode_s` are CPU seconds of the encoders alone for these weights, None where not measured."""
    disk = written / limits["write_bytes_per_s"]
    what = f"writing {size(written)} at {limits['write_bytes_per_s'] / 1e6:.0f} MB/s: {disk:.3g} s"
    if encode_s is not None:
        cores = encode_s / threads
        what += f"; the encoders alone: {encode_s:.3g} CPU s on {threads} cores: {cores:.3g} s"
        return {"what": what, "value": max(disk, cores)}
    return {"what": what, "value": disk}
