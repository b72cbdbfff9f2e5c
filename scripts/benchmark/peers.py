"""The program itself and its peers, from package registries only."""

import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

LLAMA_CPP_PYTHON = "0.3.36"
PYTHON_PACKAGES = ["gguf", "numpy", "torch", "transformers", "sentencepiece", "safetensors"]
LLAMA_TOOLS = ["llama-quantize", "llama-completion", "llama-bench", "llama-tokenize", "llama-perplexity"]


@dataclass
class Tools:
    """Paths of programs; a reason in `missing` for each that could not be had."""

    modelve: Path
    llama_cpp: Path | None = None
    python: Path | None = None
    missing: dict = field(default_factory=dict)

    def llama(self, name):
        return self.llama_cpp / "build" / "bin" / name


def say(text):
    print(f"# {text}", file=sys.stderr, flush=True)


def call(command, **options):
    subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr, **options)


def gather(root, options):
    modelve = options.modelve
    if modelve is None:
        say("building modelve")
        call(["cargo", "build", "--bin", "modelve", "--example", "make_checkpoint"], cwd=root)
        modelve = root / "target" / "debug" / "modelve"
    tools = Tools(modelve.resolve())
    try:
        tools.llama_cpp = options.llama_cpp or build_llama_cpp(options.work)
    except (OSError, subprocess.CalledProcessError, StopIteration) as error:
        tools.missing["llama.cpp"] = f"could not be built: {error}"
    try:
        tools.python = options.python or make_venv(options.work)
    except (OSError, subprocess.CalledProcessError) as error:
        tools.missing["python"] = f"its packages could not be installed: {error}"
    return tools


def build_llama_cpp(work):
    """llama.cpp's whole tree is in the source distribution of llama-cpp-python."""
    tree = work / "llama.cpp"
    if not tree.exists():
        say(f"fetching llama.cpp (llama-cpp-python {LLAMA_CPP_PYTHON} from PyPI)")
        call([sys.executable, "-m", "venv", work / "fetch"])
        pip = work / "fetch" / "bin" / "pip"
        call([pip, "install", "--quiet", "scikit-build-core", "pyproject_metadata"])
        call([pip, "download", "--quiet", "--no-deps", "--no-build-isolation", "--no-binary", ":all:",
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


def make_venv(work):
    venv = work / "venv"
    python = venv / "bin" / "python"
    if not (venv / "complete").exists():
        say("installing gguf-py, torch and transformers from PyPI (large)")
        call([sys.executable, "-m", "venv", venv])
        call([python, "-m", "pip", "install", "--quiet", *PYTHON_PACKAGES])
        (venv / "complete").touch()
    return python
