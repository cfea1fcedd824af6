"""T5 v1.1 base pretrained on C4 for 65,536 steps of 128 rows: nanoT5's budget and optimizer.

Source: Nawrot, "nanoT5", arXiv:2309.02373, and its repository's default configuration: AdamW whose steps are scaled
by the RMS of each parameter, peak 0.02, 10,000 steps of warm-up from half of it, cosine to 1e-5, gradient norm clipped
at 1.
Published held-out negative log-likelihood: 1.953 (reference T5 v1.1 after as many tokens: 1.942). Two
differences matter when comparing: nanoT5 initializes its head with standard deviation 1, here it is width ** -0.5 as in
T5X; and nanoT5 keeps an EOS after every document, here documents follow one another without it, as in T5.

Command: python -m scripts.train experiments/t5/nanot5_base_c4.py --run_dir runs/nanot5_base_c4
Data: C4 by its TensorFlow Datasets name (about 750 GB; its builder needs Apache Beam), or the JSON lines that AllenAI
    publishes, with --config.data.corpora='[JSONLines("en/c4-train.*.json.gz", "en/c4-validation.*.json.gz")]'.
    T5's SentencePiece model: --config.data.tokenizer.path=PATH.
Hardware, time, result: not run yet (its authors: one A100, 10.2 hours).
"""

from research import (
    TFDS,
    Cosine,
    Denoising,
    Evaluation,
    Experiment,
    Loss,
    RMSScaledAdamW,
    SentencePiece,
    SpanCorruption,
)
from research.model import family


def get_config() -> Experiment:
    return Experiment(
        model=family.t5_v1_1("base"),
        data=Denoising(
            corpora=(TFDS("c4/en:3.1.0"),),
            tokenizer=SentencePiece("sentencepiece.model"),
            objective=SpanCorruption(noise_density=0.15, mean_span_length=3.0),
            input_length=512,
        ),
        optimizer=RMSScaledAdamW(
            schedule=Cosine(peak=2e-2, warmup=10_000, warmup_start=0.5, final=1e-5),
            clip_norm=1.0,
        ),
        loss=Loss(z_loss=0.0),
        steps=65_536,
        batch_size=128,
        evaluation=Evaluation(every=10_000, rows=16_384),
    )
