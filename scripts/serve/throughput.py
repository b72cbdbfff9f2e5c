"""Tokens per second of `modelve serve` and of llama.cpp's own server: the same file, the same number of
slots and threads, 1, 8 and 32 clients, in one run.

Both servers are loaded all the time and asked in turn, so that both meet the same machine; of several
rounds the median counts. Each client sends one request after another: a prompt of PROMPT_WORDS words that no
other request has, so that nothing can be reused, and TOKENS tokens to be written. LLAMA_SERVER is the path of
llama-server, THROUGHPUT_MODEL a GGUF file (the small model in Q4_K_M), ROUNDS the number of rounds.
"""

import contextlib
import os
import pathlib
import random
import socket
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

from server import ROOT, ask, modelve, serving

LLAMA_SERVER = os.environ["LLAMA_SERVER"]
ROUNDS = int(os.environ.get("ROUNDS", "3"))
SLOTS, PROMPT_WORDS, TOKENS = 32, 64, 48
# Room for a prompt and its completion in each slot.
CELLS = SLOTS * 256
THREADS = str(os.cpu_count())
WORDS = ("time year people way day man thing woman life child world school state family student group country "
         "problem hand part place case week company system program question work government number night point "
         "home water room mother area money story fact month lot right study book eye job word business").split()
# Requests of one measurement, by the number of clients.
REQUESTS = {1: 6, 8: 24, 32: 64}


@contextlib.contextmanager
def llama_server(model: str):
    """The address of a llama-server that has loaded its model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [LLAMA_SERVER, "-m", model, "--port", str(port), "--parallel", str(SLOTS), "-c", str(CELLS),
               "--threads", THREADS, "--threads-batch", THREADS, "--no-webui", "--log-disable"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.time() + 300
        while True:
            try:
                urllib.request.urlopen(url + "/health", timeout=5).read()
                break
            except (urllib.error.URLError, ConnectionError):
                assert child.poll() is None, f"{LLAMA_SERVER} ended with {child.returncode}"
                assert time.time() < deadline, "llama-server does not load"
                time.sleep(0.1)
        yield url
    finally:
        child.terminate()
        child.wait(60)


def measure(url: str, clients: int, draw: random.Random) -> float:
    """Completion tokens per second of all clients together."""
    prompts = [" ".join(draw.choices(WORDS, k=PROMPT_WORDS)) for _ in range(REQUESTS[clients])]
    lock, tokens = threading.Lock(), []

    def client() -> None:
        while True:
            with lock:
                if not prompts:
                    return
                prompt = prompts.pop()
            answer = ask(url + "/v1/completions", {
                "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True})
            with lock:
                tokens.append(answer["usage"]["completion_tokens"])

    threads = [threading.Thread(target=client) for _ in range(clients)]
    begun = time.time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.time() - begun
    assert tokens == [TOKENS] * REQUESTS[clients], tokens
    return sum(tokens) / seconds


folder = tempfile.TemporaryDirectory()
model = os.environ.get("THROUGHPUT_MODEL")
if not model:
    model = str(pathlib.Path(folder.name) / "tiny.gguf")
    modelve("convert", str(ROOT / "models/tiny-phi3"), "-q", "Q4_K_M", "-o", model)
draw = random.Random(1)
slower = []
with (serving("--parallel", str(SLOTS), "--cells", str(CELLS), "--threads", THREADS, model=model) as (ours, _),
      llama_server(model) as theirs):
    for url in (ours, theirs):
        ask(url + "/v1/completions", {"prompt": "Today is", "max_tokens": 4})
    print(f"{pathlib.Path(model).name}: {SLOTS} slots, {THREADS} threads, prompts of {PROMPT_WORDS} words, {TOKENS} tokens each, "
          f"the median of {ROUNDS} rounds")
    for clients in REQUESTS:
        rates: dict[str, list[float]] = {ours: [], theirs: []}
        for _ in range(ROUNDS):
            for url in rates:
                rates[url].append(measure(url, clients, draw))
        mine, other = (statistics.median(rates[url]) for url in (ours, theirs))
        print(f"{clients:3} clients: modelve {mine:.1f} tokens/s, llama-server {other:.1f}, ratio {mine / other:.2f}"
              f"  (rounds: {', '.join(f'{a / b:.2f}' for a, b in zip(rates[ours], rates[theirs]))})", flush=True)
        if mine < other:
            slower.append(clients)
assert not slower, f"slower with {slower} clients"
