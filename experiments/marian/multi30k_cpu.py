"""Captions translated from random weights on 2 CPU cores: Multi30k's tiny Transformer with a smaller vocabulary.

It is the model of multi30k_tiny.py on raw text, with 4,000 pieces instead of 10,000 and 2,048 tokens an update, because
on a CPU most of the work is the softmax over the vocabulary.

Commands:
    python -m scripts.train experiments/marian/multi30k_cpu.py --run_dir runs/multi30k_cpu --config.data.manual_dir=DIR
    python -m scripts.average runs/multi30k_cpu runs/multi30k_cpu_average --last 10
    python -m scripts.evaluate runs/multi30k_cpu_average --split test --generation.method='Beam(5)'
    Without manual_dir the files are downloaded. From German, or to French: multi30k_cpu.py:de_en and :en_fr.
Hardware, time, result: 2 cores of an Intel Xeon, 28 min beside some tests (commit 0bb6f25): sacreBLEU 37.06 and chrF
    60.75 on test2016, raw text, after 4,000 updates; the curve is in LOG.md. Of de_en, on one core of an AMD EPYC
    (commit 0ad0f263), 39.41 and 58.90; of en_fr there 55.47 and 72.23.
"""

from typing import Literal

from research import (
    AdamW,
    Checkpoint,
    Evaluation,
    Experiment,
    Generation,
    InverseSquareRoot,
    Loss,
    Report,
    Supervised,
    TFDSExamples,
    TrainedSentencePiece,
    Translation,
    Xavier,
)
from research.model import family


def get_config(direction: Literal["en_de", "de_en", "en_fr"] = "en_de") -> Experiment:
    return Experiment(
        model=family.marian("tiny", vocab_size=4_000, dropout=0.2, initial=Xavier(), compute="float32"),
        data=Supervised(
            tasks=(Translation(examples=TFDSExamples("multi30k"), source=direction[:2], target=direction[3:]),),
            tokenizer=TrainedSentencePiece(pieces=4_000, sentinels=0),
            input_length=64,
            target_length=64,
        ),
        loss=Loss(z_loss=0.0, label_smoothing=0.1, smoothing="marian"),
        optimizer=AdamW(
            schedule=InverseSquareRoot(peak=5e-3, timescale=1_000, warmup=1_000), b2=0.98, weight_decay=0.0
        ),
        steps=4_000,
        batch_size=32,
        evaluation=Evaluation(every=500, rows=256, generation=Generation(max_length=64), examples=256, best="bleu"),
        checkpoint=Checkpoint(every=100, keep=10),
        report=Report(every=20),
    )
