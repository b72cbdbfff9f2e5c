"""The program itself and its peers, from package registries only."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

DRIVERS = Path(__file__).resolve().parent / "drivers"
LLAMA_CPP_PYTHON = "0.3.36"
MISTRALRS = "0.9.5"
CANDLE_EXAMPLES = "0.11.1"
PYTHON_PACKAGES = ["gguf", "numpy", "torch", "transformers", "sentencepiece", "protobuf", "safetensors", "optimum-quanto", "accelerate"]
LLAMA_TOOLS = ["llama-quantize", "llama-completion", "llama-bench", "llama-tokenize", "llama-perplexity"]
FAILURES = (OSError, subprocess.CalledProcessError, StopIteration, ValueError)


@dataclass
class Tools:
    """Paths of programs; a reason in `missing` for each that could not be had."""

    modelve: Path
    llama_cpp: Path | None = None
    python: Path | None = None
    mistralrs: Path | None = None
    candle: Path | None = None
    wheel: Path | None = None
    benches: dict = field(default_factory=dict)
    missing: dict = field(default_factory=dict)

    def llama(self, name):
        return (self.llama_cpp or Path("llama.cpp")) / "build" / "bin" / name

    def example(self, name):
        return self.modelve.parent / "examples" / name

    def why(self, *names):
        """Why a contender that needs these cannot be measured; empty if it can."""
        return "; ".join(dict.fromkeys(self.missing[name] for name in names if name in self.missing))


def say(text):
    print(f"# {text}", file=sys.stderr, flush=True)


def call(command, **options):
    subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr, **options)


def gather(root, options):
    """modelve and what conversions are compared with: llama.cpp's tools and a Python."""
    modelve = options.modelve
    if modelve is None:
        say("building modelve")
        call(["cargo", "build", "--locked", "--bin", "modelve", "--example", "make_checkpoint", "--example", "multiply_rate", "--example", "probe_cost", "--example", "experiment_cost"], cwd=root)
        modelve = root / "target" / "debug" / "modelve"
    tools = Tools(modelve.resolve())
    obtain(tools, options, "llama_cpp", lambda: build_llama_cpp(options.work))
    obtain(tools, options, "python", lambda: make_venv(options.work / "venv", PYTHON_PACKAGES))
    return tools


def gather_all(root, options):
    """Those of `gather`, the other programs that run the model, and our own benches."""
    tools = gather(root, options)
    obtain(tools, options, "mistralrs", lambda: make_venv(options.work / "mistralrs", [f"mistralrs=={MISTRALRS}"]))
    obtain(tools, options, "candle", lambda: build_candle(options.work))
    obtain(tools, options, "wheel", lambda: install_wheel(root, options.work / "wheel"))
    if options.modelve is not None:
        tools.missing["benches"] = "only the program was given; without --modelve cargo builds the benches too"
    else:
        say("building the benches")
        try:
            tools.benches = build_benches(root)
        except FAILURES as error:
            tools.missing["benches"] = f"could not be built: {error}"
    if tools.python and subprocess.run([tools.python, "-c", "import optimum.quanto, accelerate"], capture_output=True).returncode:
        tools.missing["quanto"] = "this Python lacks optimum-quanto or accelerate"
    elif not tools.python:
        tools.missing["quanto"] = tools.why("python")
    return tools


def obtain(tools, options, name, make):
    """Takes a peer from the options or makes it; what fails becomes a reason."""
    given = getattr(options, name, None)
    if given:
        # Not resolved: the python of a virtual environment is a link that must stay one.
        setattr(tools, name, Path(os.path.abspath(given)))
    elif getattr(options, "no_peers", False):
        tools.missing[name] = "left out by --no-peers"
    else:
        try:
            setattr(tools, name, make())
        except FAILURES as error:
            tools.missing[name] = f"could not be had: {error}"


def build_llama_cpp(work):
    """llama.cpp's whole tree is in the source distribution of llama-cpp-python."""
    tree = work / "llama.cpp"
    if not tree.exists():
        say(f"fetching llama.cpp (llama-cpp-python {LLAMA_CPP_PYTHON} from PyPI)")
        python = make_venv(work / "fetch", ["scikit-build-core", "pyproject_metadata"])
        call([python, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation", "--no-binary", ":all:",
              "--dest", work, f"llama-cpp-python=={LLAMA_CPP_PYTHON}"])
        archive = next(work.glob("llama_cpp_python-*.tar.gz"))
        with tarfile.open(archive) as tar:
            tar.extractall(work, filter="data")
        archive.unlink()
        next(work.glob("llama_cpp_python-*/vendor/llama.cpp")).rename(tree)
    if not all((tree / "build" / "bin" / name).exists() for name in LLAMA_TOOLS):
        say("building llama.cpp's tools with the flags that modelve's build uses")
        call(["cmake", "-S", tree, "-B", tree / "build", "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON",
              "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_TESTS=OFF",
              "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_APP=OFF"])
        call(["cmake", "--build", tree / "build", "-j", str(os.cpu_count() or 2), "--target", *LLAMA_TOOLS])
    return tree


def make_venv(venv, packages):
    python = venv / "bin" / "python"
    if not (venv / "complete").exists():
        say(f"installing {' '.join(packages)} from PyPI")
        call([sys.executable, "-m", "venv", venv])
        call([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages])
        (venv / "complete").touch()
    return python


def install_wheel(root, venv):
    """A Python with modelve's module, of the build that is measured."""
    say("making a wheel of the Python module")
    call([root / "scripts" / "wheel", "--here"], cwd=root)
    wheel = next((root / "dist" / "here").glob("*.whl"))
    pythons = ["python3", *(f"python3.{minor}" for minor in range(15, 10, -1))]
    python = next((python for python in map(shutil.which, pythons) if python and is_recent(python)), None)
    if python is None:
        raise OSError("there is no Python 3.11 or later")
    call([python, "-m", "venv", "--clear", venv])
    call([venv / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", wheel])
    return venv / "bin" / "python"


def is_recent(python):
    return not subprocess.run([python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]).returncode


def build_candle(work):
    """The example program is in the crate candle-examples; cargo fetches it as a dependency."""
    program = work / "candle" / "quantized-phi"
    if program.exists():
        return program
    say(f"building candle's quantized-phi example (candle-examples {CANDLE_EXAMPLES} from crates.io)")
    wish = work / "candle-wish"
    (wish / "src").mkdir(parents=True, exist_ok=True)
    (wish / "src" / "lib.rs").touch()
    (wish / "Cargo.toml").write_text(
        '[package]\nname = "wish"\nversion = "0.0.0"\nedition = "2021"\n\n[workspace]\n\n'
        f'[dependencies]\ncandle-examples = "={CANDLE_EXAMPLES}"\n')
    listed = subprocess.run(["cargo", "metadata", "--format-version", "1"], cwd=wish, check=True, stdout=subprocess.PIPE)
    packages = json.loads(listed.stdout)["packages"]
    source = next(Path(p["manifest_path"]).parent for p in packages if p["name"] == "candle-examples")
    tree = work / "candle-source"
    shutil.copytree(source, tree, dirs_exist_ok=True)
    # By itself, and no part of what lies around it.
    manifest = tree / "Cargo.toml"
    manifest.write_text(manifest.read_text() + "\n[workspace]\n")
    call(["cargo", "build", "--release", "--locked", "--example", "quantized-phi", "--target-dir", tree / "target"],
         cwd=tree, env={**os.environ, "RUSTFLAGS": "-C target-cpu=native"})
    program.parent.mkdir(exist_ok=True)
    shutil.copy2(tree / "target" / "release" / "examples" / "quantized-phi", program)
    shutil.rmtree(tree)
    shutil.rmtree(wish)
    return program


def build_benches(root):
    """The programs of `benches/`, by name, built in the profile that everything else uses."""
    built = subprocess.run(
        ["cargo", "bench", "--locked", "--profile", "dev", "--no-run", "--bench", "quant", "--bench", "matmul", "--bench", "parts",
         "--message-format", "json-render-diagnostics"], cwd=root, check=True, stdout=subprocess.PIPE)
    messages = [json.loads(line) for line in built.stdout.splitlines()]
    return {m["target"]["name"]: Path(m["executable"]) for m in messages
            if m.get("executable") and m["target"]["kind"] == ["bench"]}


def versions(tools):
    """Name and version of what is measured, as far as it is there."""
    found = {"modelve": first_line([tools.modelve, "--version"]).removeprefix("modelve ")}
    if tools.llama_cpp:
        found["llama.cpp"] = f"{LLAMA_CPP_PYTHON} as in llama-cpp-python"
    script = "import sys, importlib.metadata as m\nfor n in sys.argv[1:]:\n  try: print(n, m.version(n), end='; ')\n  except Exception: pass"
    for python, names in [(tools.python, PYTHON_PACKAGES), (tools.mistralrs, ["mistralrs"])]:
        if python:
            for pair in first_line([python, "-c", script, *names]).rstrip("; ").split("; "):
                name, _, version = pair.partition(" ")
                if version:
                    found[name] = version
    if tools.candle:
        found["candle-examples (quantized-phi)"] = CANDLE_EXAMPLES
    return found


def first_line(command):
    try:
        done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = done.stdout.decode(errors="replace").strip().splitlines()
    # llama.cpp says first which devices it found.
    return next((line for line in lines if "version" in line), lines[0] if lines else "")
