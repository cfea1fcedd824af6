"""Instruction tuning in FLAN's way: tasks in several phrasings, with options and exemplars, mixed at given rates.

Commands:
    python -m scripts.data experiments/flan/flan.py
    python -m scripts.train experiments/flan/flan.py --run_dir runs/flan
    python -m scripts.train experiments/flan/flan.py:xl --run_dir runs/flan_xl --config.model='Pretrained("DIR")'
Sizes:
    numbers    200 pairs of numbers (numbers.jsonl): the larger one, in the phrasings of larger.jsonl, an example for
        each; and their sum, with two exemplars. A model of 0.15 M parameters, from random weights
    xl    T5 1.1 XL, further trained as a language model (t5-xl-lm-adapt is a Hugging Face directory), on the five parts
        of FLAN 2022 as JSON lines with "inputs" and "targets", at the rates of its flan/v2/run_example.py: 0.4, 0.32,
        0.2, 0.05, 0.03. Rows of 2048 and 512 tokens (flan/v2/constants.py). As for Flan-T5 (Chung et al.,
        arXiv:2210.11416): Adafactor at a constant rate, packed; of its appendix's table, batch 64, dropout 0.05, rate
        5e-4 and 38,000 steps. These four were written from memory: compare them with the table before a long run
Hardware, time: of numbers, 2 CPU cores, under two minutes, most of it compiling.
Result: of numbers, held-out loss 1.196 nats after 200 steps, 35 % of the larger numbers right and 2.5 % of the sums, of
    which it learnt nothing (commit ae9633cc; LOG.md). The size xl was not run.
"""

from typing import Literal

from research import (
    Adafactor,
    AdamW,
    Bytes,
    Checkpoint,
    Constant,
    Evaluation,
    Experiment,
    FewShot,
    Generation,
    Instructions,
    JSONExamples,
    Mixing,
    Model,
    ModelTokenizer,
    Pretrained,
    Report,
    SentencePiece,
    Supervised,
    TextToText,
)
from research.model import family

NUMBERS = JSONExamples("experiments/flan/numbers.jsonl", "experiments/flan/numbers_held_out.jsonl")
PARTS = {"flan2021": 0.4, "t0": 0.32, "niv2": 0.2, "cot": 0.05, "dialog": 0.03}

SIZES = {
    "numbers": Experiment(
        model=Model(400, 64, 2, 32, 128, 1, 1, compute="float32"),
        data=Supervised(
            tasks=(
                Instructions(examples=NUMBERS, templates="experiments/flan/larger.jsonl", chosen="each"),
                Instructions(
                    examples=FewShot(NUMBERS, shots=2, form="Q: {source}\nA: {target}\n\n"),
                    templates=(("{first} + {second}", "{sum}"), ("Add {first} to {second}.", "{sum}")),
                ),
            ),
            tokenizer=Bytes(),
            input_length=192,
            target_length=48,
            mixing=Mixing(rates=(2.0, 1.0)),
        ),
        optimizer=AdamW(schedule=Constant(peak=3e-3, warmup=10)),
        steps=200,
        batch_size=16,
        evaluation=Evaluation(every=100, rows=16, generation=Generation(max_length=16), examples=50),
        checkpoint=Checkpoint(every=100),
        report=Report(every=20),
    ),
    "xl": Experiment(
        model=Pretrained.like(
            family.t5_v1_1("xl", dropout=0.05),
            path="t5-xl-lm-adapt",
            tokenizer=SentencePiece("t5-xl-lm-adapt/spiece.model"),
        ),
        data=Supervised(
            tasks=tuple(
                TextToText(examples=JSONExamples(f"flan/{part}.*.jsonl.gz"), source="inputs", target="targets")
                for part in PARTS
            ),
            tokenizer=ModelTokenizer(),
            input_length=2048,
            target_length=512,
            mixing=Mixing(rates=tuple(PARTS.values())),
        ),
        optimizer=Adafactor(schedule=Constant(peak=5e-4)),
        steps=38_000,
        batch_size=64,
        evaluation=Evaluation(every=2_000),
        checkpoint=Checkpoint(every=2_000),
    ),
}


def get_config(size: Literal["numbers", "xl"] = "numbers") -> Experiment:
    return SIZES[size]
