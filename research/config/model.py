"""The architecture: structural fields that describe T5, BART, mBART and Marian."""

from dataclasses import dataclass, fields, replace
from importlib import import_module
from typing import Any, Literal, TypeVar

from research.config.adapter import Adapter
from research.config.base import require, require_at_most, require_not_negative, require_positive

# Limits of sizes in a file, so that a bad config cannot exhaust the memory.
LARGEST, LONGEST = 2**24, 2**17


@dataclass(frozen=True)
class Relative:
    """T5's learned bias by bucketed distance, one table per stack or (umT5) per layer."""

    buckets: int = 32
    max_distance: int = 128
    per_layer: bool = False

    def __post_init__(self) -> None:
        buckets, reach = self.buckets, self.max_distance
        valid = buckets >= 4 and buckets % 2 == 0
        require(valid, f"model.positions.buckets is {buckets}: it must be even, and at least 4.")
        require(reach > buckets // 2, f"model.positions.max_distance is {reach}: above buckets / 2, {buckets // 2}.")
        require_at_most("model.positions.", self, LONGEST, "buckets", "max_distance")


@dataclass(frozen=True)
class Learned:
    """A learned embedding per position, one table per stack. The first `offset` rows are unused, as in BART."""

    length: int = 1024
    offset: int = 2

    def __post_init__(self) -> None:
        require_positive("model.positions.", self, "length")
        require_not_negative("model.positions.", self, "offset")
        require_at_most("model.positions.", self, LONGEST, "length", "offset")


@dataclass(frozen=True)
class Sinusoidal:
    """Fixed sinusoids, with sines in the first half of the width and cosines in the second.

    Wavelengths run from 2 pi to 10,000 times that. With `last_included` the last frequency reaches the end of this
    range (Tensor2Tensor, fairseq, Marian); otherwise it is one step before (the paper, Hugging Face, CTranslate2).
    Positions are counted from `first`, which is 2 in fairseq and M2M-100.
    """

    length: int = 512
    last_included: bool = False
    first: int = 0

    def __post_init__(self) -> None:
        require_positive("model.positions.", self, "length")
        require_not_negative("model.positions.", self, "first")
        require_at_most("model.positions.", self, LONGEST, "length", "first")


@dataclass(frozen=True)
class RMSNorm:
    """RMS normalisation: x / RMS(x) * scale, without mean and bias (arXiv:1910.07467)."""

    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        require_positive("model.norm.", self, "epsilon")


@dataclass(frozen=True)
class LayerNorm:
    """Layer normalisation: (x - mean) / deviation * scale + bias (arXiv:1607.06450). Marian's epsilon is 1e-6."""

    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        require_positive("model.norm.", self, "epsilon")


@dataclass(frozen=True)
class Tied:
    """A head that is the transposed embedding; `scaled` multiplies its input by width ** -0.5 (T5 v1.0)."""

    scaled: bool = True


@dataclass(frozen=True)
class UntiedHead:
    """A head with its own matrix (T5 v1.1)."""


@dataclass(frozen=True)
class FanIn:
    """T5's initial values: matrices are scaled by their fan-in, and queries also in place of the scores."""


@dataclass(frozen=True)
class Normal:
    """Normal initial values, with one standard deviation for all matrices and tables (BART, Hugging Face's Marian)."""

    deviation: float = 0.02

    def __post_init__(self) -> None:
        require_positive("model.initial.", self, "deviation")


@dataclass(frozen=True)
class Xavier:
    """fairseq's initial values: uniform matrices by fan-in and fan-out (Glorot and Bengio, 2010), and normal tables."""


@dataclass(frozen=True)
class SeparateStacks:
    """An encoder and a decoder with separate layers."""


@dataclass(frozen=True)
class SharedLayers:
    """An encoder and a decoder that share their layers, except for cross-attention (arXiv:1910.10683, 3.2)."""


@dataclass(frozen=True)
class DecoderOnly:
    """A single stack that reads inputs and targets as one row (arXiv:1910.10683, 3.2), for comparison.

    Targets attend causally. Inputs attend to all inputs (prefix LM), or with `causal` only to earlier ones (LM).
    """

    causal: bool = False


@dataclass(frozen=True)
class Standard:
    """The standard parametrization: only `initial` and the optimizer's own rules depend on the width."""


@dataclass(frozen=True)
class MaximalUpdate:
    """muP (arXiv:2203.03466): one learning rate for all widths, by the rules in research/model/parametrization.py.

    The fields are the sizes of a base model, for which it equals `Standard`. Wider models should keep its proportions.
    """

    width: int
    heads: int
    head_width: int
    feed_forward: int

    def __post_init__(self) -> None:
        require_positive("model.parametrization.", self, "width", "heads", "head_width", "feed_forward")
        require_at_most("model.parametrization.", self, LARGEST, "width", "heads", "head_width", "feed_forward")


DROPOUTS = ("dropout", "attention_dropout", "activation_dropout", "output_dropout")
# Fields that affect only training: neither the weights' shapes nor the function of the trained model.
TRAINING_ONLY = ("initial", "pad_token", "compute", "remat", "unroll", "attention", "shared_dropout", *DROPOUTS)


Self = TypeVar("Self", bound="Model")


@dataclass(frozen=True)
class Model:
    """The structure of a model. To use other layers or another network, subclass it and override `build`:

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

    Fields of a subclass can be overridden and are saved in JSON like the fields below.
    """

    vocab_size: int  # embedding rows and logits; at least the tokenizer's size, often padded
    width: int
    heads: int
    head_width: int
    feed_forward: int
    encoder_layers: int
    decoder_layers: int
    stacks: SeparateStacks | SharedLayers | DecoderOnly = SeparateStacks()
    source_vocab_size: int | None = None  # rows of the encoder's own embedding; None: shared with the decoder
    activation: Literal["relu", "gelu", "gelu_tanh", "silu"] = "gelu_tanh"
    gated: bool = True
    biases: bool = False  # of every projection in attention and feed-forward
    norm: RMSNorm | LayerNorm = RMSNorm()
    norm_first: bool = True  # norms before each sublayer and after the last one, or after each residual addition
    positions: Relative | Learned | Sinusoidal = Relative()
    scaled_scores: bool = False  # multiply queries by head_width ** -0.5
    scaled_embedding: bool = False  # multiply embeddings by width ** 0.5
    embedding_norm: bool = False  # a norm of each stack's input, after positions are added
    head: Tied | UntiedHead = UntiedHead()
    logits_bias: bool = False
    zero_token: int | None = None  # a token with a constant zero embedding: Marian's decoder start
    pad_token: int | None = None  # a token whose embedding has no gradient as an input: BART's padding
    initial: FanIn | Normal | Xavier = FanIn()
    parametrization: Standard | MaximalUpdate = Standard()  # scaling of hyperparameters with the width
    dropout: float = 0.0  # of embeddings and each sublayer's output
    attention_dropout: float = 0.0  # of attention weights
    activation_dropout: float = 0.0  # inside the feed-forward
    output_dropout: float = 0.0  # of each stack's output
    shared_dropout: bool = True  # one mask for all positions of a row (T5X), or one each (fairseq, Marian)
    compute: Literal["float32", "bfloat16"] = "bfloat16"  # dtype of activations; master weights are float32
    remat: Literal["none", "dots", "full"] = "none"  # kept for the backward pass: all, products, nothing
    unroll: int | None = None  # layers per scan step; 1 compiles fastest; None: 1, but all (at most 24) on a GPU
    # How attention is computed (research/model/attention_backends.py); "auto" chooses by platform, dtype and batch.
    attention: Literal["auto", "reference", "cudnn", "pallas", "blocked"] = "auto"
    adapter: Adapter | None = None  # few parameters to train instead of all

    def __post_init__(self) -> None:
        require_positive("model.", self, "vocab_size", "width", "heads", "head_width", "feed_forward")
        require_positive("model.", self, "encoder_layers", "decoder_layers")
        if self.unroll is not None:
            require_positive("model.", self, "unroll")
        require_at_most("model.", self, LARGEST, "vocab_size", "source_vocab_size", "width", "heads", "head_width")
        require_at_most("model.", self, LARGEST, "feed_forward", "encoder_layers", "decoder_layers")
        for name in DROPOUTS:
            require(0 <= getattr(self, name) < 1, f"model.{name} is {getattr(self, name)}: it must lie in [0, 1).")
        source, zero = self.source_vocab_size, self.zero_token
        valid = source is None or source > 0
        require(valid, f"model.source_vocab_size is {source}: it must be above 0, or None to share.")
        require(
            zero is None or 0 <= zero <= self.vocab_size,
            f"model.zero_token is {zero}: it must be None, a token of the vocabulary, or its size,"
            f" {self.vocab_size}, for a token without a row.",
        )
        layers = self.encoder_layers, self.decoder_layers
        equal = isinstance(self.stacks, SeparateStacks) or layers[0] == layers[1]
        message = f"model.stacks has one set of layers: encoder_layers and decoder_layers are {layers}, not equal."
        require(equal, message)
        per_layer = isinstance(self.positions, Relative) and self.positions.per_layer
        own = not isinstance(self.stacks, SharedLayers) or not per_layer
        require(own, "model.positions.per_layer must be False with SharedLayers: the stacks have separate biases.")
        sizes = {"width": self.width}
        if isinstance(self.parametrization, MaximalUpdate):
            sizes["parametrization.width"] = self.parametrization.width
        for name, size in sizes.items():
            even = not isinstance(self.positions, Sinusoidal) or size % 2 == 0
            require(even, f"model.{name} is {size}: it must be even, for as many sines as cosines.")

    @classmethod
    def like(cls: type[Self], model: "Model", **changes: Any) -> Self:
        """Make a model of this class from the fields of another model, with changes."""
        plain = model.plain
        return cls(**{field.name: getattr(plain, field.name) for field in fields(plain)} | changes)

    def build(self, key: Any) -> Any:
        """Build the network, an nnx.Module such as EncoderDecoder, with random parameters drawn from a JAX key.

        It must have the methods that decoding and the loss call: `__call__`, `encode`, `decode`, `logits`, `new_cache`
        and `decode_step` of EncoderDecoder (research/model/transformer.py), with the same shapes.
        """
        return import_module("research.model.transformer").build(self, key)

    @property
    def plain(self) -> "Model":
        """The model without what `Pretrained` adds: where its weights and its tokenizer are."""
        return self

    @property
    def attention_width(self) -> int:
        """Width of all heads together."""
        return self.heads * self.head_width

    @property
    def base(self) -> "Model":
        """The base model of `parametrization`; the model itself if that is `Standard`."""
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
        """Rows of additional parameters, (pattern, stored axes, axes read): see research/model/parameters.py."""
        return ()

    @property
    def dropped(self) -> bool:
        """True if any dropout is above 0, so that training draws random numbers."""
        return any(getattr(self, name) for name in DROPOUTS) or (self.adapter is not None and self.adapter.dropped)

    @property
    def prompt(self) -> range:
        """The ids of the prompt of `adapter`, after those of the vocabulary: they precede each source."""
        first = max(
            self.vocab_size, self.source_vocab_size or 0, -1 if self.zero_token is None else self.zero_token + 1
        )
        return range(first, first + (0 if self.adapter is None else self.adapter.prepended))

    @property
    def longest(self) -> int | None:
        """The maximum length of a row, or None for relative positions, which have none."""
        return None if isinstance(self.positions, Relative) else self.positions.length
