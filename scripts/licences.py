"""Collects the licences of everything that a package of modelve contains.

usage: licences.py FOLDER

Makes a folder in FOLDER for each crate that is part of the program (not for build dependencies), and for
llama.cpp and its bundled libraries. `licences.txt` lists them.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

LICENCE = re.compile(r"(licen[cs]e|copying|copyright|notice|unlicense)", re.IGNORECASE)


def crates():
    """The crates that are linked into the program: name, version, licence, folder."""
    host = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout
    host = re.search(r"^host: (.*)$", host, re.MULTILINE).group(1)
    command = ["cargo", "metadata", "--locked", "--format-version=1", "--filter-platform", host]
    command += ["--features", "portable"]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    nodes = {node["id"]: node for node in told["resolve"]["nodes"]}
    linked, left = set(), [told["resolve"]["root"]]
    while left:
        node = left.pop()
        if node in linked:
            continue
        linked.add(node)
        for dependency in nodes[node]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                left.append(dependency["pkg"])
    for package in told["packages"]:
        if package["id"] in linked and package["source"] is not None:
            folder = Path(package["manifest_path"]).parent
            yield package["name"], package["version"], package["license"], folder


def copy(folder, to):
    """Copies the licence files that lie in `folder` itself; how many there are."""
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and LICENCE.search(file.name)]
    for file in files:
        to.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, to / file.name)
    return len(files)


def notice(file):
    """The comment that a source file begins with."""
    lines = file.read_text(encoding="utf-8").splitlines()
    comment = []
    for line in lines:
        if not line.startswith("//"):
            break
        comment.append(line.lstrip("/").strip())
    return "\n".join(comment) + "\n"


def main():
    out = Path(sys.argv[1])
    rows, texts = [], {}
    for name, version, licence, folder in sorted(crates()):
        count = copy(folder, out / name)
        rows.append(f"{name} {version}: {licence}" + ("" if count else " (its archive holds no text; LICENSE-APACHE, LICENSE-MIT)"))
        texts[name] = folder
    llama = texts["llama-cpp-sys-2"] / "llama.cpp"
    copy(llama, out / "llama.cpp")
    rows.append("llama.cpp and ggml: MIT")
    for licence in sorted((llama / "vendor").rglob("LICENSE*")):
        name = "-".join(licence.parent.relative_to(llama / "vendor").parts)
        copy(licence.parent, out / "llama.cpp" / name)
        rows.append(f"{name}, part of llama.cpp: see its file")
    json_notice = out / "llama.cpp" / "nlohmann-json.txt"
    json_notice.write_text(notice(llama / "vendor" / "nlohmann" / "json.hpp"), encoding="utf-8")
    rows.append("JSON for Modern C++, part of llama.cpp: MIT")
    rows.append("Rust's standard library: MIT OR Apache-2.0, the texts of LICENSE-MIT and LICENSE-APACHE")
    (out / "licences.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    print(f"licences of {len(rows)} parts")


if __name__ == "__main__":
    main()
