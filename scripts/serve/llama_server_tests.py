"""Runs the tests of llama.cpp's own server, from the sources in llama-cpp-python, on `modelve serve`.

They are fetched, run and deleted. In place of llama-server they start a small program, which runs
`modelve serve` with those flags that it also has. llama_server_skips.txt lists the tests that are not
run, with the reasons; with CHECK_SKIPS those alone are run, and one that passes is a failure.
"""

import json
import os
import pathlib
import re
import stat
import subprocess
import sys
import tarfile
import tempfile

from server import MODEL, MODELVE

VERSION = "0.3.36"
FILES = ["basic", "completion", "chat_completion", "tokenize", "template", "security", "metrics",
         "ignore_eos", "compat_oai_responses", "tool_call"]
SKIPS = pathlib.Path(__file__).with_name("llama_server_skips.txt")

WRAPPER = f"""#!{sys.executable}
import os, sys
given = sys.argv[1:]
flags = []
value = lambda name: given[given.index(name) + 1] if name in given else None
for name in ("--port", "--host", "--alias", "--api-key", "--threads"):
    if value(name):
        flags += [name, value(name)]
parallel = int(value("--parallel") or 4)
flags += ["--parallel", str(parallel)]
if value("--ctx-size"):
    whole = int(value("--ctx-size"))
    each = whole if "--kv-unified" in given else whole // parallel
    flags += ["--ctx-size", str(min(each, 1024)), "--cells", str(max(whole, 256))]
if value("--chat-template-file"):
    flags += ["--chat-template", value("--chat-template-file")]
if int(value("--n-predict") or -1) > 0:
    flags += ["--max-tokens", value("--n-predict")]
os.execv({MODELVE!r}, [{MODELVE!r}, "serve", "-m", {MODEL!r}, *flags])
"""


def fetch(folder: pathlib.Path) -> pathlib.Path:
    """The folder of the tests."""
    given = os.environ.get("LLAMA_CPP_PYTHON_SDIST")
    if not given:
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "scikit-build-core"], check=True)
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:",
                        "--no-build-isolation", "--dest", folder, f"llama-cpp-python=={VERSION}"], check=True)
        given = next(folder.glob("*.tar.gz"))
    with tarfile.open(given) as archive:
        parts = ("/tools/server/tests/", "/models/templates/")
        names = [m for m in archive.getmembers() if any(part in m.name for part in parts)]
        archive.extractall(folder, names, filter="data")
    return next(folder.glob("*/vendor/llama.cpp/tools/server/tests"))


def skips() -> list[tuple[re.Pattern, str]]:
    """Names of tests that are not run, with the reason."""
    lines = [line for line in SKIPS.read_text().splitlines() if line and not line.startswith("#")]
    pairs = (line.split("  ", 1) for line in lines)
    return [(re.compile(name.removeprefix("re:") if name.startswith("re:") else name + r"(\[|$)"), reason.strip())
            for name, reason in pairs]


PLUGIN = """
import json, os, re, pytest
SKIPS = [(re.compile(p), r) for p, r in json.load(open(__SKIPS__))]
CHECK = "CHECK_SKIPS" in os.environ

def pytest_collection_modifyitems(items):
    skipped = []
    for item in items:
        reason = next((reason for pattern, reason in SKIPS if pattern.match(item.name)), None)
        if reason and CHECK:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
            skipped.append(item)
        elif reason:
            item.add_marker(pytest.mark.skip(reason=reason))
    if CHECK:
        items[:] = skipped
"""

with tempfile.TemporaryDirectory() as work:
    folder = pathlib.Path(work)
    tests = fetch(folder)
    wrapper = folder / "llama-server"
    wrapper.write_text(WRAPPER)
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IEXEC)
    (folder / "skips.json").write_text(json.dumps([(p.pattern, r) for p, r in skips()]))
    (folder / "modelve_skips.py").write_text(PLUGIN.replace("__SKIPS__", repr(str(folder / "skips.json"))))
    # The models that their tests fetch beforehand are not needed.
    conftest = tests / "conftest.py"
    conftest.write_text(conftest.read_text().replace("ServerPreset.load_all()", "pass"))
    environment = os.environ | {
        "LLAMA_SERVER_BIN_PATH": str(wrapper), "PYTHONPATH": str(folder), "PORT": "18080",
    }
    files = [f"unit/test_{name}.py" for name in FILES]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "modelve_skips", "-q", "-rfs", "--no-header", "-m", "not slow",
         "--tb=short", *files], cwd=tests, env=environment)
    sys.exit(result.returncode)
