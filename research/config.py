"""Every field an experiment has. An experiment is one expression of these frozen dataclasses.

Values that follow from others are properties, never fields. Validation here is what a config can know of itself;
what needs files or devices is checked by the module that meets them. A bad value is a `ConfigError`: one sentence that
names the field, the value and what is allowed.
"""

import math
from dataclasses import dataclass
from typing import Literal


class ConfigError(ValueError):
    """What a person asked for cannot be done; the message is one sentence saying what and what is allowed."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def require_positive(section: str, config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(0 < value < math.inf, f"{section}{name} is {value}: it must be above 0 and finite.")


def require_not_negative(section: str, config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(0 <= value < math.inf, f"{section}{name} is {value}: it must be 0 or above, and finite.")


# --- Data -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TFDS:
    """A TensorFlow Datasets builder by name ("python_docs" is shipped here; "c4/en:3.1.0" needs a network once)."""

    name: str
    train: str = "train"
    held_out: str = "validation"
    text: str = "text"  # the feature that holds a document


@dataclass(frozen=True)
class JSONLines:
    """JSON objects, one a line; .gz is read too. `train` and `held_out` are paths or glob patterns.

    With `held_out=None`, documents are held out by a hash of their text, about one in a hundred.
    """

    train: str
    held_out: str | None = None
    text: str = "text"  # the key that holds a document


@dataclass(frozen=True)
class PlainText:
    """UTF-8 text; .gz is read too. A document is a block between blank lines, or a whole file."""

    train: str
    held_out: str | None = None
    document: Literal["block", "file"] = "block"


@dataclass(frozen=True)
class Mixing:
    """Sampling rates over corpora: min(rows, limit) ** (1 / temperature), normalised (T5, arXiv:1910.10683, 3.5.2).

    temperature=1 is proportional mixing; a limit makes it examples-proportional with a cap.
    """

    temperature: float = 1.0
    limit: int | None = None

    def __post_init__(self) -> None:
        require_positive("mixing.", self, "temperature")
        require(self.limit is None or self.limit > 0, f"mixing.limit is {self.limit}: it must be above 0, or None.")


@dataclass(frozen=True)
class SentencePiece:
    """A SentencePiece model on disk; `sentinels` ids are added above its pieces.

    With sentinels=0 its own pieces <extra_id_0>, <extra_id_1>, ... serve, as in mT5's file.
    """

    path: str
    sentinels: int = 100


@dataclass(frozen=True)
class TrainedSentencePiece:
    """A SentencePiece unigram model trained on the training split, once, and cached."""

    pieces: int = 32_000
    sentinels: int = 100

    def __post_init__(self) -> None:
        require(self.pieces > 300, f"tokenizer.pieces is {self.pieces}: at least 301, for 256 bytes and the controls.")


@dataclass(frozen=True)
class Bytes:
    """UTF-8 bytes after three controls, as ByT5. With sentinels=0 the highest byte ids serve, as in its pretraining."""

    sentinels: int = 100


@dataclass(frozen=True)
class SpanCorruption:
    """T5's objective: noise spans become sentinels, the target lists what they hid (arXiv:1910.10683, 3.1.4)."""

    noise_density: float = 0.15
    mean_span_length: float = 3.0

    def __post_init__(self) -> None:
        density, span = self.noise_density, self.mean_span_length
        require(0 < density < 1, f"objective.noise_density is {density}: it must lie between 0 and 1, both excluded.")
        require(span >= 1, f"objective.mean_span_length is {span}: it must be at least 1 token.")


@dataclass(frozen=True)
class Data:
    corpora: tuple[TFDS | JSONLines | PlainText, ...]
    tokenizer: SentencePiece | TrainedSentencePiece | Bytes = TrainedSentencePiece()
    objective: SpanCorruption = SpanCorruption()
    input_length: int = 512  # encoder tokens a row, EOS included; the raw and target lengths follow
    mixing: Mixing = Mixing()
    threads: int = 2  # reading and corrupting ahead of the device; never decides what is read

    def __post_init__(self) -> None:
        require(len(self.corpora) > 0, "data.corpora is empty: name at least one corpus.")
        require_positive("data.", self, "input_length", "threads")


# --- Model ------------------------------------------------------------------------------------------------------------


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


@dataclass(frozen=True)
class Tied:
    """The head is the embedding transposed; `scaled` multiplies its input by width ** -0.5 (T5 v1.0)."""

    scaled: bool = True


@dataclass(frozen=True)
class Separate:
    """The head has a matrix of its own (T5 v1.1)."""


@dataclass(frozen=True)
class Model:
    vocab_size: int  # rows of the embedding; at least the tokenizer's size, often padded up
    width: int
    heads: int
    head_width: int
    feed_forward: int
    encoder_layers: int
    decoder_layers: int
    activation: Literal["relu", "gelu_tanh", "silu"] = "gelu_tanh"
    gated: bool = True
    positions: Relative = Relative()
    head: Tied | Separate = Separate()
    norm_epsilon: float = 1e-6
    dropout: float = 0.0
    compute: Literal["float32", "bfloat16"] = "bfloat16"  # activations; master weights stay float32
    remat: Literal["none", "dots", "full"] = "none"  # what a layer keeps for its backward pass: all, products, nothing
    unroll: int = 1  # layers a scan step holds: 1 compiles fastest

    def __post_init__(self) -> None:
        require_positive("model.", self, "vocab_size", "width", "heads", "head_width", "feed_forward")
        require_positive("model.", self, "encoder_layers", "decoder_layers", "norm_epsilon", "unroll")
        require(0 <= self.dropout < 1, f"model.dropout is {self.dropout}: it must lie in [0, 1).")


# --- Optimizer --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """Steps of linear rise to the peak, from `warmup_start` of it."""

    peak: float
    warmup: int = 0
    warmup_start: float = 0.0

    def __post_init__(self) -> None:
        require_not_negative("optimizer.schedule.", self, "peak", "warmup")
        start = self.warmup_start
        require(0 <= start <= 1, f"optimizer.schedule.warmup_start is {start}: a share of the peak, from 0 to 1.")


@dataclass(frozen=True, kw_only=True)
class Constant(Warmup):
    pass


@dataclass(frozen=True, kw_only=True)
class Decay(Warmup):
    final: float = 0.0  # reached at the experiment's last step

    def __post_init__(self) -> None:
        super().__post_init__()
        require_not_negative("optimizer.schedule.", self, "final")


@dataclass(frozen=True, kw_only=True)
class Linear(Decay):
    pass


@dataclass(frozen=True, kw_only=True)
class Cosine(Decay):
    pass


@dataclass(frozen=True, kw_only=True)
class InverseSquareRoot(Warmup):
    """peak * sqrt(timescale / max(step, timescale)); T5 pretraining is peak 0.01, timescale 10,000, no warm-up."""

    peak: float = 0.01
    timescale: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("optimizer.schedule.", self, "timescale")


Schedule = Constant | Linear | Cosine | InverseSquareRoot


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What every optimizer has. Patterns are regular expressions searched in parameter paths; each must match one."""

    schedule: Schedule
    clip_norm: float | None = None  # global norm of the gradient
    weight_decay: float = 0.0
    no_decay: tuple[str, ...] = (r"norm", r"relative_bias")
    frozen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        clip = self.clip_norm
        require(clip is None or 0 < clip < math.inf, f"optimizer.clip_norm is {clip}: it must be above 0, or None.")
        require_not_negative("optimizer.", self, "weight_decay")


@dataclass(frozen=True, kw_only=True)
class Adafactor(Optimizer):
    """As T5X's (arXiv:1804.04235): no momentum, update scaled by the RMS of the parameter and clipped by its own."""

    schedule: Schedule = InverseSquareRoot()
    decay_exponent: float = 0.8  # second-moment decay is 1 - (step + 1) ** -decay_exponent
    clip_update: float = 1.0  # RMS of one parameter's update
    momentum: float | None = None
    factored: bool = True
    min_factored: int = 128  # a matrix with a smaller side keeps its full second moment

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("optimizer.", self, "decay_exponent", "clip_update", "min_factored")
        momentum = self.momentum
        require(momentum is None or 0 < momentum < 1, f"optimizer.momentum is {momentum}: None, or between 0 and 1.")


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """What both kinds of AdamW have."""

    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("b1", "b2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optimizer.{name} is {value}: it must lie in [0, 1).")
        require_positive("optimizer.", self, "epsilon")


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Decoupled weight decay (arXiv:1711.05101)."""


@dataclass(frozen=True, kw_only=True)
class RMSScaledAdamW(Adam):
    """AdamW whose step is scaled by max(1e-3, RMS(parameter)): nanoT5's AdamWScale."""

    epsilon: float = 1e-6


# --- Run --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loss:
    z_loss: float = 1e-4  # weight of the squared log-partition (T5X)
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        require_not_negative("loss.", self, "z_loss")
        smoothing = self.label_smoothing
        require(0 <= smoothing < 1, f"loss.label_smoothing is {smoothing}: it must lie in [0, 1).")


@dataclass(frozen=True)
class Mesh:
    """Devices along each axis; one axis may be -1, which takes what the others leave."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        sizes = (self.data, self.fsdp, self.tensor)
        require(all(size > 0 or size == -1 for size in sizes), f"mesh is {sizes}: sizes are above 0, or -1 to fill.")
        require(sizes.count(-1) <= 1, f"mesh is {sizes}: only one axis may be -1.")


@dataclass(frozen=True)
class Evaluation:
    every: int = 1000  # steps
    rows: int = 2048  # held-out rows, rounded up to whole batches and never more than there are
    samples: int = 3  # held-out passages filled in at the end

    def __post_init__(self) -> None:
        require_positive("evaluation.", self, "every", "rows")
        require_not_negative("evaluation.", self, "samples")


@dataclass(frozen=True)
class Checkpoint:
    every: int = 1000  # steps
    keep: int = 3  # newest
    keep_best: int = 1  # by held-out loss

    def __post_init__(self) -> None:
        require_positive("checkpoint.", self, "every", "keep")
        require_not_negative("checkpoint.", self, "keep_best")


@dataclass(frozen=True)
class Report:
    every: int = 100  # steps a line of metrics averages over

    def __post_init__(self) -> None:
        require_positive("report.", self, "every")


@dataclass(frozen=True)
class Guard:
    nonfinite_limit: int = 8  # skipped updates in a row that stop the run
    hang_seconds: int = 1800  # without a finished step, before the run is declared hung

    def __post_init__(self) -> None:
        require_positive("guard.", self, "nonfinite_limit", "hang_seconds")


@dataclass(frozen=True)
class Experiment:
    model: Model
    data: Data
    optimizer: Adafactor | AdamW | RMSScaledAdamW
    steps: int
    batch_size: int  # rows a step, over all devices and micro-batches
    microbatches: int = 1  # a step's gradient is accumulated over this many
    seed: int = 0
    loss: Loss = Loss()
    mesh: Mesh = Mesh()
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpoint = Checkpoint()
    report: Report = Report()
    guard: Guard = Guard()

    def __post_init__(self) -> None:
        require_positive("", self, "steps", "batch_size", "microbatches")
        require(
            0 <= self.seed < 2**32, f"seed is {self.seed}: it must lie in [0, 2**32), all that a JAX key tells apart."
        )
        size, parts = self.batch_size, self.microbatches
        require(size % parts == 0, f"microbatches is {parts}: it must divide batch_size, which is {size}.")
