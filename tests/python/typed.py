"""Uses of the module that `mypy --strict` checks against its types."""

import modelve


def ask(model: modelve.Model) -> list[str]:
    text: str = model.complete("Today is", max_tokens=16, temperature=0.5, seed=1, stop="\n")
    texts: list[str] = model.complete(["Today is", "India is a"])
    for piece in model.complete("Today is", stream=True):
        text += piece
    text += model.complete(chat=[{"role": "user", "content": "Hello"}])
    detailed: modelve.Completion = model.complete("Today is", details=True, top=3)
    first: float = detailed.tokens[0].logprob
    next = model.next("The ball hit the bat, and", top=10, candidates=["it flew"], tree=(2, 2))
    sure: float = next.top[0].prob + next.entropy_bits + next.candidates[0].rank + first
    bits: float = sum(score.bits_per_byte for score in model.score(["a bat", "a ball"])) + sure
    lens = model.lens("The ball", layers=[0, -1], token=" the")
    grid: memoryview = memoryview(lens.kl_to_final)
    weights: modelve.Array = model.attention([1, 2, 3], layer=-1).weights
    shape: tuple[int, ...] = weights.shape + grid.shape  # type: ignore[operator]
    why = model.why("The ball", token="it")
    parts: list[str] = [part.part for part in why.parts if part.value > bits]
    patch = model.patch("a", "b", what="mlp")
    with model.trace("The ball") as trace:
        residual: modelve.Array = trace.residual(0)
        residual[...] = patch.recovered
    logits: modelve.Array = trace.logits
    ids: list[int] = model.tokenize("The ball", bos=False)
    raw: bytes = model.detokenize(ids, as_bytes=True)
    known: str = model.vocab[ids[0]].kind + str(len(model.vocab)) + str(model.meta["n_params"])
    seen: list[modelve.Next] = model.next(["a", "b"], chat=True, system=known)
    kept: dict[str, object] = seen[0].to_dict() | model.why("a").to_dict()
    page: str | None = lens._repr_html_()
    cells: list[int] = [choice.id for cell in lens.cells for choice in cell.top]
    raw += repr((kept, page, cells)).encode()
    return [text, *texts, model.detokenize(ids), *parts, repr((raw, logits, shape))]


def load() -> modelve.Model | str | None:
    try:
        return modelve.load("tiny", threads=2, gpu_layers="all", kv_type="f32")
    except modelve.Error as error:
        return error.hint


def files() -> str:
    made = modelve.convert("./checkpoint", quant="Q4_K_M", output="out.gguf", dry_run=True)
    modelve.compare(["a.gguf", "b.gguf"], text="The ball hit the bat.", tokens=64)
    return str(made["output"])
