"""Every field an experiment has. An experiment is one expression of these frozen dataclasses.

Values that follow from others are properties, never fields. Validation here is what a config can know of itself;
what needs files or devices is checked by the module that meets them. A bad value is a `ConfigError`: one sentence that
names the field, the value and what is allowed.
"""

from research.config.base import (
    ConfigError,
    parse_json,
    require,
    require_not_negative,
    require_positive,
)
from research.config.data import (
    Buckets,
    Corpus,
    Denoising,
    Mixing,
    Packed,
    Supervised,
)
from research.config.examples import Examples, Names, Split, TextRecord
from research.config.experiment import (
    FORCED,
    Checkpoint,
    Evaluation,
    Experiment,
    Guard,
    Loss,
    Mesh,
    Profile,
    Report,
    task_labels,
)
from research.config.generation import GNMT, Beam, Generation, Greedy, Power, Sampling
from research.config.grid import Equal, Published, chain, equal, grid, product, seeds, together, widths
from research.config.metric import Metric, score_names
from research.config.model import (
    DROPOUTS,
    TRAINING_ONLY,
    DecoderOnly,
    FanIn,
    LayerNorm,
    Learned,
    MaximalUpdate,
    Model,
    Normal,
    Relative,
    RMSNorm,
    SeparateStacks,
    SharedLayers,
    Sinusoidal,
    Standard,
    Tied,
    UntiedHead,
    Xavier,
)
from research.config.objective import (
    Denoiser,
    Lengths,
    Mixture,
    Objective,
    Objectives,
)
from research.config.optimizer import Optimizer, Parameter, Schedule
from research.config.search_space import (
    TPE,
    Choice,
    Hyperband,
    LogRange,
    Median,
    Random,
    Range,
    Search,
    SuccessiveHalving,
)
from research.config.task import Task
from research.config.tokenizer import (
    ByteLevelBPE,
    Bytes,
    Marian,
    MBart,
    SentencePiece,
    TrainedSentencePiece,
    Vocabulary,
)
