"""Adapters: LoRA (arXiv:2106.09685), (IA)^3 (arXiv:2205.05638), prompts (arXiv:2104.08691), and chosen parameters.

Their parameters are stored under `adapter` beside the weight of the projection, with axes as in
research/model/parameters.py; r is the rank:

    LoRA   a  the axes that the weight reads, and r      b  r, and the axes that it writes
    IA3    input_scale or output_scale                   the axes that it reads, or writes

The parameter of a prompt is `adapter/prompt_embedding`, one row for each of its tokens.

With a weight W the projection computes W x + scale * b (a dropout(x)), W x * output_scale, or W (x * input_scale).
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

from research.config.base import require, require_positive
from research.config.parts import Part

NAME = "adapter"  # of the modules that adapters add, in the paths of their parameters
WEIGHT, ADDED = "/weight", f"/{NAME}/"
PROMPT = f"{NAME}/prompt_embedding"  # the path of a prompt

TableRow = tuple[str, str, str]  # of the table in research/model/parameters.py


@dataclass(frozen=True)
class Adapter(Part):
    """The base of adapters: which parameters are trained, and which are added to the network.

    A subclass may override any of the methods. For example, a learned scale of what every feed-forward writes:

        class Scaled(nnx.Module):
            def __init__(self, weight):
                self.scale = nnx.Param(jnp.ones((*weight.shape[:-2], weight.shape[-1])))  # [l d]

            def __call__(self, dense, x):
                return dense(x) * self.scale[...].astype(x.dtype)

        @dataclass(frozen=True)
        class ScaledOutput(Adapter):
            def add(self, network, key):
                for path, module in nnx.iter_modules(network):
                    if path[-1:] == ("down",):
                        module.adapter = Scaled(module.weight[...])

            def rows(self, table):
                return [(r".*/down/adapter/scale", "ld", "")]

    The optimizer has a state only for parameters that are trained. A checkpoint holds only these, and the hash of the
    weights that the run started from, `init`.
    """

    frozen: Literal["float32", "bfloat16", "int8"] = field(default="float32", kw_only=True)
    # dtype of what is not trained; "int8" is for the weights of projections, the rest is then in bfloat16

    def add(self, network: Any, key: Any) -> None:
        """Add modules to a network, each as the attribute `adapter` of a module that is there.

        The layers of a stack are one module with parameters stacked along the first axis. The adapter of a Dense is
        called with the function of the Dense and its input, in its place. `key` is a JAX key for initial values.
        """

    def rows(self, table: Iterable[TableRow]) -> Iterable[TableRow]:
        """Return the rows of the added parameters, given those of the others: see research/model/parameters.py."""
        return ()

    def trains(self, path: str) -> bool:
        """Tell whether the parameter at a path is trained: by default those that were added."""
        return NAME in path.split("/")

    def merged(self, params: Any) -> Any | None:
        """Return parameters of the model without the adapter that compute the same; None if there are none."""
        return None

    def first_values(self, model: Any, params: Any, tokenizer: Any, seed: int) -> Any:
        """Return those of the added parameters, as a tree, whose first values depend on the base or its tokenizer.

        `params` are the base's parameters as the mesh keeps them.
        """
        return {}

    @property
    def prepended(self) -> int:
        """The number of ids that precede each source, from `model.prompt`. They count in every length of a source."""
        return 0

    @property
    def dropped(self) -> bool:
        """True if the adapter draws random numbers in training."""
        return False


@dataclass(frozen=True)
class LoRA(Adapter):
    """Products of two small matrices, added to projections: alpha / rank times b (a x)."""

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = (r"attention/(query|value)/weight",)  # patterns of the paths of weights
    dropout: float = 0.05  # of the input of a
    rslora: bool = False  # alpha / rank ** 0.5 instead of alpha / rank (arXiv:2312.03732)

    def __post_init__(self) -> None:
        require_positive("model.adapter.", self, "rank", "alpha")
        require(0 <= self.dropout < 1, f"model.adapter.dropout is {self.dropout}: it must lie in [0, 1).")

    @property
    def scale(self) -> float:
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)

    @property
    def dropped(self) -> bool:
        return self.dropout > 0

    def add(self, network: Any, key: Any) -> None:
        _modules().add_low_rank(network, self, key)

    def rows(self, table: Iterable[TableRow]) -> Iterator[TableRow]:
        for stem, layer, reads, writes in _matrices(table):
            yield stem + "a", f"{layer}{reads}r", reads
            yield stem + "b", f"{layer}r{writes}", "r"

    def merged(self, params: Any) -> Any:
        return _modules().merge_low_rank(params, self.scale)


@dataclass(frozen=True)
class IA3(Adapter):
    """Learned scales of what projections write, and of what those of `feed_forward` read."""

    targets: tuple[str, ...] = (r"attention/(key|value)/weight", r"feed_forward/down/weight")
    feed_forward: tuple[str, ...] = (r"feed_forward/down/weight",)  # the ones of `targets` that scale what is read

    def add(self, network: Any, key: Any) -> None:
        _modules().add_scales(network, self)

    def rows(self, table: Iterable[TableRow]) -> Iterator[TableRow]:
        for stem, layer, reads, writes in _matrices(table):
            yield stem + "input_scale", layer + reads, ""
            yield stem + "output_scale", layer + writes, ""

    def merged(self, params: Any) -> Any:
        return _modules().merge_scales(params)


@dataclass(frozen=True)
class PromptTuning(Adapter):
    """Learned embeddings of a prompt before each source.

    Their first values are embeddings of the pieces of `init_text`, then of others that are drawn from the 5,000 most
    frequent pieces, which have the lowest ids; or numbers between -0.5 and 0.5.
    """

    tokens: int = 100
    initial: Literal["vocabulary", "uniform"] = "vocabulary"
    init_text: str = ""

    def __post_init__(self) -> None:
        require_positive("model.adapter.", self, "tokens")

    @property
    def prepended(self) -> int:
        return self.tokens

    def add(self, network: Any, key: Any) -> None:
        _modules().add_prompt(network, self, key)

    def rows(self, table: Iterable[TableRow]) -> Iterator[TableRow]:
        yield PROMPT, "nd", "d"

    def first_values(self, model: Any, params: Any, tokenizer: Any, seed: int) -> Any:
        return _modules().first_prompt(self, model, params, tokenizer, seed)


@dataclass(frozen=True)
class Only(Adapter):
    """Training of the parameters whose paths one of the patterns matches; nothing is added."""

    targets: tuple[str, ...]

    def add(self, network: Any, key: Any) -> None:
        _modules().check_targets(network, self.targets)

    def trains(self, path: str) -> bool:
        return any(re.search(pattern, path) for pattern in self.targets)

    def merged(self, params: Any) -> Any:
        return params


def source_room(prompt: range, length: int, name: str) -> int:
    """Return how many tokens of a source follow the prompt in a row of `length` tokens, which `name` names.

    Raises:
        ConfigError: there is no room.
    """
    tokens = len(prompt)
    message = f"{name} is {length}, but the prompt of model.adapter has {tokens} tokens: no room is left for a source."
    require(length > tokens or not tokens, message)
    return length - tokens


def _matrices(table: Iterable[TableRow]) -> Iterator[tuple[str, str, str, str]]:
    """Yield, for each row of weights, the start of the pattern of what is added; and the axes l, read, and written."""
    for pattern, axes, reads in table:
        if pattern.endswith(WEIGHT) and reads:
            layer = "l" if axes.startswith("l") else ""
            writes = "".join(axis for axis in axes if axis not in reads + layer)
            yield pattern.removesuffix(WEIGHT) + ADDED, layer, reads, writes


def _modules() -> Any:
    return import_module("research.model.adapter_modules")
