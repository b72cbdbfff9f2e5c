"""modelve: load a language model once, and ask it many times.

Results are the JSON that the commands print (docs/json.md) as objects: what is a key there is an
attribute here. Pieces of text are `str`, or `bytes` where they are no whole characters.
"""

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from types import EllipsisType, TracebackType
from typing import Any, Literal, Self, TypeAlias, final, overload, type_check_only

__version__: str

Prompt: TypeAlias = str | Sequence[int]
Token: TypeAlias = int | str
Piece: TypeAlias = str | bytes

class Error(Exception):
    """What could not be done, and why. `hint` says what would help, or is None."""

    hint: str | None

@final
class Array:
    """Numbers of 32 bits that are written to in place. `numpy.asarray` and `memoryview` share them."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def tolist(self) -> list[Any]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, key: Any, /) -> Any: ...
    def __setitem__(self, key: EllipsisType | int | slice | tuple[Any, ...], value: Any, /) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Record:
    """An object of a result: its keys are attributes."""

    def to_dict(self) -> dict[str, Any]: ...
    def __getattr__(self, name: str, /) -> Any: ...

@type_check_only
class Choice:
    """A token with its probability."""

    id: int
    piece: Piece
    prob: float
    logprob: float

@type_check_only
class Named:
    id: int
    piece: Piece

@type_check_only
class Candidate:
    text: str
    ids: list[int]
    pieces: list[Piece]
    prob: float
    logprob: float
    rank: int

@type_check_only
class Scored:
    id: int
    piece: Piece
    logprob: float | None
    rank: int | None

@type_check_only
class Answer(Choice):
    position: int
    first_layer: int | None
    settled_layer: int | None

@type_check_only
class Cell:
    layer: int
    position: int
    entropy_bits: float
    kl_to_final: float
    answer_logprob: float
    top: list[Choice]

@type_check_only
class Head:
    head: int
    entropy_bits: float
    to_first: float
    to_previous: float

@type_check_only
class Word:
    text: Piece
    to: int
    without: float
    change: float
    says: Choice

@type_check_only
class Part:
    part: str
    layer: int | None
    head: int | None
    value: float

@type_check_only
class Proof:
    part: str
    contribution: float
    without: float
    change: float
    without_last: float
    change_last: float
    says: Choice

@type_check_only
class Written:
    id: int
    piece: Piece
    logprob: float

@type_check_only
class _Result:
    def to_dict(self) -> dict[str, Any]: ...
    def to_pandas(self) -> Any: ...
    def _repr_html_(self) -> str | None: ...
    def __getattr__(self, name: str, /) -> Any: ...

@final
class Next(_Result):
    """What a model expects after a prompt."""

    prompt: str
    ids: list[int]
    entropy_bits: float
    top: list[Choice]
    candidates: list[Candidate]

@final
class Score(_Result):
    """How likely a model finds a text, token by token."""

    text: str
    tokens: list[Scored]
    total_logprob: float
    bits_per_token: float
    bits_per_byte: float
    perplexity: float
    n_scored: int

@final
class Lens(_Result):
    """What a model would say if it stopped after a layer. The arrays are `[layers, positions]`."""

    prompt: str
    ids: list[int]
    pieces: list[Piece]
    n_layers: int
    answers: list[Answer]
    cells: list[Cell]
    entropy_bits: Array
    kl_to_final: Array
    answer_logprob: Array

@final
class Attention(_Result):
    """Where the heads of a model look. `weights` is `[heads, queries, keys]`."""

    prompt: str
    ids: list[int]
    pieces: list[Piece]
    n_layers: int
    layer: int
    heads: list[Head]
    weights: Array

@final
class Why(_Result):
    """The words an answer hangs on, and the parts of the model it is the sum of."""

    prompt: str
    ids: list[int]
    pieces: list[Piece]
    token: Named
    against: Named | None
    value: float
    logprob: float
    top: list[Choice]
    words: list[Word]
    parts: list[Part]
    sum: float
    error: float
    notes: list[str]
    proof: list[Proof]

@final
class Patch(_Result):
    """Where what tells two prompts apart lies in the model. The arrays are `[layers, positions]`."""

    clean: str
    corrupt: str
    token: Named
    against: Named | None
    clean_value: float
    corrupt_value: float
    clean_top: list[Choice]
    corrupt_top: list[Choice]
    what: str
    layers: list[int]
    positions: list[int]
    recovered: Array
    values: Array

@final
class Comparison(_Result):
    """What differs between two files of one model."""

    a: str
    b: str
    bytes_a: int
    bytes_b: int
    n_tokens: int
    kl_mean: float
    kl_error: float
    kl_max: float
    perplexity_a: float
    perplexity_b: float
    same_top: float

@final
class Completion(_Result):
    """What follows a prompt, token by token."""

    index: int
    prompt: str
    text: str
    finish_reason: Literal["stop", "length"]
    tokens: list[Written]

@final
class Stream(Iterator[str]):
    """The text of a completion as it comes."""

    def __iter__(self) -> Self: ...
    def __next__(self) -> str: ...
    def close(self) -> None: ...

@final
class Trace:
    """A pass over a prompt that stops at the activations that are asked for; used in a `with` block.

    Arrays may be written to: when the next one is asked for, or the block is left, the pass goes on
    with what is in them. Layers count from 0, -1 is the last.
    """

    @property
    def ids(self) -> list[int]: ...
    @property
    def pieces(self) -> list[Piece]: ...
    @property
    def logits(self) -> Array:
        """After the block: the logits of every token, `[tokens, vocabulary]`."""
    def embedding(self) -> Array:
        """The input of the first block, `[tokens, width]`."""
    def residual(self, layer: int) -> Array:
        """The residual stream after a layer, `[tokens, width]`."""
    def attention(self, layer: int) -> Array:
        """What a layer's attention adds to the residual stream, `[tokens, width]`."""
    def mlp(self, layer: int) -> Array:
        """What a layer's MLP adds to the residual stream, `[tokens, width]`."""
    def heads(self, layer: int) -> Array:
        """The outputs of a layer's heads side by side, `[tokens, heads · values]`."""
    def pattern(self, layer: int) -> Array:
        """A layer's attention weights, `[heads, tokens, tokens]`."""
    def final_norm(self) -> Array:
        """The normalized last state, `[tokens, width]`."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool: ...

@final
class Model:
    """A loaded model. It computes one question after the other; any thread may ask."""

    @overload
    def complete(
        self,
        prompt: Prompt | None = None,
        *,
        stream: Literal[True],
        max_tokens: int = 128,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        chat: bool | Sequence[Mapping[str, str]] | None = None,
        system: str | None = None,
        special: bool = True,
        ignore_eos: bool = False,
        json_schema: str | Mapping[str, Any] | None = None,
        grammar: str | None = None,
    ) -> Stream: ...
    @overload
    def complete(
        self,
        prompt: Prompt | None = None,
        *,
        details: Literal[True],
        top: int = 0,
        max_tokens: int = 128,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        chat: bool | Sequence[Mapping[str, str]] | None = None,
        system: str | None = None,
        special: bool = True,
        ignore_eos: bool = False,
        json_schema: str | Mapping[str, Any] | None = None,
        grammar: str | None = None,
    ) -> Completion: ...
    @overload
    def complete(
        self,
        prompt: list[str],
        *,
        details: Literal[True],
        top: int = 0,
        max_tokens: int = 128,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        chat: bool | None = None,
        system: str | None = None,
        special: bool = True,
        ignore_eos: bool = False,
        json_schema: str | Mapping[str, Any] | None = None,
        grammar: str | None = None,
    ) -> list[Completion]: ...
    @overload
    def complete(
        self,
        prompt: Prompt | None = None,
        *,
        max_tokens: int = 128,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        chat: bool | Sequence[Mapping[str, str]] | None = None,
        system: str | None = None,
        special: bool = True,
        ignore_eos: bool = False,
        json_schema: str | Mapping[str, Any] | None = None,
        grammar: str | None = None,
    ) -> str: ...
    @overload
    def complete(
        self,
        prompt: list[str],
        *,
        max_tokens: int = 128,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        chat: bool | None = None,
        system: str | None = None,
        special: bool = True,
        ignore_eos: bool = False,
        json_schema: str | Mapping[str, Any] | None = None,
        grammar: str | None = None,
    ) -> list[str]: ...
    @overload
    def next(
        self,
        prompt: Prompt,
        *,
        top: int = 10,
        candidates: Sequence[str] = ...,
        then: Sequence[Token] = ...,
        tree: tuple[int, int] | None = None,
        chat: bool = False,
        system: str | None = None,
        special: bool = True,
    ) -> Next: ...
    @overload
    def next(
        self,
        prompt: list[str],
        *,
        top: int = 10,
        candidates: Sequence[str] = ...,
        then: Sequence[Token] = ...,
        tree: tuple[int, int] | None = None,
        chat: bool = False,
        system: str | None = None,
        special: bool = True,
    ) -> list[Next]: ...
    @overload
    def score(
        self,
        text: Prompt,
        *,
        window: int | None = None,
        stride: int | None = None,
        special: bool = False,
    ) -> Score: ...
    @overload
    def score(
        self,
        text: list[str],
        *,
        window: int | None = None,
        stride: int | None = None,
        special: bool = False,
    ) -> list[Score]: ...
    def lens(
        self,
        prompt: Prompt,
        *,
        top: int = 5,
        layers: Sequence[int] | None = None,
        positions: Sequence[int] | None = None,
        token: Token | None = None,
        chat: bool = False,
        system: str | None = None,
        special: bool = True,
    ) -> Lens: ...
    def attention(
        self,
        prompt: Prompt,
        *,
        layer: int | None = None,
        head: int | None = None,
        chat: bool = False,
        system: str | None = None,
        special: bool = True,
    ) -> Attention: ...
    def why(
        self,
        prompt: Prompt,
        *,
        token: Token | None = None,
        against: Token | None = None,
        tokens: bool = False,
        chat: bool = False,
        system: str | None = None,
        special: bool = True,
    ) -> Why: ...
    def patch(
        self,
        clean: Prompt,
        corrupt: Prompt,
        *,
        token: Token | None = None,
        against: Token | None = None,
        what: Literal["residual", "attention", "mlp", "head"] = "residual",
        layers: Sequence[int] | None = None,
        positions: Sequence[int] | None = None,
        top: int = 5,
        together: bool = False,
        chat: bool = False,
        system: str | None = None,
        special: bool = True,
    ) -> Patch: ...
    def trace(
        self,
        prompt: Prompt,
        *,
        chat: bool = False,
        system: str | None = None,
        special: bool = True,
    ) -> Trace: ...
    def tokenize(self, text: str, *, special: bool = True, bos: bool = True) -> list[int]: ...
    @overload
    def detokenize(self, ids: Sequence[int], *, special: bool = True) -> str: ...
    @overload
    def detokenize(
        self, ids: Sequence[int], *, special: bool = True, as_bytes: Literal[True]
    ) -> bytes: ...

def load(
    model: str | PathLike[str] | None = None,
    *,
    threads: int | None = None,
    ctx_size: int | None = None,
    kv_type: Literal["f32", "f16", "q8_0", "q4_0"] | None = None,
    flash_attn: Literal["on", "off", "auto"] | None = None,
    weights: Literal["mapped", "repacked", "auto"] | None = None,
    gpu_layers: int | Literal["all", "auto"] | None = None,
    device: str | None = None,
    trust: bool = False,
) -> Model:
    """Loads a model: a .gguf file, a Hub id such as `org/name:Q4_K_M`, or `tiny`.

    By default `$MODELVE_MODEL`, else Phi-3-mini-128k-instruct.
    """
