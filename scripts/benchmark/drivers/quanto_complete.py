"""Completes a prompt with transformers on the CPU, with weights that quanto quantizes to int4 while they load.

    python quanto_complete.py CHECKPOINT TOKENS PROMPT
"""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, QuantoConfig

folder, tokens, prompt = sys.argv[1], int(sys.argv[2]), sys.argv[3]
model = AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.bfloat16, device_map="cpu", quantization_config=QuantoConfig(weights="int4"))
tokenizer = AutoTokenizer.from_pretrained(folder)
inputs = tokenizer(prompt, return_tensors="pt")
answer = model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
print(tokenizer.decode(answer[0]))
