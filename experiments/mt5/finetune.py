"""mT5 base or any other mT5 fine-tuned and evaluated on many languages (Xue et al., arXiv:2010.11934, section 4).

Batches, steps and lengths are those of the authors' finetune_mt5_tasks.sh and sequence_lengths/*.gin
(github.com/google-research/multilingual-t5), texts those of its preprocessors.py. The paper gives Adafactor at the
constant rate 0.001, dropout 0.1 and checkpoints every 200 steps.

Sizes: a benchmark, trained on in English; with _translated also in translations, with
    _in_language in all languages.
    xnli    MultiNLI, evaluated on XNLI: 1024 rows of 1024 and 128 tokens, 8,000 steps
    pawsx    the English PAWS, evaluated on PAWS-X: 128 rows of 1024 and 128, 12,000 steps
    tydi_qa    TyDi QA's English gold passages, evaluated on all languages' validation data: 128 rows of 1024 and 512,
        8,000 steps
    xquad    SQuAD, its validation data held out, tested on XQuAD: as tydi_qa
    mlqa    SQuAD, evaluated on MLQA: 128 rows of 1024 and 512, 12,000 steps
    wikiann    entities in English sentences, evaluated on 40 languages: 64 rows of 1024 and 512 (wikiann_in_language:
        128); the script names no number of steps, 8,000 are chosen here
Commands: mt5-base is a Hugging Face directory. Scores are of each language, then their means; TyDi QA has no test.
    python -m scripts.train experiments/mt5/finetune.py:xnli --run_dir runs/xnli
    python -m scripts.train experiments/mt5/finetune.py:pawsx --run_dir runs/pawsx \
        --config.model='Pretrained("mt5-large", dropout=0.1)'
    python -m scripts.evaluate runs/xnli/checkpoints/best --split test
    python -c 'from research import language_means as m; print(m("runs/xnli/evaluations/test-8000/scores.json"))'
Published, zero-shot means over the languages (README of the repository): accuracy, accuracy, F1.

    mT5      XNLI  PAWS-X  XQuAD
    small    67.5    82.4   58.1
    base     75.4    86.4   67.0, and F1 59.1 on TyDi QA, 64.6 on MLQA
    large    81.1    88.9   77.8
    xl       82.9    89.6   79.5
    xxl      85.0    90.0   82.5

Differs: a checkpoint is chosen by English validation examples, 1,000 of each language are evaluated in training.
Hardware, modelled by python -m scripts.plan experiments/mt5/finetune.py:xquad --hardware 8xH100: at least 2 chip-hours,
    1 for wikiann, 2 for pawsx and tydi_qa, 9 for xnli, which needs --config.microbatches=4 there.
Time, result: not run yet.
"""

from typing import Literal

from research import (
    Adafactor,
    Checkpoint,
    Constant,
    Evaluation,
    Experiment,
    Generation,
    Mesh,
    ModelTokenizer,
    Pretrained,
    SentencePiece,
    Supervised,
    Task,
    equal_rates,
)
from research.data.tasks import multilingual
from research.model import family

MT5_BASE = Pretrained.like(
    family.mt5("base", dropout=0.1, attention_dropout=0.1, activation_dropout=0.1, output_dropout=0.1),
    path="mt5-base",
    tokenizer=SentencePiece("mt5-base/spiece.model", sentinels=0),
)


def finetuning(
    tasks: tuple[Task, ...], best: str, steps: int, length: int = 512, rows: int = 128, written: int | None = None
) -> Experiment:
    return Experiment(
        model=MT5_BASE,
        data=Supervised(
            tasks=tasks,
            tokenizer=ModelTokenizer(),
            input_length=1024,
            target_length=length,
            mixing=equal_rates(tasks),
        ),
        optimizer=Adafactor(schedule=Constant(peak=1e-3)),
        steps=steps,
        batch_size=rows,
        mesh=Mesh(data=-1),
        evaluation=Evaluation(
            every=200, generation=Generation(max_length=written or length), examples=1_000, best=best
        ),
        checkpoint=Checkpoint(every=200),
    )


def xnli(setting: multilingual.ZeroShot = "zero_shot") -> Experiment:
    return finetuning(multilingual.xnli(setting), "xnli/en/sequence_accuracy", 8_000, length=128, rows=1024)


def pawsx(setting: multilingual.ZeroShot = "zero_shot") -> Experiment:
    return finetuning(multilingual.pawsx(setting), "pawsx/en/accuracy", 12_000, length=128)


def wikiann(setting: Literal["zero_shot", "in_language"], rows: int) -> Experiment:
    return finetuning(multilingual.wikiann(setting), "wikiann/en/span_f1", 8_000, rows=rows, written=128)


SIZES = {
    "xnli": xnli(),
    "xnli_translated": xnli("translate_train"),
    "pawsx": pawsx(),
    "pawsx_translated": pawsx("translate_train"),
    "tydi_qa": finetuning(multilingual.tydi_qa(), "tydi_qa/en/f1", 8_000),
    "tydi_qa_translated": finetuning(multilingual.tydi_qa("translate_train"), "tydi_qa/en/f1", 8_000),
    "tydi_qa_in_language": finetuning(multilingual.tydi_qa("in_language"), "tydi_qa/en/f1", 8_000),
    "xquad": finetuning(multilingual.xquad(), "squad/f1", 8_000),
    "xquad_translated": finetuning(multilingual.xquad("translate_train"), "squad/f1", 8_000),
    "mlqa": finetuning(multilingual.mlqa(), "squad/f1", 12_000),
    "mlqa_translated": finetuning(multilingual.mlqa("translate_train"), "squad/f1", 12_000),
    "wikiann": wikiann("zero_shot", rows=64),
    "wikiann_in_language": wikiann("in_language", rows=128),
}


def get_config(
    size: Literal[
        "xnli",
        "xnli_translated",
        "pawsx",
        "pawsx_translated",
        "tydi_qa",
        "tydi_qa_translated",
        "tydi_qa_in_language",
        "xquad",
        "xquad_translated",
        "mlqa",
        "mlqa_translated",
        "wikiann",
        "wikiann_in_language",
    ] = "xnli",
) -> Experiment:
    return SIZES[size]
