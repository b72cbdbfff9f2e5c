"""Runs the notebook of docs/ with the installed module: `notebook.py NOTEBOOK [PAGE]` writes it with its outputs."""

import ast
import sys

import nbclient
import nbformat

book = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()
outputs = [out for cell in book.cells if cell.cell_type == "code" for out in cell.outputs]
text = "".join(out.get("text", "") for out in outputs)
pages = [out["data"]["text/html"] for out in outputs if "text/html" in out.get("data", {})]
assert "a great day to be alive" in text, text
assert "flew away" in text and "boundary" in text, text
assert len(pages) >= 5 and all(page.startswith("<iframe") for page in pages), len(pages)
last = outputs[-1]["data"]["text/plain"]
then, france = ast.literal_eval(last)
assert then == france, last
if len(sys.argv) > 2:
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        file.write("<!doctype html><meta charset=utf-8><body>" + "\n".join(pages))
print(f"{sys.argv[1]}: {len(outputs)} outputs, {len(pages)} pages")
