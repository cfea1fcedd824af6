"""The architecture: what tells T5, BART, mBART and Marian from each other, as structural fields."""

from dataclasses import dataclass, fields, replace
from importlib import import_module
from typing import Any, Literal, TypeVar

from research.config.base import require, require_at_most, require_not_negative, require_positive

# What a file may say, so that a few characters of it cannot ask for all memory.
LARGEST, LONGEST = 2**24, 2**17


@dataclass(frozen=True)
class Relative:
    """T5's learned bias by bucketed distance, one a stack or (umT5) one a layer."""

    buckets: int = 32
    max_distance: int = 128
    per_layer: bool = False

    def __post_init__(self) -> None:
        buckets, reach = self.buckets, self.max_distance
        require(buckets >= 4 and buckets % 2 == 0, f"model.positions.buckets is {buckets}: even, and at least 4.")
        require(reach > buckets // 2, f"model.positions.max_distance is {reach}: above buckets / 2, {buckets // 2}.")
        require_at_most("model.positions.", self, LONGEST, "buckets", "max_distance")


@dataclass(frozen=True)
class Learned:
    """A table with a row a position, one a stack; BART's begins `offset` rows down, and its first rows are unused."""

    length: int = 1024
    offset: int = 2

    def __post_init__(self) -> None:
        require_positive("model.positions.", self, "length")
        require_not_negative("model.positions.", self, "offset")
        require_at_most("model.positions.", self, LONGEST, "length", "offset")


@dataclass(frozen=True)
class Sinusoidal:
    """Fixed waves, sines in the first half of the width and cosines in the second.

    Their wavelengths run from 2 pi to 10,000 times that: `last_included` says whether the last frequency reaches it
    (Tensor2Tensor, fairseq, Marian) or stops one step before (the paper, Hugging Face, CTranslate2).
    """

    length: int = 512
    last_included: bool = False

    def __post_init__(self) -> None:
        require_positive("model.positions.", self, "length")
        require_at_most("model.positions.", self, LONGEST, "length")


@dataclass(frozen=True)
class RMSNorm:
    """x / RMS(x) * scale, with neither mean nor bias (arXiv:1910.07467)."""

    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        require_positive("model.norm.", self, "epsilon")


@dataclass(frozen=True)
class LayerNorm:
    """(x - mean) / deviation * scale + bias (arXiv:1607.06450); Hugging Face's epsilon is 1e-5, Marian's own 1e-6."""

    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        require_positive("model.norm.", self, "epsilon")


@dataclass(frozen=True)
class Tied:
    """The head is the embedding transposed; `scaled` multiplies its input by width ** -0.5 (T5 v1.0)."""

    scaled: bool = True


@dataclass(frozen=True)
class UntiedHead:
    """The head has a matrix of its own (T5 v1.1)."""


@dataclass(frozen=True)
class FanIn:
    """Initial values as T5's, each matrix by the width it reads; the query's stands in for a scaling of the scores."""


@dataclass(frozen=True)
class Normal:
    """Initial values of one standard deviation for every matrix and table (BART, Hugging Face's Marian)."""

    deviation: float = 0.02

    def __post_init__(self) -> None:
        require_positive("model.initial.", self, "deviation")


@dataclass(frozen=True)
class Xavier:
    """Initial values as fairseq's: uniform by the widths read and written (Glorot and Bengio, 2010), tables normal."""


@dataclass(frozen=True)
class SeparateStacks:
    """Encoder and decoder have layers of their own."""


@dataclass(frozen=True)
class SharedLayers:
    """The decoder's layers are the encoder's, but for cross-attention, which it alone has (arXiv:1910.10683, 3.2)."""


@dataclass(frozen=True)
class DecoderOnly:
    """One stack reads inputs and targets as one row, the targets causally (arXiv:1910.10683, 3.2: for comparison).

    The inputs are a prefix that sees all of itself (prefix LM) or, `causal`, each only what is before it (LM).
    """

    causal: bool = False


@dataclass(frozen=True)
class Standard:
    """Initial values and learning rates know the width only by `initial` and the optimizer's own rules."""


@dataclass(frozen=True)
class MaximalUpdate:
    """muP (arXiv:2203.03466): one learning rate for all widths, by the rules in research/model/parametrization.py.

    These are the sizes of a base model, at which it is `Standard`. Wider ones should keep their proportions.
    """

    width: int
    heads: int
    head_width: int
    feed_forward: int

    def __post_init__(self) -> None:
        require_positive("model.parametrization.", self, "width", "heads", "head_width", "feed_forward")
        require_at_most("model.parametrization.", self, LARGEST, "width", "heads", "head_width", "feed_forward")


DROPOUTS = ("dropout", "attention_dropout", "activation_dropout", "output_dropout")
# Fields of a model that its weights do not depend on, nor what it computes once trained.
TRAINING_ONLY = ("initial", "compute", "remat", "unroll", "shared_dropout", *DROPOUTS)


Self = TypeVar("Self", bound="Model")


@dataclass(frozen=True)
class Model:
    """The structure of a model. Subclass it for layers or a network of your own, and override `build`:

        class QKNormAttention(SelfAttention):
            def __init__(self, config, keys):
                super().__init__(config, keys)
                self.query_scale = nnx.Param(jnp.ones(config.head_width))

            def queries(self, x):
                return normalised(super().queries(x)) * self.query_scale[...]

        class QKNormEncoderLayer(EncoderLayer):
            self_attention_class = QKNormAttention

        class QKNormNetwork(EncoderDecoder):
            encoder_layer = QKNormEncoderLayer

        @dataclass(frozen=True)
        class QKNorm(Model):
            def build(self, key):
                return QKNormNetwork(self, key)

            @property
            def parameters(self):
                return ((r"encoder/layers/self_attention/query_scale", "lk", ""),)

        get_config: model=QKNorm.like(t5("small", vocab_size=32_128))

    Fields that a subclass adds can be overridden and are kept in JSON as those below are.
    """

    vocab_size: int  # rows of the embedding, and logits; at least the tokenizer's size, often padded up
    width: int
    heads: int
    head_width: int
    feed_forward: int
    encoder_layers: int
    decoder_layers: int
    stacks: SeparateStacks | SharedLayers | DecoderOnly = SeparateStacks()
    source_vocab_size: int | None = None  # rows of an embedding of the encoder's own; None where both stacks share one
    activation: Literal["relu", "gelu", "gelu_tanh", "silu"] = "gelu_tanh"
    gated: bool = True
    biases: bool = False  # of every projection in attention and feed-forward
    norm: RMSNorm | LayerNorm = RMSNorm()
    norm_first: bool = True  # norms before each sublayer and after the last, or after each addition
    positions: Relative | Learned | Sinusoidal = Relative()
    scaled_scores: bool = False  # the query is multiplied by head_width ** -0.5
    scaled_embedding: bool = False  # what enters the stacks is multiplied by width ** 0.5
    embedding_norm: bool = False  # a norm of what enters each stack, after its positions
    head: Tied | UntiedHead = UntiedHead()
    logits_bias: bool = False
    zero_token: int | None = None  # the token whose embedding is zero and stays so: what Marian's decoder starts from
    initial: FanIn | Normal | Xavier = FanIn()
    parametrization: Standard | MaximalUpdate = Standard()  # what stays alike over models of several widths
    dropout: float = 0.0  # of the residual stream: embeddings and what each sublayer adds
    attention_dropout: float = 0.0  # of attention's weights
    activation_dropout: float = 0.0  # inside the feed-forward
    output_dropout: float = 0.0  # of what leaves each stack
    shared_dropout: bool = True  # alike at every position of a row (T5X), or drawn for each (fairseq, Marian)
    compute: Literal["float32", "bfloat16"] = "bfloat16"  # activations; master weights stay float32
    remat: Literal["none", "dots", "full"] = "none"  # what a layer keeps for its backward pass: all, products, nothing
    unroll: int = 1  # layers a scan step holds: 1 compiles fastest

    def __post_init__(self) -> None:
        require_positive("model.", self, "vocab_size", "width", "heads", "head_width", "feed_forward")
        require_positive("model.", self, "encoder_layers", "decoder_layers", "unroll")
        require_at_most("model.", self, LARGEST, "vocab_size", "source_vocab_size", "width", "heads", "head_width")
        require_at_most("model.", self, LARGEST, "feed_forward", "encoder_layers", "decoder_layers")
        for name in DROPOUTS:
            require(0 <= getattr(self, name) < 1, f"model.{name} is {getattr(self, name)}: it must lie in [0, 1).")
        source, zero = self.source_vocab_size, self.zero_token
        require(source is None or source > 0, f"model.source_vocab_size is {source}: above 0, or None to share.")
        require(
            zero is None or 0 <= zero <= self.vocab_size,
            f"model.zero_token is {zero}: None, a token below vocab_size, or vocab_size, {self.vocab_size}: no row.",
        )
        layers = self.encoder_layers, self.decoder_layers
        same = isinstance(self.stacks, SeparateStacks) or layers[0] == layers[1]
        require(same, f"model.stacks has one set of layers: encoder_layers and decoder_layers are {layers}, not equal.")
        per_layer = isinstance(self.positions, Relative) and self.positions.per_layer
        own = not isinstance(self.stacks, SharedLayers) or not per_layer
        require(own, "model.positions.per_layer must be False with SharedLayers: each stack has distances of its own.")
        sizes = {"width": self.width}
        if isinstance(self.parametrization, MaximalUpdate):
            sizes["parametrization.width"] = self.parametrization.width
        for name, size in sizes.items():
            even = not isinstance(self.positions, Sinusoidal) or size % 2 == 0
            require(even, f"model.{name} is {size}: it must be even, for as many sines as cosines.")

    @classmethod
    def like(cls: type[Self], model: "Model", **changes: Any) -> Self:
        """Make a model of this class with the fields of another, some of them changed."""
        return cls(**{field.name: getattr(model, field.name) for field in fields(model)} | changes)

    def build(self, key: Any) -> Any:
        """Make the network, an nnx.Module such as EncoderDecoder, with random parameters drawn from a JAX key.

        It must have what decoding and the loss call: `__call__`, `encode`, `decode`, `logits`, `new_cache` and
        `decode_step` of EncoderDecoder (research/model/transformer.py), with the same shapes.
        """
        return import_module("research.model.transformer").build(self, key)

    @property
    def attention_width(self) -> int:
        """Of all heads together."""
        return self.heads * self.head_width

    @property
    def base(self) -> "Model":
        """The model of the sizes that `parametrization` starts from; itself where that is `Standard`."""
        match self.parametrization:
            case MaximalUpdate(width, heads, head_width, feed_forward):
                return replace(
                    self,
                    width=width,
                    heads=heads,
                    head_width=head_width,
                    feed_forward=feed_forward,
                    parametrization=Standard(),
                )
            case _:
                return self

    @property
    def parameters(self) -> tuple[tuple[str, str, str], ...]:
        """Rows of parameters that shipped models lack, (pattern, stored axes, axes read): model/parameters.py."""
        return ()

    @property
    def dropped(self) -> bool:
        """Whether training draws random numbers."""
        return any(getattr(self, name) for name in DROPOUTS)

    @property
    def longest(self) -> int | None:
        """The longest row there are positions for; None where distance alone counts."""
        return None if isinstance(self.positions, Relative) else self.positions.length
