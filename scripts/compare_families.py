#!/usr/bin/env python3
"""Compares what `modelve convert` makes of each family with llama.cpp and transformers.

    scripts/compare_families.py --llama-cpp DIR_OR_ARCHIVE [--quantize PROGRAM] [--write]

Small random checkpoints come from transformers' own classes, in the forms that a family has. Compared are

    bytes    every tensor of F32, F16, BF16, Q8_0, Q4_0, Q4_K_M and Q6_K with `convert_hf_to_gguf.py` and
             llama-quantize, and that no key of theirs is missing or different
    logits   `next` on the F32 file: the 50 likeliest tokens' log-probabilities, transformers in 64 bits
    probes   `score`, `lens` (the last layer but one) and `attention` on it, likewise
    ids      200 strings cut by a real vocabulary (--vocabs, `ggml-vocab-*.gguf`, and that of each --real), and
             by the `tokenizers` library, or by `sentencepiece` where there is a tokenizer.model
    text     a real model (--real FAMILY=GGUF): transformers saves it as a checkpoint, it is converted to
             Q8_0, and goes on with a sentence as it should

ggml computes two things otherwise than transformers in every precision. The ends of YaRN's ramp are whole
numbers: a transformers that rounds them, too, is what counts then. And GELU comes from a table of 16-bit
arguments and values: logits and probes are then compared a second time with a transformers that is given
what ggml's feed-forward networks add to the state (`dump`), which leaves all but the table, and those
sums with transformers' own for the same state, by such a table; that they are within 1e-4 of the largest
leaves room for arguments that rounding in 32 bits moves to the next number of 16 bits, and nothing else.

--llama-cpp is a checkout of llama.cpp or the source archive of llama-cpp-python. --write puts the rows
into the table of docs/models.md. Each family's row is kept in WORK/results.json as soon as it is known; with
--resume the families that stand there are not compared again. Needs Python with torch, transformers, sentencepiece, gguf. Exit code 1 where
something differs.
"""

import argparse
import hashlib
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs" / "models.md"
# Name and llama.cpp's number; the first three are the converter's own.
TYPES = {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q4_0": 2, "Q4_K_M": 15, "Q6_K": 18}
PROMPT = "The quick brown fox jumps over 13 lazy dogs; it was the best of times, and the worst came later in the day."
# Written by the container and by llama-quantize, or named after the folder.
NOT_COMPARED = {"general.name", "general.file_type", "general.quantization_version", "general.size_label"}

BASE = dict(hidden_size=256, intermediate_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=2,
            max_position_embeddings=512)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64, rope_theta=500000.0)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=128, rope_theta=1e6)
GEMMA = dict(BASE, head_dim=64, query_pre_attn_scalar=64, sliding_window=16)
GLOBAL_LINEAR = {"full_attention": dict(rope_type="linear", factor=8.0, rope_theta=1e6),
                 "sliding_attention": dict(rope_type="default", rope_theta=1e4)}
EXPERTS = dict(BASE, head_dim=64, moe_intermediate_size=256, num_experts=16, num_experts_per_tok=4, norm_topk_prob=True)

GPT_OSS = dict(BASE, head_dim=64, num_local_experts=4, num_experts_per_tok=2, sliding_window=16)
LONG = dict(type="longrope", long_factor=[4.0] * 16, short_factor=[1.0] * 16)

# Family: [(form, transformers' class without ForCausalLM, its configuration, vocabulary, settings)].
FORMS = {
    "Llama": [
        ("Llama 3", "Llama", "Llama", "llama-bpe", dict(BASE, rope_parameters=LLAMA3, rms_norm_eps=1e-5)),
        ("biases, tied", "Llama", "Llama", "llama-bpe", dict(BASE, num_key_value_heads=8, attention_bias=True, mlp_bias=True,
                                                             tie_word_embeddings=True, head_dim=64)),
        ("Llama 2", "Llama", "Llama", "llama-spm", BASE),
        ("SmolLM 2", "Llama", "Llama", "Llama", dict(BASE, tie_word_embeddings=True))],
    "Mistral": [("plain", "Mistral", "Mistral", "llama-spm", dict(BASE, sliding_window=None))],
    "Qwen 2": [("tied", "Qwen2", "Qwen2", "qwen2", dict(BASE, tie_word_embeddings=True)),
               ("YaRN", "Qwen2", "Qwen2", "qwen2", dict(BASE, num_key_value_heads=4, rope_parameters=YARN))],
    "Qwen 3": [("tied", "Qwen3", "Qwen3", "qwen2", dict(BASE, head_dim=64, tie_word_embeddings=True))],
    "Qwen 3 MoE": [("16 experts", "Qwen3Moe", "Qwen3Moe", "qwen2", EXPERTS)],
    "OLMo 2": [("plain", "Olmo2", "Olmo2", "qwen2", BASE)],
    "Gemma 2": [("plain", "Gemma2", "Gemma2", "Phi-3", GEMMA),
                ("vocabulary", "Gemma2", "Gemma2", "Gemma 3", dict(GEMMA, hidden_size=64, num_hidden_layers=2))],
    "Gemma 3": [("plain", "Gemma3", "Gemma3Text", "Phi-3", GEMMA),
                ("scaled", "Gemma3", "Gemma3Text", "Phi-3", dict(GEMMA, num_hidden_layers=12,
                                                                 rope_parameters=GLOBAL_LINEAR)),
                ("vocabulary", "Gemma3", "Gemma3Text", "Gemma 3", dict(GEMMA, hidden_size=64, num_hidden_layers=2))],
    "GPT-2": [("plain", "GPT2LMHead", "GPT2", "gpt-2", dict(n_embd=256, n_layer=8, n_head=8, n_positions=256))],
    "Phi-2": [("plain", "Phi", "Phi", "gpt-2", dict(BASE, num_key_value_heads=8, intermediate_size=1024,
                                                    partial_rotary_factor=0.5))],
    "Phi-3": [("short", "Phi3", "Phi3", "Phi-3", BASE),
              ("long", "Phi3", "Phi3", "Phi-3", dict(BASE, original_max_position_embeddings=256, rope_scaling=LONG))],
    "SmolLM3": [("plain", "SmolLM3", "SmolLM3", "llama-bpe", BASE)],
    "Mixtral": [("8 experts", "Mixtral", "Mixtral", "llama-bpe", dict(BASE, num_local_experts=8)),
                ("4 experts", "Mixtral", "Mixtral", "llama-bpe", dict(BASE, num_local_experts=4, num_key_value_heads=8))],
    "gpt-oss": [("16 bits", "GptOss", "GptOss", "llama-bpe", GPT_OSS)],
}
# Where a vocabulary is no name of a file but that of a family of --real, or this one.
PHI3 = "Phi-3"
COLUMNS = ["bytes", "ids", "logits", "probes", "text"]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--llama-cpp", type=Path, required=True, help="a checkout, or the archive of llama-cpp-python")
    arguments.add_argument("--quantize", help="llama-quantize (default: the checkout's, or the one in PATH)")
    arguments.add_argument("--modelve", type=Path, default=ROOT / "target" / "debug" / "modelve")
    arguments.add_argument("--vocabs", type=Path, default=ROOT.parent / "shared" / "vocabs", help="ggml-vocab-*.gguf")
    arguments.add_argument("--spm", type=Path, default=ROOT.parent / "shared" / "phi3", help="a folder with a tokenizer.model")
    arguments.add_argument("--work", type=Path, default=ROOT / "bench-work" / "families")
    arguments.add_argument("--real", action="append", default=[], metavar="FAMILY=GGUF", help="a trained model")
    arguments.add_argument("--family", action="append", help="only this one; repeatable")
    arguments.add_argument("--resume", action="store_true", help="leave out families whose row is in WORK/results.json")
    arguments.add_argument("--write", action="store_true", help="put the table into docs/models.md")
    options = arguments.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    options.llama_cpp = checkout(options)
    built = options.llama_cpp / "build" / "bin" / "llama-quantize"
    options.quantize = options.quantize or (str(built) if built.is_file() else shutil.which("llama-quantize"))
    if not options.quantize:
        sys.exit("error: no llama-quantize; name one with --quantize")
    sys.path[:0] = [str(options.llama_cpp / "gguf-py"), str(ROOT / "scripts")]

    options.real = {family: Path(path) for family, path in (entry.split("=", 1) for entry in options.real)}
    kept = options.work / "results.json"
    table = json.loads(kept.read_text()) if kept.is_file() else {}
    wanted = options.family or [family for family in FORMS if not (options.resume and family in table)]
    for family in wanted:
        table[family] = row(options, family)
        kept.write_text(json.dumps(table, indent=1, ensure_ascii=False))
    if options.write:
        write_table(table)
    sys.exit(0 if all(table[family]["same"] for family in wanted) else 1)


def row(options, family):
    """Compares all forms of a family; what each column says, and whether nothing differs."""
    said, same = {}, True
    results = [(form[0], compare(options, form)) for form in FORMS[family]]
    if family in options.real:
        results.append(("trained", {"text": completes(options, options.real[family])}))
    for form, columns in results:
        for column, (good, what) in columns.items():
            same &= good
            if what:
                said.setdefault(column, {})[what] = None
                print(f"{family:10} {form:14} {column:7} {'' if good else 'DIFFERENT: '}{what}", flush=True)
    return {"same": same} | {column: "; ".join(what) for column, what in said.items()}


def checkout(options):
    """The sources of llama.cpp, unpacked where an archive was named."""
    if options.llama_cpp.is_dir():
        return options.llama_cpp
    unpacked = options.work / "llama.cpp"
    with tarfile.open(options.llama_cpp) as archive:
        inside = [member for member in archive.getmembers() if "/vendor/llama.cpp/" in member.name]
        for member in inside:
            member.name = member.name.split("/vendor/llama.cpp/", 1)[1]
        archive.extractall(unpacked, inside, filter="data")
    return unpacked


def run(*command):
    """Runs a program; returns what it printed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(map(str, command))}\n{(done.stdout[-1500:] + done.stderr[-1500:]).decode(errors='replace')}")
    return done.stdout.decode()


def compare(options, form):
    """Every column of one form: whether it is right, and what it says."""
    folder, ours = options.work / "checkpoint", options.work / "ours.gguf"
    shutil.rmtree(folder, ignore_errors=True)
    vocabulary = make(options, form, folder)
    if not vocabulary:
        return {"ids": (True, "")}
    convert = lambda kind: run(options.modelve, "convert", folder, "-q", kind, "-o", ours, "--force", "--offline")
    columns = {"bytes": same_bytes(options, folder, ours, convert)}
    convert("F32")
    columns["ids"] = same_ids(options, folder, ours, vocabulary)
    columns.update(same_numbers(options, folder, ours))
    return columns


def make(options, form, folder):
    """A checkpoint with random weights and a real vocabulary; the latter's name, unless it is not at hand."""
    import torch
    import transformers
    import vocab_to_tokenizer

    _, model, config, vocabulary, settings = form
    folder.mkdir(parents=True)
    if vocabulary == PHI3:
        for name in ["added_tokens.json", "special_tokens_map.json", "tokenizer.model", "tokenizer_config.json"]:
            shutil.copy(options.spm / name, folder)
        size = json.loads((options.spm / "config.json").read_text())["vocab_size"]
    elif vocabulary in FORMS:
        if vocabulary not in options.real:
            return None
        size = vocab_to_tokenizer.write(options.real[vocabulary], folder)
    else:
        size = vocab_to_tokenizer.write(options.vocabs / f"ggml-vocab-{vocabulary}.gguf", folder)
    torch.manual_seed(3)
    config = getattr(transformers, f"{config}Config")(
        vocab_size=size, bos_token_id=None, eos_token_id=size - 1, pad_token_id=None, **settings)
    model = getattr(transformers, f"{model}Model" if model.endswith("Head") else f"{model}ForCausalLM")(config)
    for parameter in model.parameters():
        is_norm = parameter.ndim == 1 and not family_adds_one(model)
        torch.nn.init.normal_(parameter, 1.0 if is_norm else 0.0, 0.2 if parameter.ndim == 1 else 0.06)
    model.to(torch.bfloat16).save_pretrained(folder)
    saved = folder / "config.json"
    # The converter asks GPT-2 for what newer configurations leave out.
    config = json.loads(saved.read_text())
    if "n_positions" in config:
        saved.write_text(json.dumps({**config, "n_ctx": config["n_positions"]}))
    return vocabulary


def family_adds_one(model):
    """Whether the weights of norms lie around zero, because one is added to them."""
    return type(model).__name__.startswith("Gemma")


# Several runs of the converter in one process: importing torch takes longer than converting.
CONVERTER = """
import os, runpy, sys
converter, folder = sys.argv[1:3]
sys.path.insert(0, os.path.dirname(converter))
for kind, file in zip(sys.argv[3::2], sys.argv[4::2]):
    sys.argv = [converter, folder, "--outtype", kind, "--outfile", file]
    try:
        runpy.run_path(converter, run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
"""


def same_bytes(options, folder, ours, convert):
    """Tensors and keys of all types."""
    exact = {kind: options.work / f"{kind}.gguf" for kind in ("F32", "F16", "BF16")}
    converter = options.llama_cpp / "convert_hf_to_gguf.py"
    wanted = [part for kind, file in exact.items() for part in (kind.lower(), file)]
    run(sys.executable, "-c", CONVERTER, converter, folder, *wanted)
    problems, count = [], 0
    for kind, number in TYPES.items():
        convert(kind)
        theirs = exact.get(kind, options.work / "theirs.gguf")
        if kind not in exact:
            run(options.quantize, exact["BF16"], theirs, number)
        count, found = differences(ours, theirs, kind == "F32")
        problems += [f"{kind} {problem}" for problem in found]
    return not problems, f"{count} tensors × {len(TYPES)} types" if not problems else "; ".join(problems[:4])


def differences(ours, theirs, with_keys):
    """The number of tensors, and what differs."""
    our_tensors, their_tensors = tensors(ours), tensors(theirs)
    found = [f"{name} {our_tensors.get(name, '-')[:2]} {their_tensors.get(name, '-')[:2]}"
             for name in sorted(our_tensors.keys() | their_tensors.keys()) if our_tensors.get(name) != their_tensors.get(name)]
    if with_keys:
        found += [f"key {key}" for key in different_keys(ours, theirs)]
    return len(their_tensors), found


def tensors(path):
    """Type, shape and digest of every tensor. gguf-py looks at each token of the vocabulary on the way."""
    data = path.read_bytes()
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    number = lambda at, form="<Q": struct.unpack_from(form, data, at)[0]

    def after(kind, at):
        """Where a value ends."""
        if kind == 8:
            return at + 8 + number(at)
        if kind != 9:
            return at + sizes[kind]
        inner, count, at = number(at, "<I"), number(at + 4), at + 12
        if inner in sizes:
            return at + count * sizes[inner]
        for _ in range(count):
            at = after(inner, at)
        return at

    count, keys, at = number(8), number(16), 24
    for _ in range(keys):
        at += 8 + number(at)
        at = after(number(at, "<I"), at + 4)
    listed = []
    for _ in range(count):
        length = number(at)
        name = data[at + 8:at + 8 + length].decode()
        at += 8 + length
        dimensions = number(at, "<I")
        shape = struct.unpack_from(f"<{dimensions}Q", data, at + 4)
        kind, offset = struct.unpack_from("<IQ", data, at + 4 + 8 * dimensions)
        at += 16 + 8 * dimensions
        listed.append((offset, name, kind, shape))
    start = (at + 31) // 32 * 32
    ends = sorted(offset for offset, *_ in listed)[1:] + [len(data) - start]
    return {name: (kind, shape, hashlib.sha256(data[start + offset:start + end].rstrip(b"\0")).digest())
            for (offset, name, kind, shape), end in zip(sorted(listed), ends)}


def different_keys(ours, theirs):
    """Keys of theirs that ours lacks or has otherwise."""
    import gguf

    ours, theirs = gguf.GGUFReader(ours).fields, gguf.GGUFReader(theirs).fields
    for key, field in theirs.items():
        if key.startswith("GGUF.") or key in NOT_COMPARED:
            continue
        value = field.contents()
        # Its scores of a tokenizer.json without tokenizer.model are all the same; see docs/converting.md.
        if key == "tokenizer.ggml.scores" and set(value) == {-1000.0}:
            continue
        if key not in ours or ours[key].contents() != value:
            yield key


def strings():
    """200 strings: words, digits, code, white space and scripts, each in five forms."""
    lines = [
        "Hello, world!", "The quick brown fox", "I've been told he's there", "WE'RE 'sure' it'll do", "1234567890", "3.14159",
        "12 345 6", "a_b-c.d/e", "def f(x):\n    return x + 1", "if (a && !b) { c++; }", "https://example.org/?q=1&r=%20",
        "name@example.com", "   three spaces", "tab\tand\ttabs", "line\nline\n\nline", "\r\n windows \r\n", "x = [1, 2, 3]",
        "Größe und Füße", "naïve café déjà vu", "Ça va? Où ça?", "¿Qué tal, señor?", "нещо на Български", "Быстрая лиса",
        "我想在apple工作", "東京都に住んでいます", "ひらがなとカタカナ", "안녕하세요 세계", "مرحبا بالعالم", "שלום עולם", "नमस्ते दुनिया",
        "កាន់តែពិសេស", "สวัสดีชาวโลก", "🚀 (normal) 😶‍🌫️", "✅ 🦙🦙", "∑ᵢ xᵢ² ≤ ∞", "\u00a0\u2003wide", "``````\"\"\"\"......!!!!!!??????",
        "------======", "camelCaseAndPascalCase", "e\u0300 is not è"]
    forms = [lambda s: s, lambda s: " " + s, lambda s: s + " \n", str.upper, lambda s: f"{s}  {s}"]
    return [form(line) for line in lines for form in forms]


def same_ids(options, folder, file, vocabulary):
    """The ids of the strings, as the server's tokenizer and the library cut them."""
    texts = strings()
    if (folder / "tokenizer.model").is_file():
        import sentencepiece
        library = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        expected = [library.encode(text) for text in texts]
        if "Gemma" in json.loads((folder / "config.json").read_text())["architectures"][0] and vocabulary == PHI3:
            # A stand-in: it puts a space before a text, as the family does not.
            return True, ""
    else:
        import tokenizers
        library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        expected = [library.encode(text, add_special_tokens=False).ids for text in texts]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([str(options.modelve), "serve", "-m", str(file), "--port", str(port)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        found = [tokenize(port, text) for text in texts]
    finally:
        server.terminate()
        server.wait()
    wrong = [text for text, a, b in zip(texts, found, expected) if a != b]
    said = f"{len(texts) - len(wrong)} of {len(texts)} strings by {vocabulary}"
    return not wrong, said if not wrong else f"{said}: not {wrong[0]!r}"


def tokenize(port, text):
    body = json.dumps({"content": text, "add_special": False, "parse_special": False}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/tokenize", body, {"Content-Type": "application/json"})
    for _ in range(120):
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return json.load(reply)["tokens"]
        except OSError:
            time.sleep(0.5)
    sys.exit("error: the server does not answer")


def same_numbers(options, folder, file):
    """Log-probabilities, and what the probes tell, next to transformers in 64 bits."""
    import torch

    torch.set_grad_enabled(False)
    exact = ["--kv-type", "f32", "--flash-attn", "off", "--json"]
    told = {name: json.loads(run(options.modelve, name, "-m", file, PROMPT, *exact, *flags))
            for name, flags in {"next": ["-n", "50"], "score": [], "lens": [], "attention": ["--layer", "0"]}.items()}
    model = reference(folder)
    if getattr(model.config, "rope_parameters", None) and model.config.rope_parameters.get("truncate") is False:
        published = differences_of_numbers(told, model)
        rounded = differences_of_numbers(told, reference(folder, rope_parameters={**model.config.rope_parameters, "truncate": True}))
        return {column: (at < most, f"{at:.0e}; {far:.0e} from the published ramp")
                for column, at, far, most in zip(["logits", "probes"], rounded, published, [1e-4, 1e-3])}
    found = dict(zip(["logits", "probes"], differences_of_numbers(told, model)))
    if not use_table(model):
        return {"logits": (found["logits"] < 1e-4, f"{found['logits']:.0e}"),
                "probes": (found["probes"] < 1e-3, f"{found['probes']:.0e}")}
    sums = options.work / "sums.safetensors"
    run(options.modelve, "dump", "-m", file, PROMPT, "--role", "mlp", "-o", sums, "--force", *exact)
    apart = give_sums(model, sums)
    given = dict(zip(["logits", "probes"], differences_of_numbers(told, model)))
    return {"logits": (given["logits"] < 1e-4 and max(apart) < 1e-4,
                       f"{found['logits']:.0e}; given ggml's sums {given['logits']:.0e}, they {max(apart):.0e}"),
            "probes": (given["probes"] < 1e-3, f"{found['probes']:.0e}; given ggml's sums {given['probes']:.0e}")}


def reference(folder, **changes):
    """transformers in 64 bits, with changes to the configuration."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, **changes)
    # Experts in one product are for 32 bits and less.
    plain = {"experts_implementation": "eager"} if hasattr(config, "num_local_experts") else {}
    return AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float64, attn_implementation="eager",
                                                **plain).eval()


def use_table(model):
    """Has a model take GELU from ggml's table: of a 16-bit number a 16-bit number. Whether it has any."""
    import torch

    class Table(torch.nn.Module):
        def forward(self, values):
            argument = values.float().half().float()
            found = torch.nn.functional.gelu(argument, approximate="tanh").half().to(values.dtype)
            return torch.where(values <= -10, 0.0, torch.where(values >= 10, values, found))

    places = [(module, name) for module in model.modules() for name, child in module.named_children()
              if "gelu" in type(child).__name__.lower()]
    for module, name in places:
        setattr(module, name, Table())
    return bool(places)


def give_sums(model, file):
    """Has a model go on with what the file says that its feed-forward networks add to the state. The list that
    is returned gets how far each is from what the model would add, as a share of the largest sum."""
    import safetensors.torch

    inner, apart = model.transformer if hasattr(model, "transformer") else model.model, []
    sums = safetensors.torch.load_file(file)

    def instead(layer):
        given = sums[f"mlp.{layer}"].double()[None]

        def hook(_module, _arguments, own):
            apart.append(float((own - given).abs().max() / own.abs().max()))
            return given
        return hook

    for number, layer in enumerate(inner.h if hasattr(inner, "h") else inner.layers):
        getattr(layer, "post_feedforward_layernorm", layer.mlp).register_forward_hook(instead(number))
    return apart


def differences_of_numbers(told, model):
    """The largest differences: of the next token's log-probabilities, and of all that the probes tell."""
    import torch

    seen = model(torch.tensor([told["next"]["ids"]]), output_attentions=True, output_hidden_states=True)
    logprobs = torch.log_softmax(seen.logits[0], -1)
    logits = max(abs(top["logprob"] - float(logprobs[-1, top["id"]])) for top in told["next"]["top"])
    probes = [abs(token["logprob"] - float(logprobs[at - 1, token["id"]]))
              for at, token in enumerate(told["score"]["tokens"]) if token["logprob"] is not None]
    for head in told["attention"]["heads"]:
        for row, weights in enumerate(head["weights"]):
            there = seen.attentions[0][0, head["head"], row]
            probes += [abs(weight - float(there[at])) for at, weight in enumerate(weights)]
    probes.append(lens_difference(told["lens"], model, seen, len(seen.attentions) - 2))
    return logits, max(probes)


def lens_difference(told, model, seen, layer):
    """The likeliest tokens of the state after a layer, as the output matrix reads it."""
    import torch

    inner = model.transformer if hasattr(model, "transformer") else model.model
    norm = next(getattr(inner, name) for name in ["norm", "ln_f", "final_layernorm"] if hasattr(inner, name))
    logits = model.lm_head(norm(seen.hidden_states[layer + 1]))[0]
    cap = getattr(model.config, "final_logit_softcapping", None)
    if cap:
        logits = torch.tanh(logits / cap) * cap
    logprobs = torch.log_softmax(logits, -1)
    cells = [cell for cell in told["cells"] if cell["layer"] == layer]
    return max(abs(top["logprob"] - float(logprobs[cell["position"], top["id"]])) for cell in cells for top in cell["top"])


def completes(options, source):
    """A trained model on its way through transformers, and the sentence it then completes."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, file = options.work / "real", options.work / "real.gguf"
    shutil.rmtree(folder, ignore_errors=True)
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = type(model)(config)
    plain.load_state_dict(model.state_dict())
    plain.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(folder)
    run(options.modelve, "convert", folder, "-q", "Q8_0", "-o", file, "--force", "--offline")
    said = run(options.modelve, "complete", "-m", file, "The capital of France is", "-n", "8", "--temp", "0")
    return "Paris" in said, "“The capital of France is” → " + " ".join(said.split()[:4])


def write_table(table):
    """Writes the rows of the families that were compared between the marks in the docs; other rows stay."""
    head, rest = DOCS.read_text().split("<!-- families -->\n", 1)
    old, tail = rest.split("<!-- end -->", 1)
    rows = {line.split(" | ")[0].lstrip("| "): line for line in old.splitlines()[2:]}
    rows |= {family: f"| {family} | " + " | ".join(row.get(column) or "not compared" for column in COLUMNS) + " |"
             for family, row in table.items()}
    lines = ["| family | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [rows[family] for family in FORMS if family in rows]
    DOCS.write_text(head + "<!-- families -->\n" + "\n".join(lines) + "\n<!-- end -->" + tail)


if __name__ == "__main__":
    main()
