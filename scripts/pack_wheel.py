#!/usr/bin/env python3
"""Packs what cargo built into a wheel: the module, the program, and the libraries of both.

    scripts/pack_wheel.py [--portable] BUILT VERSION TAG OUTPUT

BUILT is the folder that cargo built into; with --portable its folder `backends` goes along.
VERSION is that of the workspace, TAG that of the wheel's name, such as cp311-abi3-linux_x86_64.
The wheel's path is printed. Cargo builds program and module at once, so that both share one build of
llama.cpp; a wheel needs nothing else than to be put together.
"""

import base64
import hashlib
import pathlib
import sys
import tomllib
import zipfile

CRATE = pathlib.Path(__file__).resolve().parent.parent / "crates" / "python"


def metadata(project, version):
    """The wheel's METADATA, from the table `project` of pyproject.toml."""
    lines = [
        "Metadata-Version: 2.4",
        f"Name: {project['name']}",
        f"Version: {version}",
        f"Summary: {project['description']}",
        f"Requires-Python: {project['requires-python']}",
        f"License-Expression: {project['license']}",
        "Keywords: " + ",".join(project["keywords"]),
        *(f"Classifier: {classifier}" for classifier in project["classifiers"]),
        *(f"License-File: {name}" for name in ("LICENSE-APACHE", "LICENSE-MIT")),
        "Description-Content-Type: text/markdown",
    ]
    readme = (CRATE / project["readme"]).resolve().read_text(encoding="utf-8")
    return "\n".join(lines) + "\n\n" + readme


class Wheel:
    """A wheel that is written; RECORD is its list of files."""

    def __init__(self, path, info, time):
        self.zip = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9)
        self.info = info
        self.time = time
        self.record = []

    def add(self, name, data, mode=0o644):
        entry = zipfile.ZipInfo(name, self.time)
        entry.external_attr = (0o100000 | mode) << 16
        self.zip.writestr(entry, data, zipfile.ZIP_DEFLATED)
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        self.record.append(f"{name},sha256={digest},{len(data)}")

    def close(self):
        record = "\n".join([*self.record, f"{self.info}/RECORD,,"]) + "\n"
        entry = zipfile.ZipInfo(f"{self.info}/RECORD", self.time)
        entry.external_attr = 0o100644 << 16
        self.zip.writestr(entry, record, zipfile.ZIP_DEFLATED)
        self.zip.close()


def first(folder, *names):
    for name in names:
        if (folder / name).is_file():
            return folder / name
    sys.exit(f"pack_wheel: error: {folder} has no {names[0]}: build the program and the module first")


def main():
    portable = "--portable" in sys.argv[1:]
    words = [word for word in sys.argv[1:] if word != "--portable"]
    if len(words) != 4:
        sys.exit(__doc__)
    built, version, tag, output = words
    built = pathlib.Path(built)
    with open(CRATE / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    module = first(built, "lib_modelve.so", "lib_modelve.dylib", "_modelve.dll")
    program = first(built, "modelve", "modelve.exe")
    here = pathlib.Path(output) / f"{project['name']}-{version}-{tag}.whl"
    here.parent.mkdir(parents=True, exist_ok=True)
    info = f"{project['name']}-{version}.dist-info"
    data = f"{project['name']}-{version}.data"
    # Zip knows no time before 1980; the same sources give the same wheel.
    wheel = Wheel(here, info, (1980, 1, 1, 0, 0, 0))
    package = CRATE / "python"
    for path in sorted((package / "modelve").iterdir()):
        if path.suffix in (".py", ".pyi", ".typed") or path.name == "py.typed":
            wheel.add(path.relative_to(package).as_posix(), path.read_bytes())
    name = "_modelve.pyd" if module.suffix == ".dll" else "_modelve.abi3.so"
    wheel.add(f"modelve/{name}", module.read_bytes(), 0o755)
    wheel.add(f"{data}/scripts/{program.name}", program.read_bytes(), 0o755)
    if portable:
        for path in sorted((built / "backends").iterdir()):
            wheel.add(f"{data}/data/lib/modelve/{path.name}", path.read_bytes(), 0o755)
    wheel.add(f"{info}/METADATA", metadata(project, version).encode())
    purity = "Root-Is-Purelib: false"
    wheel.add(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: modelve\n{purity}\nTag: {tag}\n".encode())
    root = CRATE.parent.parent
    for name in ("LICENSE-APACHE", "LICENSE-MIT"):
        wheel.add(f"{info}/licenses/{name}", (root / name).read_bytes())
    wheel.close()
    print(here)


if __name__ == "__main__":
    main()
