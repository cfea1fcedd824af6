"""The experiment, and the settings of its run: loss, mesh, evaluation, checkpoints, reports and guards."""

from dataclasses import dataclass, field, replace
from typing import Literal

from research.config.adapter import source_room
from research.config.base import require, require_not_negative, require_positive
from research.config.data import Denoising, Supervised
from research.config.distil import Distil
from research.config.examples import Split
from research.config.generation import Generation, ModelGeneration
from research.config.logger import Logger
from research.config.metric import EDIT_RATE, score_names
from research.config.model import LONGEST, Model
from research.config.optimizer import Optimizer
from research.config.parts import shipped
from research.config.pretrained import Pretrained, check_stored, filled
from research.config.task import Task, tasks_in

TEACHER_FORCED = ("held_out_loss", "held_out_accuracy")  # metrics of every evaluation, from held-out targets


@dataclass(frozen=True)
class Loss:
    """The training loss."""

    z_loss: float = 1e-4  # weight of the squared log-partition (T5X)
    label_smoothing: float = 0.0  # probability moved from the target to other tokens
    smoothing: Literal["t5x", "fairseq", "marian"] = "t5x"  # formula: see research/model/loss.py

    def __post_init__(self) -> None:
        require_not_negative("loss.", self, "z_loss")
        smoothing = self.label_smoothing
        require(0 <= smoothing < 1, f"loss.label_smoothing is {smoothing}: it must lie in [0, 1).")


@dataclass(frozen=True)
class Mesh:
    """Devices along each axis of the mesh; one axis may be -1, which takes the remaining devices."""

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
    """Evaluation during training."""

    every: int = 1000  # steps
    rows: int = 2048  # held-out rows, rounded up to whole batches, or all if there are fewer
    samples: int = 3  # held-out passages to infill, or examples of each task to decode, at the end
    # Decoding of tasks, with the tokenizer's special tokens; None: no decoding.
    generation: Generation | ModelGeneration | None = None
    examples: int = 512  # the first held-out examples of each task, which are decoded and scored
    best: str = "held_out_loss"  # metric of the best evaluation; higher is better except for held_out_loss
    patience: int | None = None  # evaluations without improvement after which the run ends

    def __post_init__(self) -> None:
        require_positive("evaluation.", self, "every", "rows", "examples")
        require_not_negative("evaluation.", self, "samples")
        most = self.patience
        require(most is None or most > 0, f"evaluation.patience is {most}: it must be above 0, or None.")


@dataclass(frozen=True)
class Checkpoint:
    """Checkpoints to write and to keep."""

    every: int = 1000  # steps
    keep: int = 3  # newest checkpoints
    keep_best: int = 1  # best checkpoints by evaluation.best

    def __post_init__(self) -> None:
        require_positive("checkpoint.", self, "every", "keep")
        require_not_negative("checkpoint.", self, "keep_best")


@dataclass(frozen=True)
class Report:
    """Training metrics and loggers."""

    every: int = 100  # steps that a line of metrics averages over
    loggers: tuple[Logger, ...] = field(default_factory=lambda: (shipped("TensorBoard"),))  # besides metrics.jsonl

    def __post_init__(self) -> None:
        require_positive("report.", self, "every")


@dataclass(frozen=True)
class Profile:
    """A profiler trace of some steps, in the run directory, for XProf, TensorBoard or Perfetto."""

    first: int = 10  # first traced step, counted from the start of this process; earlier steps are warm-up
    steps: int = 5

    def __post_init__(self) -> None:
        require_positive("profile.", self, "first", "steps")


@dataclass(frozen=True)
class Guard:
    """Limits after which a run stops: non-finite updates, hangs, lost hosts."""

    nonfinite_limit: int = 8  # consecutive skipped updates that stop the run
    hang_seconds: int = 1800  # without a finished step until the run counts as hung
    heartbeat_seconds: int = 60  # without a heartbeat from a host until the others stop

    def __post_init__(self) -> None:
        require_positive("guard.", self, "nonfinite_limit", "hang_seconds", "heartbeat_seconds")


@dataclass(frozen=True)
class Experiment:
    """An experiment: model, data, optimizer and the settings of the run."""

    model: Model
    data: Denoising | Supervised
    optimizer: Optimizer
    steps: int
    batch_size: int  # rows per step, over all devices and micro-batches
    microbatches: int = 1  # number over which a step's gradient is accumulated
    seed: int = 0
    average_decay: float | None = None  # decay of a moving average of the parameters, which is then evaluated
    init: str | None = None  # trained weights to start from, in any known format; None: the model's, or random ones
    init_fresh: tuple[str, ...] = ()  # patterns of whole parameter paths to initialise randomly despite `init`
    loss: Loss = Loss()
    mesh: Mesh = Mesh()
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpoint = Checkpoint()
    report: Report = field(default_factory=Report)
    profile: Profile | None = None
    guard: Guard = Guard()
    distil: Distil | None = None  # a teacher, whose distributions are targets beside the tokens

    def __post_init__(self) -> None:
        require_positive("", self, "steps", "batch_size", "microbatches")
        require(0 <= self.seed < 2**32, f"seed is {self.seed}: it must lie in [0, 2**32), the range of a JAX key.")
        decay = self.average_decay
        require(decay is None or 0 < decay < 1, f"average_decay is {decay}: it must be None, or between 0 and 1.")
        require(self.weights is not None or not self.init_fresh, "init_fresh needs init: set both, or neither.")
        size, parts = self.batch_size, self.microbatches
        require(size % parts == 0, f"microbatches is {parts}: it must divide batch_size, which is {size}.")
        self._check_evaluation()
        self._check_prompt()
        if self.distil is not None:
            self.distil.check(self.model)
        data = self.data
        check_stored(self.model, self.init, data.tokenizer, self.evaluation.generation, bool(self.init_fresh))
        object.__setattr__(self, "data", filled(data, self.model))

    @property
    def weights(self) -> str | None:
        """The path of the trained weights that the run starts from; None for random ones."""
        return self.model.path if isinstance(self.model, Pretrained) else self.init

    @property
    def generation(self) -> Generation | None:
        """The settings of decoding in evaluations; None if there is no decoding."""
        chosen = self.evaluation.generation
        if not isinstance(chosen, ModelGeneration):
            return chosen
        assert isinstance(self.model, Pretrained)
        assert isinstance(self.data, Supervised)
        stored, most = self.model.generation or Generation(max_length=LONGEST), self.data.target_length
        most, least = min(stored.max_length, most), min(stored.min_length, most)
        return replace(stored, max_length=most, min_length=least, outputs=1)

    def _check_prompt(self) -> None:
        if self.model.prompt:
            message = "model.adapter has a prompt, which precedes the sources of examples: data must be Supervised"
            require(
                isinstance(self.data, Supervised) and self.data.unlabelled is None, f"{message}, without unlabelled."
            )
            source_room(self.model.prompt, self.data.input_length, "data.input_length")

    def _check_evaluation(self) -> None:
        evaluation, tasks = self.evaluation, isinstance(self.data, Supervised)
        decodes = evaluation.generation is not None
        require(tasks or not decodes, "evaluation.generation needs Supervised data: with Denoising it must be None.")
        more = ", and with evaluation.generation those of the tasks" if tasks and not decodes else ""
        message = f"evaluation.best is {evaluation.best!r}: the metrics are {', '.join(self.scores)}{more}."
        require(evaluation.best in self.scores, message)
        message = f"evaluation.best is {evaluation.best!r}, which is better when lower: give another metric or"
        require(not evaluation.best.endswith(EDIT_RATE), f"{message} {TEACHER_FORCED[0]}.")

    @property
    def scores(self) -> tuple[str, ...]:
        """The names of the metrics of an evaluation."""
        if not isinstance(self.data, Supervised) or self.evaluation.generation is None:
            return TEACHER_FORCED
        return TEACHER_FORCED + tuple(
            f"{label}{name}"
            for label, task in labelled_tasks(self.data.tasks, "held_out")
            for name in score_names(task.metrics)
        )


def task_labels(tasks: tuple[Task, ...]) -> tuple[str, ...]:
    """Return the metric-name prefix of each task: "" for a single task, else the label of its examples, "multi30k/".

    A label that an earlier task has too gets a number.
    """
    if len(tasks) == 1:
        return ("",)
    plain = [task.examples.label for task in tasks]
    before = [plain[:index].count(name) for index, name in enumerate(plain)]
    return tuple(f"{name}{count + 1 if count else ''}/" for name, count in zip(plain, before, strict=True))


def labelled_tasks(tasks: tuple[Task, ...], split: Split) -> list[tuple[str, Task]]:
    """Return the tasks that have a split, each with its label among all. Raises ConfigError if none has."""
    having = tasks_in(tasks, split)
    return [(label, task) for label, task in zip(task_labels(tasks), tasks, strict=True) if task in having]
