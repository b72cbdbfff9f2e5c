"""Completes a prompt with mistral.rs and a local GGUF file, greedily.

    python mistralrs_complete.py MODEL.gguf TOKENS PROMPT
"""

import os
import sys

from mistralrs import CompletionRequest, Runner, Which

model, tokens, prompt = os.path.abspath(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
folder, name = os.path.split(model)
runner = Runner(which=Which.GGUF(quantized_model_id=folder, quantized_filename=name), token_source="none")
request = CompletionRequest(model="default", prompt=prompt, max_tokens=tokens, temperature=0.0, top_k=1, ignore_eos=True)
print(runner.send_completion_request(request).choices[0].text)
