#!/usr/bin/env python3
"""Makes a `tokenizer.json` of the vocabulary in a GGUF, for checkpoints to test with, or a `tokenizer.model`
where the vocabulary is one of SentencePiece that puts no space before a text, as Gemma's.

    scripts/vocab_to_tokenizer.py ggml-vocab-qwen2.gguf FOLDER

A GGUF holds tokens, types and merges or scores; how text is cut into words it only names. The rules
for the names below are those of the tokenizers that the vocabularies came from. A vocabulary of
SentencePiece becomes merges in the order of the scores, with bytes for what is in no piece, as
transformers writes it. Needs: gguf.
"""

import json
import struct
import sys
from pathlib import Path

import gguf

CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def split(pattern):
    """Words by a pattern, then bytes."""
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [cut, {**BYTES, "use_regex": False}]}


# tokenizer.ggml.pre: pre-tokenizer, normalizer, whether a word that is a token is not merged at all.
RULES = {
    "gpt-2": (BYTES, None, False),
    "llama-bpe": (split(CL100K % "{1,3}"), None, True),
    "qwen2": (split(CL100K % ""), {"type": "NFC"}, False),
    "smollm": ({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTES]}, None, False),
}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6


def read(path):
    """Keys of `tokenizer.ggml`."""
    fields = gguf.GGUFReader(path).fields
    return {key.removeprefix("tokenizer.ggml."): field.contents()
            for key, field in fields.items() if key.startswith("tokenizer.ggml.")}


def merges_of_scores(vocabulary, scores):
    """Pairs of pieces in the order in which SentencePiece would join them."""
    merges = []
    for piece, id in vocabulary.items():
        pairs = ((piece[:at], piece[at:]) for at in range(1, len(piece)))
        known = [pair for pair in pairs if pair[0] in vocabulary and pair[1] in vocabulary]
        merges.extend((-scores[id], vocabulary[a], vocabulary[b], a, b) for a, b in known)
    return [[a, b] for *_, a, b in sorted(merges)]


def tokenizer_json(path):
    """The object, and the number of tokens."""
    keys = read(path)
    tokens, types = keys["tokens"], keys["token_type"]
    of_type = lambda *kinds: {text: id for id, (text, kind) in enumerate(zip(tokens, types)) if kind in kinds}
    is_sentencepiece = keys["model"] == "llama"
    if is_sentencepiece:
        vocabulary = of_type(NORMAL, UNKNOWN, CONTROL, BYTE)
        replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        pre, ignore = None, False
        normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}
        merges = merges_of_scores(of_type(NORMAL), keys["scores"])
        decoder = {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    else:
        vocabulary = of_type(NORMAL)
        pre, normalizer, ignore = RULES[keys["pre"]]
        merges, decoder = keys["merges"], BYTES
    added = of_type(CONTROL, USER_DEFINED, UNKNOWN)
    unknown = next(iter(of_type(UNKNOWN)), None)
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": id, "content": text, "special": types[id] != USER_DEFINED, "single_word": False,
                          "lstrip": False, "rstrip": False, "normalized": False} for text, id in added.items()],
        "normalizer": normalizer, "pre_tokenizer": pre,
        "post_processor": None if is_sentencepiece else {**BYTES, "trim_offsets": False},
        "decoder": decoder,
        "model": {"type": "BPE", "dropout": None, "unk_token": unknown, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": is_sentencepiece, "byte_fallback": is_sentencepiece,
                  "ignore_merges": ignore, "vocab": vocabulary, "merges": merges},
    }, len(tokens)


def field(number, value):
    """A field of a protocol buffer: bytes, a 32-bit float, or a whole number."""
    def varint(value):
        low, rest = value & 127, value >> 7
        return bytes([low | 128]) + varint(rest) if rest else bytes([low])

    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3) + varint(value)


def tokenizer_model(keys):
    """A ModelProto of SentencePiece: pieces, the kind of model (2: BPE, bytes for what is in no piece), no changes to the text."""
    pieces = zip(keys["tokens"], keys["scores"], keys["token_type"])
    listed = [field(1, field(1, text.encode()) + field(2, float(score)) + field(3, kind)) for text, score, kind in pieces]
    unknown = keys["token_type"].index(UNKNOWN)
    trainer = b"".join(field(number, value) for number, value in [(3, 2), (35, 1), (40, unknown), (41, keys["bos_token_id"]), (42, keys["eos_token_id"])])
    normalizer = field(1, b"identity") + b"".join(field(number, value) for number, value in [(3, 0), (4, 0), (5, 1)])
    return b"".join(listed) + field(2, trainer) + field(3, normalizer)


def write(path, folder):
    """Writes the tokenizer and tokenizer_config.json; returns the number of tokens."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    keys = read(path)
    if keys["model"] == "llama" and keys.get("add_space_prefix") is False:
        (folder / "tokenizer.model").write_bytes(tokenizer_model(keys))
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GemmaTokenizer"}))
        return len(keys["tokens"])
    tokenizer, size = tokenizer_json(path)
    special = [token["content"] for token in tokenizer["added_tokens"] if token["special"]]
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": special[0] if special else None}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return size


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    write(sys.argv[1], sys.argv[2])
