"""Every field an experiment has. An experiment is one expression of these frozen dataclasses.

Values that follow from others are properties, never fields. Validation here is what a config can know of itself;
what needs files or devices is checked by the module that meets them. A bad value is a `ConfigError`: one sentence that
names the field, the value and what is allowed.
"""

from research.config.base import ConfigError, require, require_not_negative, require_positive
from research.config.data import (
    TFDS,
    ByteLevelBPE,
    Bytes,
    Data,
    JSONLines,
    Marian,
    MBart,
    Mixing,
    PlainText,
    SentencePiece,
    SpanCorruption,
    TrainedSentencePiece,
    Vocabulary,
)
from research.config.experiment import Checkpoint, Evaluation, Experiment, Guard, Loss, Mesh, Report
from research.config.model import Model, Relative, Separate, Tied
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
    "TFDS",
    "Adafactor",
    "Adam",
    "AdamW",
    "ByteLevelBPE",
    "Bytes",
    "Checkpoint",
    "ConfigError",
    "Constant",
    "Cosine",
    "Data",
    "Decay",
    "Evaluation",
    "Experiment",
    "Guard",
    "InverseSquareRoot",
    "JSONLines",
    "Linear",
    "Loss",
    "MBart",
    "Marian",
    "Mesh",
    "Mixing",
    "Model",
    "Optimizer",
    "PlainText",
    "RMSScaledAdamW",
    "Relative",
    "Report",
    "Schedule",
    "SentencePiece",
    "Separate",
    "SpanCorruption",
    "Tied",
    "TrainedSentencePiece",
    "Vocabulary",
    "Warmup",
    "require",
    "require_not_negative",
    "require_positive",
]
