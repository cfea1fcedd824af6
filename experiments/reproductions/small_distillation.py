"""Distillation on captions: a teacher, and students with half of its layers, with and without the teacher's logits.

Papers: Hinton et al., arXiv:1503.02531 (the loss); Shleifer and Rush, arXiv:2010.13002 (students that begin with layers
    of the teacher). Smaller here: Marian's tiny model of 4 + 4 layers on Multi30k's 29,000 pairs, English to German,
    with 2,000 pieces. Students begin with the first and the last layer of each stack, and make 400 steps.
Commands:
    python -m scripts.train experiments/reproductions/small_distillation.py:teacher --run_dir runs/multi30k_teacher \
        --config.data.manual_dir=DIR
    python -m scripts.sweep experiments/reproductions/small_distillation.py:student --dir sweeps/distillation \
        --config.data.manual_dir=DIR
    python -m scripts.report sweeps/distillation
    Without manual_dir the files are downloaded. Both resume when they are repeated.
Hardware, time: 2 cores of an Intel Xeon that other work shared, 5 to 10 minutes a student.
Result: no gain: BLEU of 512 held-out pairs 25.40 with and 25.43 without the teacher's logits, means of three seeds; the
    teacher has 27.47. ../LOG.md says how it was trained.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

from research import (
    AdamW,
    Checkpoint,
    Distil,
    Evaluation,
    Experiment,
    Generation,
    Linear,
    Loss,
    ModelTokenizer,
    Pretrained,
    Report,
    SentencePiece,
    Supervised,
    TFDSExamples,
    TrainedSentencePiece,
    Translation,
    Xavier,
    grid,
    product,
    seeds,
)
from research.model import family

TEACHER = Experiment(
    model=family.marian("tiny", vocab_size=2_000, dropout=0.1, initial=Xavier(), compute="float32", unroll=4),
    data=Supervised(
        tasks=(Translation(examples=TFDSExamples("multi30k"), source="en", target="de"),),
        tokenizer=TrainedSentencePiece(pieces=2_000, sentinels=0),
        input_length=64,
        target_length=64,
    ),
    loss=Loss(z_loss=0.0, label_smoothing=0.1, smoothing="marian"),
    optimizer=AdamW(schedule=Linear(peak=3e-3, warmup=200), b2=0.98, weight_decay=0.0),
    steps=2_000,
    batch_size=32,
    evaluation=Evaluation(every=1_000, rows=256, generation=Generation(max_length=64), examples=512, best="bleu"),
    checkpoint=Checkpoint(every=200, keep=1),
    report=Report(every=50),
)
TRAINED = Pretrained.like(
    TEACHER.model,
    path="runs/multi30k_teacher",
    tokenizer=SentencePiece("runs/multi30k_teacher/tokenizer.model", sentinels=0),
    generation=TEACHER.generation,
)
SIZES = {
    "teacher": TEACHER,
    "student": replace(
        TEACHER,
        model=replace(TRAINED, encoder_kept=(0, 3), decoder_kept=(0, 3)),
        data=replace(TEACHER.data, tokenizer=ModelTokenizer()),
        distil=Distil(TRAINED),
        optimizer=AdamW(schedule=Linear(peak=1.5e-3, warmup=50), b2=0.98, weight_decay=0.0),
        steps=400,
        evaluation=replace(TEACHER.evaluation, every=400),
        checkpoint=Checkpoint(every=200, keep=1),
    ),
}


def get_config(size: Literal["teacher", "student"] = "student") -> Experiment:
    return SIZES[size]


def sweep() -> Iterable[dict[str, Any]]:
    return product(seeds(3), grid({"distil": (None, Distil(TRAINED))}))
