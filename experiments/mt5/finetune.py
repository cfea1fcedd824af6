"""mT5's fine-tuning on XNLI, PAWS-X, XQuAD and TyDi QA, with mT5 base or any other mT5.

Paper: Xue et al., arXiv:2010.11934, section 4: constant rate 0.001, Adafactor, dropout 0.1, checkpoints every 200
steps, the best one on the validation set. Batches, steps and lengths are those of the authors' finetune_mt5_tasks.sh
and sequence_lengths/*.gin (github.com/google-research/multilingual-t5), texts those of its preprocessors.py.

Sizes:
    xnli, pawsx, xquad    zero-shot: training in English. Other languages are evaluated afterwards
    tydiqa    TyDi QA's GoldP in all of its languages
Commands: mt5-base is a Hugging Face directory.
    python -m scripts.train experiments/mt5/finetune.py:xquad --run_dir runs/mt5_xquad
    python -m scripts.train experiments/mt5/finetune.py:pawsx --run_dir runs/mt5_pawsx \
        --config.model='Pretrained("mt5-large")'
    Another language: python -m scripts.evaluate runs/mt5_xquad/checkpoints/best --split test \
        --task='QuestionAnswering(examples=TFDSExamples("xquad/de", test="train+validation+test"),
            text="spaced_unicode", metrics=[SQuAD("1.1")])'
Published, zero-shot means over the languages (README of the repository): accuracy, accuracy, F1.

    mT5      XNLI  PAWS-X  XQuAD
    small    67.5    82.4   58.1
    base     75.4    86.4   67.0
    large    81.1    88.9   77.8
    xl       82.9    89.6   79.5
    xxl      85.0    90.0   82.5

Differs: a checkpoint is chosen by English validation examples; the authors' mixtures also have the other languages'.
    XNLI's languages must be files with a premise, a hypothesis and a label, since TFDS nests them.
Hardware, modelled by python -m scripts.plan experiments/mt5/finetune.py:xquad --hardware 8xH100: at least 2 chip-hours,
    2 for pawsx and tydiqa, 9 for xnli, which needs --config.microbatches=4 there.
Time, result: not run yet.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from research import (
    Adafactor,
    Checkpoint,
    Classification,
    Constant,
    Evaluation,
    Examples,
    Experiment,
    Generation,
    LabelAccuracy,
    Mesh,
    Metric,
    ModelTokenizer,
    Pretrained,
    QuestionAnswering,
    SentencePiece,
    SQuAD,
    Supervised,
    Task,
    TFDSExamples,
)
from research.model import family

NUMBERS = ("0", "1", "2")  # entailment, neutral, contradiction
MEANINGS = ("different_meaning", "paraphrase")


@dataclass(frozen=True, kw_only=True)
class XNLI(Classification):
    """Entailment, whose labels are written as numbers."""

    word: ClassVar[str] = "xnli:"
    features: ClassVar[tuple[str, ...]] = ("premise", "hypothesis")
    labels: ClassVar[tuple[str, ...]] = ("entailment", "neutral", "contradiction")
    examples: Examples = TFDSExamples("multi_nli", held_out="validation_matched", test="validation_mismatched")
    metrics: tuple[Metric, ...] = (LabelAccuracy(NUMBERS),)

    def label(self, given: str) -> str:
        return NUMBERS[self.labels.index(super().label(given))]

    @property
    def identity(self) -> tuple[str, ...] | None:
        return (type(self).__name__, *NUMBERS)


@dataclass(frozen=True, kw_only=True)
class PAWS(Classification):
    """Paraphrases with words in another order."""

    word: ClassVar[str] = "paws"
    features: ClassVar[tuple[str, ...]] = ("sentence1", "sentence2")
    labels: ClassVar[tuple[str, ...]] = MEANINGS
    examples: Examples = TFDSExamples("paws_x_wiki/en")
    metrics: tuple[Metric, ...] = (LabelAccuracy(MEANINGS),)


def questions(examples: str) -> QuestionAnswering:
    return QuestionAnswering(examples=TFDSExamples(examples), text="spaced_unicode", metrics=(SQuAD("1.1"),))


MT5_BASE = Pretrained.like(
    family.mt5("base", dropout=0.1, attention_dropout=0.1, activation_dropout=0.1, output_dropout=0.1),
    path="mt5-base",
    tokenizer=SentencePiece("mt5-base/spiece.model", sentinels=0),
)


def finetuning(task: Task, length: int, rows: int, steps: int, best: str) -> Experiment:
    return Experiment(
        model=MT5_BASE,
        data=Supervised(tasks=(task,), tokenizer=ModelTokenizer(), input_length=1024, target_length=length),
        optimizer=Adafactor(schedule=Constant(peak=1e-3)),
        steps=steps,
        batch_size=rows,
        mesh=Mesh(data=-1),
        evaluation=Evaluation(every=200, generation=Generation(max_length=length), examples=50_000, best=best),
        checkpoint=Checkpoint(every=200),
    )


SIZES = {
    "xnli": finetuning(XNLI(), 128, rows=1024, steps=8_000, best="accuracy"),
    "pawsx": finetuning(PAWS(), 128, rows=128, steps=12_000, best="accuracy"),
    "xquad": finetuning(questions("squad"), 512, rows=128, steps=8_000, best="f1"),
    "tydiqa": finetuning(questions("tydi_qa/goldp"), 512, rows=128, steps=8_000, best="f1"),
}


def get_config(size: Literal["xnli", "pawsx", "xquad", "tydiqa"] = "xquad") -> Experiment:
    return SIZES[size]
