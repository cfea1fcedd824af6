"""HPLT's recipe in small, on two CPU cores: LAMB, and English texts as jsonl.zst files.

Command: python -m scripts.train experiments/hplt/small_texts.py --run_dir runs/hplt_small
Data: any texts as texts/*.jsonl.zst. These were NLTK's ABC news, inaugural and State of the Union addresses, and the
    test and validation parts of WikiText-2, each made by
    zcat abc.txt.gz | jq -cR 'select(test("[^ ]")) | {text: .}' | zstd -o texts/abc.jsonl.zst
Hardware, time: 2 cores of an Intel Xeon, which five other jobs shared: 47 min, 9 min of processor time.
Result: held-out loss 4.671 nats a target token, unigram entropy 5.746 (commit ffe3851). A second run that was killed
    six times ended with equal parameters, bit for bit.
"""

from dataclasses import replace

from research import (
    Checkpoint,
    Cosine,
    Denoising,
    Evaluation,
    Experiment,
    JSONLines,
    Report,
    TrainedSentencePiece,
)

from . import t5

BASE = t5.get_config("base")


def get_config() -> Experiment:
    return replace(
        BASE,
        model=replace(
            BASE.model,
            vocab_size=4_096,
            width=128,
            heads=2,
            feed_forward=384,
            encoder_layers=3,
            decoder_layers=3,
            compute="float32",
            unroll=3,
        ),
        data=Denoising(
            corpora=(JSONLines("texts/*.jsonl.zst"),),
            tokenizer=TrainedSentencePiece(pieces=3_996, algorithm="bpe"),
            input_length=115,  # of 127 raw tokens, as in base in proportion
        ),
        optimizer=replace(BASE.optimizer, schedule=Cosine(peak=1e-2, warmup=40, final=1e-3)),
        steps=600,
        batch_size=48,
        evaluation=Evaluation(every=200, rows=480),
        checkpoint=Checkpoint(every=100),
        report=Report(every=20),
    )
