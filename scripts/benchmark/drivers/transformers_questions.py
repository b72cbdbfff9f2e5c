"""Asks a checkpoint with transformers what modelve_questions.py asks a GGUF.

    python transformers_questions.py CHECKPOINT PROMPTS
"""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16, device_map="cpu")
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
with open(sys.argv[2], encoding="utf-8") as file:
    prompts = file.read().splitlines()
with torch.no_grad():
    for prompt in prompts:
        logits = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1]
        print(tokenizer.decode(torch.softmax(logits.float(), -1).argmax()))
    # The state after every layer, normed and unembedded; of the last it is the answer.
    out = model(**tokenizer(prompts[0], return_tensors="pt"), output_hidden_states=True)
    states = [model.model.norm(state) for state in out.hidden_states[1:-1]] + [out.hidden_states[-1]]
    print(len([torch.softmax(model.lm_head(state[0]).float(), -1) for state in states]))
