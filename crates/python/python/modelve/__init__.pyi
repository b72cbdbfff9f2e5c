"""modelve: load a language model once, and ask it many times.

Results are the JSON that the commands print (docs/json.md) as objects: what is a key there is an
attribute here. Pieces of text are `str`, or `bytes` where they are no whole characters.
"""

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from types import EllipsisType, TracebackType
from typing import Any, Literal, Self, TypeAlias, final, overload, type_check_only

__version__: str

_Prompt: TypeAlias = str | Sequence[int]
_Token: TypeAlias = int | str
_Piece: TypeAlias = str | bytes

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
    piece: _Piece
    prob: float
    logprob: float

@type_check_only
class Named:
    id: int
    piece: _Piece

@type_check_only
class Candidate:
    text: str
    ids: list[int]
    pieces: list[_Piece]
    prob: float
    logprob: float
    rank: int

@type_check_only
class Scored:
    id: int
    piece: _Piece
    logprob: float | None
    rank: int | None
    instead: Choice  # where another token is the likeliest

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
    token_rank: int  # with `token`
    token_logprob: float  # with `token`

@type_check_only
class Head:
    head: int
    entropy_bits: float
    to_first: float
    to_previous: float

@type_check_only
class Word:
    text: _Piece
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
    piece: _Piece
    logprob: float
    top: list[Choice]  # with `top`

@type_check_only
class Usage:
    prompt_tokens: int
    completion_tokens: int

@type_check_only
class Timing:
    prefill_s: float
    generate_s: float
    tokens_per_s: float | None

@type_check_only
class Moved:
    id: int
    piece: _Piece
    prob_first: float
    prob: float

@type_check_only
class Branch(Choice):
    joint_logprob: float
    branches: list[Branch]  # leaves have none

@type_check_only
class Windows:
    size: int
    stride: int

@type_check_only
class LayerHabits:
    layer: int
    heads: list[Habits]

@type_check_only
class Habits:
    entropy_bits: float
    to_first: float
    to_previous: float

@type_check_only
class LayerSum:
    layer: int
    attention: float
    mlp: float
    after: float

@type_check_only
class Subject:
    name: str
    quantization: str

@type_check_only
class Longer:
    named: str
    tokens: int
    measured: Named

@type_check_only
class Seen:
    id: int
    piece: _Piece
    clean_prob: float
    corrupt_prob: float

@type_check_only
class Worst:
    position: int
    context: str
    id: int
    piece: _Piece
    kl: float
    top_a: Choice
    top_b: Choice

@type_check_only
class Parting:
    prompt: str
    same: str
    n_same: int
    a: Choice | None
    b: Choice | None

@type_check_only
class TensorError:
    name: str
    type_a: str
    type_b: str
    error: float

@type_check_only
class _Result:
    def to_dict(self) -> dict[str, Any]: ...
    def to_pandas(self) -> Any: ...
    def _repr_html_(self) -> str | None: ...

@final
class Next(_Result):
    """What a model expects after a prompt."""

    prompt: str
    ids: list[int]
    entropy_bits: float
    top: list[Choice]
    candidates: list[Candidate]
    moved: list[Moved]  # from the second prompt on
    beside: list[Choice]  # with several prompts
    tree: list[Branch]  # with `tree`

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
    windows: Windows
    complete: bool

@final
class Lens(_Result):
    """What a model would say if it stopped after a layer. The arrays are `[layers, positions]`."""

    prompt: str
    ids: list[int]
    pieces: list[_Piece]
    n_layers: int
    answers: list[Answer]
    token: Named  # with `token`
    cells: list[Cell]
    entropy_bits: Array
    kl_to_final: Array
    answer_logprob: Array
    complete: bool

@final
class Attention(_Result):
    """Where the heads of a model look. `weights` is `[heads, queries, keys]`."""

    prompt: str
    ids: list[int]
    pieces: list[_Piece]
    n_layers: int
    layer: int
    heads: list[Head]
    weights: Array
    overview: list[LayerHabits]  # without `layer`
    complete: bool

@final
class Why(_Result):
    """The words an answer hangs on, and the parts of the model it is the sum of."""

    prompt: str
    ids: list[int]
    pieces: list[_Piece]
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
    layers: list[LayerSum]
    model: Subject
    longer: list[Longer]  # where a name is several tokens
    measure: str
    unit: str
    soft_cap: float  # of a model that has one
    complete: bool

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
    model: Subject
    longer: list[Longer]  # where a name is several tokens
    measure: str
    unit: str
    soft_cap: float  # of a model that has one
    clean_ids: list[int]
    clean_pieces: list[_Piece]
    corrupt_ids: list[int]
    corrupt_pieces: list[_Piece]
    clean_positions: list[int]
    heads: list[int]  # with `what="head"`
    top: list[list[list[Choice]]]
    followed: list[int]
    probs: list[list[list[float]]]
    tokens: list[Seen]
    together: list[float | None]  # with `together`
    unaligned: str  # for prompts of different lengths
    complete: bool

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
    log_ratio: float
    log_ratio_error: float
    worst: list[Worst]
    parting: Parting
    tensors: list[TensorError]
    speed_a: float
    speed_b: float
    windows: Windows
    complete: bool

@final
class Completion(_Result):
    """What follows a prompt, token by token."""

    index: int
    prompt: str
    text: str
    finish_reason: Literal["stop", "length"]
    tokens: list[Written]
    usage: Usage
    timing: Timing

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
    def pieces(self) -> list[_Piece]: ...
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

@type_check_only
class VocabToken:
    id: int
    piece: _Piece
    text: _Piece
    bytes: list[int]
    kind: str
    score: float | None

@final
class Vocab:
    """The vocabulary of a model: `vocab[id]` and `vocab["text"]` are tokens."""

    def __len__(self) -> int: ...
    def __getitem__(self, token: _Token, /) -> VocabToken: ...

@final
class Model:
    """A loaded model. It computes one question after the other; any thread may ask."""

    @overload
    def complete(
        self,
        prompt: _Prompt | None = None,
        *,
        stream: Literal[True],
        details: Literal[False] = False,
        top: Literal[0] = 0,
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
        prompt: _Prompt | None = None,
        *,
        details: Literal[True],
        top: int = 0,
        stream: Literal[False] = False,
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
        stream: Literal[False] = False,
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
        prompt: _Prompt | None = None,
        *,
        stream: Literal[False] = False,
        details: Literal[False] = False,
        top: Literal[0] = 0,
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
        stream: Literal[False] = False,
        details: Literal[False] = False,
        top: Literal[0] = 0,
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
        prompt: _Prompt,
        *,
        top: int = 10,
        candidates: Sequence[str] = ...,
        then: Sequence[_Token] = ...,
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
        then: Sequence[_Token] = ...,
        tree: tuple[int, int] | None = None,
        chat: bool = False,
        system: str | None = None,
        special: bool = True,
    ) -> list[Next]: ...
    @overload
    def score(
        self,
        text: _Prompt,
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
        prompt: _Prompt,
        *,
        top: int = 5,
        layers: Sequence[int] | None = None,
        positions: Sequence[int] | None = None,
        token: _Token | None = None,
        chat: bool = False,
        system: str | None = None,
        special: bool = True,
    ) -> Lens: ...
    def attention(
        self,
        prompt: _Prompt,
        *,
        layer: int | None = None,
        head: int | None = None,
        chat: bool = False,
        system: str | None = None,
        special: bool = True,
    ) -> Attention: ...
    def why(
        self,
        prompt: _Prompt,
        *,
        token: _Token | None = None,
        against: _Token | None = None,
        tokens: bool = False,
        chat: bool = False,
        system: str | None = None,
        special: bool = True,
    ) -> Why: ...
    def patch(
        self,
        clean: _Prompt,
        corrupt: _Prompt,
        *,
        token: _Token | None = None,
        against: _Token | None = None,
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
        prompt: _Prompt,
        *,
        chat: bool = False,
        system: str | None = None,
        special: bool = True,
    ) -> Trace: ...
    @property
    def meta(self) -> dict[str, Any]:
        """What `modelve meta --json` tells of its file."""
    @property
    def vocab(self) -> Vocab:
        """Its vocabulary."""
    def tokenize(self, text: str, *, special: bool = True, bos: bool = True) -> list[int]: ...
    @overload
    def detokenize(
        self, ids: Sequence[int], *, special: bool = True, as_bytes: Literal[False] = False
    ) -> str: ...
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

def convert(
    model: str | PathLike[str],
    *,
    quant: str | None = None,
    output: str | PathLike[str] | None = None,
    adapter: str | PathLike[str] | None = None,
    imatrix: str | PathLike[str] | None = None,
    force: bool = False,
    dry_run: bool = False,
    verify: bool = False,
    threads: int | None = None,
    offline: bool = False,
) -> dict[str, Any]:
    """Converts a checkpoint, a folder or `org/name` on the Hub, to a quantized GGUF.

    Returns what `modelve convert --json` tells; `load(result["model"])` loads it.
    """

def compare(
    models: Sequence[str | PathLike[str]],
    *,
    text: str | None = None,
    file: str | PathLike[str] | None = None,
    tokens: int | None = None,
    window: int | None = None,
    stride: int | None = None,
    worst: int = 10,
    greedy: int = 32,
    threads: int | None = None,
) -> Any:
    """Compares files of one model, the best first, over a text.

    A `Comparison`; a list of one for each file after the first, where there are more than two.
    """
