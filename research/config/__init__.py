"""The fields of an experiment. An experiment is one expression of these frozen dataclasses.

Derived values are properties, not fields. A config validates itself as far as it can without files or devices; the
modules that use those check the rest. A bad value is a `ConfigError`: one sentence that names the field, the value and
the allowed values.
"""

from research.config.adapter import IA3, Adapter, LoRA, Only, PromptTuning
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
    UnlabelledText,
)
from research.config.distil import Distil
from research.config.examples import Examples, Names, Split, TextRecord
from research.config.experiment import (
    TEACHER_FORCED,
    Checkpoint,
    Evaluation,
    Experiment,
    Guard,
    Loss,
    Mesh,
    Profile,
    Report,
    labelled_tasks,
    task_labels,
)
from research.config.generation import GNMT, Beam, Generation, Greedy, ModelGeneration, Power, Sampling
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
from research.config.pretrained import Pretrained
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
from research.config.task import Task, tasks_in
from research.config.tokenizer import (
    M2M100,
    ByteLevelBPE,
    Bytes,
    Extended,
    Marian,
    MBart,
    ModelTokenizer,
    SentencePiece,
    TokenizerConfig,
    TrainedSentencePiece,
    Vocabulary,
)
