"""HPLT's monolingual T5, pretrained on the jsonl.zst files of one language: base, or another size of its code.

Source: the encoder-decoder code of HPLT's work package 4 (github.com/hplt-project/HPLT-WP4, commit 4749f45), with which
57 base models were trained for 31,250 steps, 45 rows on each of 128 devices. From it: sizes, vocabulary of 50,000, rows
of 510 tokens, 15 % noise in spans of 3 tokens; LAMB at 2e-3, betas 0.9 and 0.98, decay 0.1 of matrices other than the
embedding; warm-up of 0.4 % of the steps, cosine to a tenth, gradient norm clipped at 2.
Different here: the model is T5 v1.1, theirs has LTG-BERT's layers (disentangled attention, norms on both sides); spans
are T5's, theirs have geometric lengths and overlap; documents follow one another and each token is read once an epoch,
theirs are cut into windows that overlap by half; the vocabulary is SentencePiece's BPE, theirs WordPiece over bytes;
runs of more than 8 equal characters are not shortened.

Command: python -m scripts.train experiments/hplt/t5.py:base --run_dir runs/hplt_nob \
        --config.data.corpora='[JSONLines("nob_Latn/*.jsonl.zst")]'
    Prepare the text first, on many machines: python -m scripts.prepare experiments/hplt/t5.py --shard 3/16
Data: the files of a language of HPLT 3.0 (hplt-project.org/datasets), as they are published.
Hardware: theirs were 128 AMD MI250X dies; python -m scripts.plan experiments/hplt/t5.py --hardware 32xH200 estimates.
Time, result: not run yet.
"""

from typing import Literal

from research import (
    LAMB,
    Checkpoint,
    Cosine,
    Denoising,
    Evaluation,
    Experiment,
    JSONLines,
    Loss,
    SpanCorruption,
    TrainedSentencePiece,
)
from research.model import family

SIZES = {
    "small": {"width": 384, "heads": 6, "feed_forward": 1024},
    "base": {},
    "large": {"width": 1024, "heads": 16, "feed_forward": 2730, "encoder_layers": 24, "decoder_layers": 24},
}


def get_config(size: Literal["small", "base", "large"] = "base") -> Experiment:
    return Experiment(
        model=family.t5_v1_1("base", vocab_size=50_000, **SIZES[size]),
        data=Denoising(
            corpora=(JSONLines("nob_Latn/*.jsonl.zst"),),
            tokenizer=TrainedSentencePiece(pieces=49_900, algorithm="bpe"),  # and 100 sentinels
            objective=SpanCorruption(noise_density=0.15, mean_span_length=3.0),
            input_length=460,  # of 510 raw tokens
        ),
        optimizer=LAMB(
            schedule=Cosine(peak=2e-3, warmup=125, final=2e-4),
            weight_decay=0.1,
            no_decay=("norm", "bias", "embedding"),
            clip_norm=2.0,
        ),
        loss=Loss(z_loss=0.0),
        steps=31_250,
        batch_size=45 * 128,
        evaluation=Evaluation(every=3_125, rows=11_520),
        checkpoint=Checkpoint(every=625),
    )
