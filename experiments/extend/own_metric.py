"""A new metric: the variety of a model's summaries, in addition to ROUGE.

Command: python -m scripts.train experiments/extend/own_metric.py --run_dir runs/own_metric
Hardware, time: 2 CPU cores, two minutes, half of them for reading Python's documentation once.
Result: not run yet, as it is an example; tests/extend/test_own_metric.py trains a few steps of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from research import (
    ROUGE,
    AdamW,
    Bytes,
    Checkpoint,
    Constant,
    Evaluation,
    Experiment,
    Generation,
    Metric,
    Model,
    Report,
    Summarization,
    Supervised,
    TFDSExamples,
)


@dataclass(frozen=True)
class Distinct(Metric):
    """Distinct n-grams as a percentage of all n-grams in the outputs (Li et al., arXiv:1510.03055).

    The score is that of all outputs together, so the class has `score`. A mean over examples would have `score_example`
    instead.
    """

    order: int = 2

    @property
    def names(self) -> tuple[str, ...]:
        return (f"distinct{self.order}",)

    def score(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
        grams = [gram for prediction in predictions for gram in self._grams(prediction.split())]
        return {self.names[0]: 100 * len(set(grams)) / max(1, len(grams))}

    def _grams(self, words: list[str]) -> list[tuple[str, ...]]:
        return list(zip(*(words[start:] for start in range(self.order)), strict=False))


def get_config() -> Experiment:
    return Experiment(
        model=Model(400, 64, 2, 32, 128, 1, 1, compute="float32"),
        data=Supervised(
            tasks=(
                Summarization(
                    examples=TFDSExamples("python_docs/summaries"), source="function", metrics=(ROUGE(), Distinct())
                ),
            ),
            tokenizer=Bytes(),
            input_length=256,
            target_length=96,
        ),
        optimizer=AdamW(schedule=Constant(peak=3e-3, warmup=10)),
        steps=200,
        batch_size=16,
        evaluation=Evaluation(every=100, rows=64, generation=Generation(max_length=48), examples=32, best="distinct2"),
        checkpoint=Checkpoint(every=100),
        report=Report(every=20),
    )
