"""An optimizer of one's own: Lion (Chen et al., arXiv:2302.06675), which is optax's, with what it needs for muP.

Clipping, weight decay, frozen parameters and the schedule are the base class's; its momentum is sharded as the
parameters are and saved in checkpoints.

Command: python -m scripts.train experiments/extend/own_optimizer.py --run_dir runs/lion
    Another rate: --config.optimizer='Lion(schedule=Constant(peak=1e-3))'
Hardware, time: not run yet for a result of note; 45 s on 2 cores of an Intel Xeon, most of it compiling.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from research import (
    TFDS,
    Bytes,
    Checkpoint,
    Cosine,
    Denoising,
    Evaluation,
    Experiment,
    Model,
    Optimizer,
    Parameter,
    Report,
)


@dataclass(frozen=True, kw_only=True)
class Lion(Optimizer):
    """The sign of a momentum as the step."""

    b1: float = 0.9
    b2: float = 0.99

    scales_by_growth: ClassVar[bool] = True

    def transformation(self, rate: Any, parameters: Mapping[str, Parameter]) -> Any:
        import optax

        from research.train.transformations import scale_by_growth

        # optax.lion(rate, self.b1, self.b2, weight_decay=0.0) is the same, without muP.
        direction = optax.scale_by_lion(self.b1, self.b2)
        return optax.chain(direction, scale_by_growth(parameters, -1.0, rate), optax.scale(-1.0))


def get_config() -> Experiment:
    return Experiment(
        model=Model(400, 64, 2, 32, 128, 1, 1, compute="float32"),
        data=Denoising((TFDS("python_docs"),), Bytes(), input_length=64),
        optimizer=Lion(schedule=Cosine(peak=3e-4, warmup=20), weight_decay=0.3, clip_norm=1.0),
        steps=200,
        batch_size=16,
        evaluation=Evaluation(every=100, rows=64),
        checkpoint=Checkpoint(every=100),
        report=Report(every=20),
    )
