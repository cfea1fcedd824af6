"""Every field an experiment has. An experiment is one expression of these frozen dataclasses.

Values that follow from others are properties, never fields. Validation here is what a config can know of itself;
what needs files or devices is checked by the module that meets them. A bad value is a `ConfigError`: one sentence that
names the field, the value and what is allowed.
"""

from research.config.base import ConfigError, require, require_not_negative, require_positive
from research.config.data import (
    TFDS,
    Bytes,
    Data,
    JSONLines,
    Mixing,
    PlainText,
    SentencePiece,
    SpanCorruption,
    TrainedSentencePiece,
)
from research.config.experiment import Checkpoint, Evaluation, Experiment, Guard, Loss, Mesh, Report
from research.config.generation import GNMT, Beam, Generation, Greedy, Power, Sampling
from research.config.model import (
    FanIn,
    LayerNorm,
    Learned,
    Model,
    Normal,
    Relative,
    RMSNorm,
    Separate,
    Sinusoidal,
    Tied,
)
from research.config.optimizer import (
    Adafactor,
    Adam,
    AdamW,
    Constant,
    Cosine,
    Decay,
    InverseSquareRoot,
    Linear,
    Optimizer,
    RMSScaledAdamW,
    Schedule,
    Warmup,
)

__all__ = [
    "GNMT",
    "TFDS",
    "Adafactor",
    "Adam",
    "AdamW",
    "Beam",
    "Bytes",
    "Checkpoint",
    "ConfigError",
    "Constant",
    "Cosine",
    "Data",
    "Decay",
    "Evaluation",
    "Experiment",
    "FanIn",
    "Generation",
    "Greedy",
    "Guard",
    "InverseSquareRoot",
    "JSONLines",
    "LayerNorm",
    "Learned",
    "Linear",
    "Loss",
    "Mesh",
    "Mixing",
    "Model",
    "Normal",
    "Optimizer",
    "PlainText",
    "Power",
    "RMSNorm",
    "RMSScaledAdamW",
    "Relative",
    "Report",
    "Sampling",
    "Schedule",
    "SentencePiece",
    "Separate",
    "Sinusoidal",
    "SpanCorruption",
    "Tied",
    "TrainedSentencePiece",
    "Warmup",
    "require",
    "require_not_negative",
    "require_positive",
]
