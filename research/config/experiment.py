"""The experiment, and what concerns the run rather than the data or the model."""

from dataclasses import dataclass, field
from typing import Literal

from research.config.base import require, require_not_negative, require_positive
from research.config.data import Denoising, Supervised
from research.config.generation import Generation
from research.config.logger import Logger
from research.config.metric import score_names
from research.config.model import Model
from research.config.optimizer import Optimizer
from research.config.parts import shipped
from research.config.task import Task

FORCED = ("held_out_loss", "held_out_accuracy")  # what forced decoding of held-out targets gives, whatever the data


@dataclass(frozen=True)
class Loss:
    z_loss: float = 1e-4  # weight of the squared log-partition (T5X)
    label_smoothing: float = 0.0  # probability moved from the target to other tokens
    smoothing: Literal["t5x", "fairseq", "marian"] = "t5x"  # by which of the three formulas: see loss.py

    def __post_init__(self) -> None:
        require_not_negative("loss.", self, "z_loss")
        smoothing = self.label_smoothing
        require(0 <= smoothing < 1, f"loss.label_smoothing is {smoothing}: it must lie in [0, 1).")


@dataclass(frozen=True)
class Mesh:
    """Devices along each axis; one axis may be -1, which takes what the others leave."""

    data: int = -1
    fsdp: int = 1
    sequence: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        sizes = (self.data, self.fsdp, self.sequence, self.tensor)
        require(all(size > 0 or size == -1 for size in sizes), f"mesh is {sizes}: sizes are above 0, or -1 to fill.")
        require(sizes.count(-1) <= 1, f"mesh is {sizes}: only one axis may be -1.")


@dataclass(frozen=True)
class Evaluation:
    every: int = 1000  # steps
    rows: int = 2048  # held-out rows, rounded up to whole batches and never more than there are
    samples: int = 3  # held-out passages filled in, or examples of each task written, at the end
    generation: Generation | None = None  # how tasks are written, with the tokenizer's control tokens; None: not
    examples: int = 512  # held-out examples of each task that are written and scored, the first ones
    best: str = "held_out_loss"  # the number that says which evaluation is the best; all others are better when higher
    patience: int | None = None  # evaluations without a better one, after which the run is done

    def __post_init__(self) -> None:
        require_positive("evaluation.", self, "every", "rows", "examples")
        require_not_negative("evaluation.", self, "samples")
        most = self.patience
        require(most is None or most > 0, f"evaluation.patience is {most}: it must be above 0, or None.")


@dataclass(frozen=True)
class Checkpoint:
    every: int = 1000  # steps
    keep: int = 3  # newest
    keep_best: int = 1  # by evaluation.best

    def __post_init__(self) -> None:
        require_positive("checkpoint.", self, "every", "keep")
        require_not_negative("checkpoint.", self, "keep_best")


@dataclass(frozen=True)
class Report:
    every: int = 100  # steps a line of metrics averages over
    loggers: tuple[Logger, ...] = field(default_factory=lambda: (shipped("TensorBoard"),))  # beside metrics.jsonl

    def __post_init__(self) -> None:
        require_positive("report.", self, "every")


@dataclass(frozen=True)
class Profile:
    """A trace of some steps, in the run directory, for XProf, TensorBoard or Perfetto."""

    first: int = 10  # the first step that is traced, counted from where this process began; those before warm up
    steps: int = 5

    def __post_init__(self) -> None:
        require_positive("profile.", self, "first", "steps")


@dataclass(frozen=True)
class Guard:
    nonfinite_limit: int = 8  # skipped updates in a row that stop the run
    hang_seconds: int = 1800  # without a finished step, before the run is declared hung
    heartbeat_seconds: int = 60  # without a sign of life from a host, before the others end

    def __post_init__(self) -> None:
        require_positive("guard.", self, "nonfinite_limit", "hang_seconds", "heartbeat_seconds")


@dataclass(frozen=True)
class Experiment:
    model: Model
    data: Denoising | Supervised
    optimizer: Optimizer
    steps: int
    batch_size: int  # rows a step, over all devices and micro-batches
    microbatches: int = 1  # a step's gradient is accumulated over this many
    seed: int = 0
    average_decay: float | None = None  # of a moving average of the parameters, which is evaluated in their place
    init: str | None = None  # trained weights to start from, of any format that is known; None starts from random ones
    init_fresh: tuple[str, ...] = ()  # patterns of whole parameter paths that stay random all the same
    loss: Loss = Loss()
    mesh: Mesh = Mesh()
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpoint = Checkpoint()
    report: Report = field(default_factory=Report)
    profile: Profile | None = None
    guard: Guard = Guard()

    def __post_init__(self) -> None:
        require_positive("", self, "steps", "batch_size", "microbatches")
        require(
            0 <= self.seed < 2**32, f"seed is {self.seed}: it must lie in [0, 2**32), all that a JAX key tells apart."
        )
        decay = self.average_decay
        require(decay is None or 0 < decay < 1, f"average_decay is {decay}: None, or between 0 and 1.")
        require(self.init is not None or not self.init_fresh, "init_fresh is said without init: set both, or neither.")
        size, parts = self.batch_size, self.microbatches
        require(size % parts == 0, f"microbatches is {parts}: it must divide batch_size, which is {size}.")
        self._check_evaluation()

    def _check_evaluation(self) -> None:
        evaluation, tasks = self.evaluation, isinstance(self.data, Supervised)
        written = evaluation.generation is not None
        require(tasks or not written, "evaluation.generation is for data of tasks: with Denoising it must be None.")
        there = ", ".join(self.scores)
        more = "; with evaluation.generation the metrics of the tasks too" if tasks and not written else ""
        said = f"evaluation.best is {evaluation.best!r}: an evaluation of this experiment gives {there}{more}."
        require(evaluation.best in self.scores, said)

    @property
    def scores(self) -> tuple[str, ...]:
        """The names of the numbers that an evaluation gives."""
        if not isinstance(self.data, Supervised) or self.evaluation.generation is None:
            return FORCED
        labelled = zip(task_labels(self.data.tasks), self.data.tasks, strict=True)
        return FORCED + tuple(f"{label}{name}" for label, task in labelled for name in score_names(task.metrics))


def task_labels(tasks: tuple[Task, ...]) -> tuple[str, ...]:
    """The prefix of each task's numbers: none for one task alone, else the label of its examples, "multi30k/".

    A label that earlier tasks have too is numbered.
    """
    if len(tasks) == 1:
        return ("",)
    plain = [task.examples.label for task in tasks]
    before = [plain[:place].count(name) for place, name in enumerate(plain)]
    return tuple(f"{name}{count + 1 if count else ''}/" for name, count in zip(plain, before, strict=True))
