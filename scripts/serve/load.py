"""64 clients streaming at once, a quarter of them hanging up at random.

Every complete answer is compared with the answer to the same prompt alone. Batching adds in another order,
so a greedy text may differ where two tokens are almost equally likely: the margin of such a position is
printed, and in 32 bits a margin above 0.05 nats is a failure. Without LOAD_MODEL it tests the small model
in F32. A quantized model (LOAD_MODEL=tiny) rounds activations to 8 bits, differently for one text than for
several, so that texts differ more often; then margins are only printed. It also checks that no completion
is left running and no slot taken, that all slots can be used at once afterwards, that memory does not grow, and
that /health answers within a second. SECONDS_OF_LOAD is how long it runs.
"""

import http.client
import json
import os
import pathlib
import random
import tempfile
import threading
import time
import urllib.parse

from server import ROOT, ask, metrics, modelve, serving

SECONDS = float(os.environ.get("SECONDS_OF_LOAD", "60"))
SLOTS = 32
CLIENTS = int(os.environ.get("CLIENTS", "64"))
MARGIN = 0.05
EXACT = "LOAD_MODEL" not in os.environ
PROMPTS = [f"{begin} {middle}" for begin in ("Today is", "The ball hit the bat, and", "My uncle", "A bat",
                                             "China is a", "The club", "In the cave")
           for middle in ("", "the", "a small", "there")]


def memory(pid: int) -> int:
    """Resident memory in bytes."""
    with open(f"/proc/{pid}/status") as status:
        line = next(line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) << 10


def body(prompt: str) -> dict:
    return {"prompt": prompt, "max_tokens": 48, "temperature": 0, "ignore_eos": True, "logprobs": 2}


class Load:
    def __init__(self, url: str, alone: dict[str, dict]):
        self.url, self.alone = url, alone
        self.stop = time.time() + SECONDS
        self.lock = threading.Lock()
        self.done = self.hung_up = self.tokens = self.refused = 0
        self.ties: list[float] = []
        self.faults: list[str] = []
        self.slowest = 0.0

    def client(self, number: int) -> None:
        draw = random.Random(number)
        address = urllib.parse.urlparse(self.url).netloc
        while time.time() < self.stop:
            prompt = draw.choice(PROMPTS)
            leaves = draw.randrange(48) if number % 4 == 0 else None
            connection = http.client.HTTPConnection(address, timeout=120)
            try:
                connection.request("POST", "/v1/completions", json.dumps(body(prompt) | {"stream": True}))
                answer = connection.getresponse()
                if answer.status == 503:
                    with self.lock:
                        self.refused += 1
                    time.sleep(0.2)
                    continue
                self.read(prompt, answer, leaves)
            except Exception as error:  # noqa: BLE001
                with self.lock:
                    self.faults.append(f"{type(error).__name__}: {error}")
            finally:
                connection.close()

    def read(self, prompt: str, answer, leaves: int | None) -> None:
        tokens: list[str] = []
        ended = False
        for line in answer:
            if not line.startswith(b"data: "):
                continue
            if line.strip() == b"data: [DONE]":
                ended = True
                break
            part = json.loads(line[6:])
            if "error" in part:
                raise RuntimeError(part["error"]["message"])
            tokens += part["choices"][0]["logprobs"]["tokens"]
            if leaves is not None and len(tokens) > leaves:
                with self.lock:
                    self.hung_up += 1
                return
        with self.lock:
            self.done += 1
            self.tokens += len(tokens)
            if not ended:
                self.faults.append(f"{prompt!r} was cut off")
            self.compare(prompt, tokens)

    def compare(self, prompt: str, tokens: list[str]) -> None:
        told = self.alone[prompt]
        for i, (one, other) in enumerate(zip(told["tokens"], tokens)):
            if one != other:
                top = sorted(told["top_logprobs"][i].values(), reverse=True)
                margin = top[0] - top[1]
                self.ties.append(margin)
                if margin > MARGIN and EXACT:
                    self.faults.append(f"{prompt!r} parts at token {i} by {margin:.4f} nats: {one!r}, {other!r}")
                return
        if len(tokens) != len(told["tokens"]):
            self.faults.append(f"{prompt!r} has {len(tokens)} tokens, alone {len(told['tokens'])}")

    def watch(self) -> None:
        while time.time() < self.stop:
            begun = time.time()
            ask(self.url + "/health", timeout=30)
            with self.lock:
                self.slowest = max(self.slowest, time.time() - begun)
            time.sleep(0.1)


def busy(url: str) -> int:
    """The number of slots that compute."""
    return sum(slot["is_processing"] for slot in ask(url + "/slots", timeout=30))


def all_slots(url: str) -> None:
    """Takes every slot at once, as is only possible if no request before kept one, or its sequence."""
    long = body(PROMPTS[0]) | {"max_tokens": 256, "n": SLOTS, "logprobs": None, "temperature": 1}
    asked = threading.Thread(target=ask, args=(url + "/v1/completions", long))
    asked.start()
    most = 0
    while asked.is_alive():
        most = max(most, busy(url))
        time.sleep(0.01)
    asked.join()
    assert most == SLOTS, f"{most} of {SLOTS} slots can be used"


folder = tempfile.TemporaryDirectory()
model = os.environ.get("LOAD_MODEL", str(pathlib.Path(folder.name) / "tiny-f32.gguf"))
if EXACT:
    modelve("convert", str(ROOT / "models/tiny-phi3"), "-q", "F32", "-o", model)
with serving("--queue", "256", "--parallel", str(SLOTS), model=model) as (url, child):
    alone = {}
    for prompt in PROMPTS:
        answer = ask(url + "/v1/completions", body(prompt))
        alone[prompt] = answer["choices"][0]["logprobs"]
    load = Load(url, alone)
    threads = [threading.Thread(target=load.client, args=(i,)) for i in range(CLIENTS)]
    threads.append(threading.Thread(target=load.watch))
    for thread in threads:
        thread.start()
    begun = time.time()
    # What the first requests allocate is there by then.
    time.sleep(min(10, SECONDS / 4))
    resident = [memory(child.pid)]
    time.sleep(max(0.0, begun + SECONDS / 2 - time.time()))
    resident.append(memory(child.pid))
    for thread in threads:
        thread.join()
    seconds = time.time() - begun
    resident.append(memory(child.pid))
    deadline = time.time() + 30
    while (left := metrics(url))["completions_active"] + left["completions_waiting"] > 0:
        assert time.time() < deadline, f"left behind: {left}"
        time.sleep(0.1)
    assert busy(url) == 0, ask(url + "/slots")
    all_slots(url)
    print(f"{CLIENTS} clients for {seconds:.0f} s: {load.done} answers ({load.tokens / seconds:.0f} tokens/s), "
          f"{load.hung_up} hung up, {int(left['cancelled_total'])} cancelled, {load.refused} told to wait")
    print(f"memory at the beginning, in the middle and at the end: {', '.join(f'{n / 2**20:.1f}' for n in resident)} MiB; "
          f"slowest /health {1000 * load.slowest:.0f} ms")
    print(f"texts that parted at a near tie: {len(load.ties)}"
          + (f", margins up to {max(load.ties):.4f} nats" if load.ties else ""))
    for fault in load.faults[:20]:
        print("fault:", fault)
    assert not load.faults, f"{len(load.faults)} faults"
    assert max(resident) < 1.1 * resident[0] + (16 << 20), "memory grows"
    assert load.slowest < 1, "/health is late"
    assert load.hung_up > 0 and load.done > 0
