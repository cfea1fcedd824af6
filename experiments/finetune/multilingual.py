"""mT5 base fine-tuned and evaluated on many languages, as its authors did (Xue et al., arXiv:2010.11934).

Commands: training; scores of each language, and their means. TyDi QA has no test: --split held_out.
    python -m scripts.train experiments/finetune/multilingual.py:xnli --run_dir runs/xnli
    python -m scripts.evaluate runs/xnli/checkpoints/best --split test
    python -c 'from research import language_means as m; print(m("runs/xnli/evaluations/test-8000/scores.json"))'
mt5-base is a Hugging Face directory: with another place, --config.model='Pretrained("DIR", dropout=0.1)'.
Sizes: a benchmark, trained on in English; with _translated, also in translations of that; tydi_qa_in_language: in all.
    xnli    MultiNLI, evaluated on XNLI: 1024 rows of 1024 and 128 tokens, 8,000 steps
    pawsx    the English PAWS, evaluated on PAWS-X: 128 rows of 1024 and 128, 12,000 steps
    tydi_qa    TyDi QA's English gold passages, evaluated on all languages' validation data: 128 rows of 1024 and 512,
        8,000 steps
    xquad    SQuAD, its validation data held out, tested on XQuAD: as tydi_qa
    mlqa    SQuAD, evaluated on MLQA: 128 rows of 1024 and 512, 12,000 steps
Lengths, tokens a batch and steps are those of finetune_mt5_tasks.sh and gin/sequence_lengths in mT5's repository; the
constant rate 0.001 and dropout 0.1 are of the paper, section 4.1.
Result: not run yet. mT5 base has 75.4 on XNLI, 86.4 on PAWS-X, and F1 59.1 on TyDi QA, 67.0 on XQuAD, 64.6 on MLQA, as
    means over the languages after English alone (the README of mT5's repository).
"""

from typing import Literal

from research import (
    Adafactor,
    Checkpoint,
    Constant,
    Evaluation,
    Experiment,
    Generation,
    ModelTokenizer,
    Pretrained,
    SentencePiece,
    Supervised,
    Task,
    equal_rates,
)
from research.data.tasks import multilingual
from research.model import family


def experiment(tasks: tuple[Task, ...], steps: int, target_length: int = 512, batch_size: int = 128) -> Experiment:
    return Experiment(
        model=Pretrained.like(
            family.mt5("base", dropout=0.1), path="mt5-base", tokenizer=SentencePiece("mt5-base/spiece.model")
        ),
        data=Supervised(
            tasks=tasks,
            tokenizer=ModelTokenizer(),
            input_length=1024,
            target_length=target_length,
            mixing=equal_rates(tasks),
        ),
        optimizer=Adafactor(schedule=Constant(peak=1e-3)),
        steps=steps,
        batch_size=batch_size,
        evaluation=Evaluation(every=200, generation=Generation(max_length=target_length), examples=200),
        checkpoint=Checkpoint(every=200),
    )


SIZES = {
    "xnli": experiment(multilingual.xnli(), 8_000, target_length=128, batch_size=1024),
    "xnli_translated": experiment(multilingual.xnli("translate_train"), 8_000, target_length=128, batch_size=1024),
    "pawsx": experiment(multilingual.pawsx(), 12_000, target_length=128),
    "pawsx_translated": experiment(multilingual.pawsx("translate_train"), 12_000, target_length=128),
    "tydi_qa": experiment(multilingual.tydi_qa(), 8_000),
    "tydi_qa_translated": experiment(multilingual.tydi_qa("translate_train"), 8_000),
    "tydi_qa_in_language": experiment(multilingual.tydi_qa("in_language"), 8_000),
    "xquad": experiment(multilingual.xquad(), 8_000),
    "xquad_translated": experiment(multilingual.xquad("translate_train"), 8_000),
    "mlqa": experiment(multilingual.mlqa(), 12_000),
    "mlqa_translated": experiment(multilingual.mlqa("translate_train"), 12_000),
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
    ] = "xnli",
) -> Experiment:
    return SIZES[size]
