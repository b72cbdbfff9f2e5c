"""Runs schemathesis on /openapi.json: no request may cause a 5xx status except 503, or stop the server."""

import os
import pathlib
import subprocess
import sys

from server import ask, serving

EXAMPLES = os.environ.get("EXAMPLES", "40")

with serving("--max-tokens", "8", "--queue", "512") as (url, child):
    program = pathlib.Path(sys.executable).with_name("schemathesis")
    result = subprocess.run([
        program, "run", url + "/openapi.json", "--url", url, "--checks", "not_a_server_error",
        "--max-examples", EXAMPLES, "--phases", "examples,coverage,fuzzing", "--continue-on-failure",
        "--request-timeout", "120", "--workers", "2",
    ], text=True, capture_output=True)
    print(result.stdout[-4000:], result.stderr[-2000:])
    answer = ask(url + "/v1/completions", {"prompt": "Today is", "max_tokens": 4, "temperature": 0})
    assert answer["choices"][0]["text"]
    sys.exit(result.returncode)
