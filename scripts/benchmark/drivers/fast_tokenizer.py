"""Writes the tokenizer.json that other programs need, from a checkpoint's tokenizer files.

    python fast_tokenizer.py CHECKPOINT OUTPUT
"""

import sys

from transformers import AutoTokenizer

AutoTokenizer.from_pretrained(sys.argv[1]).backend_tokenizer.save(sys.argv[2])
