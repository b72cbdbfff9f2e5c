"""Asks a model with the Python module of modelve: what comes next after many prompts, and one lens.

    python modelve_questions.py MODEL PROMPTS
    python modelve_questions.py --next MODEL TOKENS ROUNDS

PROMPTS is a file with a prompt in each line. With --next, prints the milliseconds that the import took
and, of that many rounds, the least seconds of one question of that many tokens.
"""

import sys
import time

start = time.perf_counter()
import modelve  # noqa: E402 (its import is measured)

imported = time.perf_counter() - start

if sys.argv[1] == "--next":
    m, tokens, rounds = modelve.load(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    ids = m.tokenize("The ball hit the bat, and the crowd went home before the rain. " * tokens)[:tokens]
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        m.next(ids)
        best = min(best, time.perf_counter() - start)
    print(f"{1000 * imported:.1f} {best:.6f}")
else:
    m = modelve.load(sys.argv[1])
    with open(sys.argv[2], encoding="utf-8") as file:
        prompts = file.read().splitlines()
    for prompt in prompts:
        print(m.next(prompt).top[0].piece)
    print(m.lens(prompts[0]).n_layers)
