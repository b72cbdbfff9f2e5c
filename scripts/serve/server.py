"""Starts a separate server for each client program."""

import contextlib
import json
import os
import pathlib
import subprocess
import time
import urllib.error
import urllib.request

MODELVE = os.environ["MODELVE"]
MODEL = os.environ.get("MODEL", "tiny")
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


@contextlib.contextmanager
def serving(*flags: str, model: str = MODEL):
    """The address of a server that has loaded its model."""
    environment = {k: v for k, v in os.environ.items() if k != "MODELVE_API_KEY"}
    command = [MODELVE, "serve", "-m", model, "--port", "0", *flags]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        url = child.stderr.readline().split()[-1]
        deadline = time.time() + 300
        while True:
            try:
                urllib.request.urlopen(url + "/health", timeout=5).read()
                break
            except (urllib.error.HTTPError, ConnectionError):
                if child.poll() is not None:
                    raise SystemExit(child.stderr.read())
                assert time.time() < deadline, "it does not load"
                time.sleep(0.05)
        yield url, child
        assert child.poll() is None, f"the server ended: {child.stderr.read()}"
    finally:
        child.terminate()
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            child.kill()


def ask(url: str, body=None, timeout: float = 300):
    """The answer of a path, as JSON."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=timeout) as answer:
        return json.loads(answer.read())


def metrics(url: str) -> dict[str, float]:
    """What /metrics counts."""
    with urllib.request.urlopen(url + "/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.removeprefix("modelve_").split() for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def modelve(*arguments: str) -> str:
    """What a command prints."""
    return subprocess.run([MODELVE, *arguments], check=True, capture_output=True, text=True).stdout
