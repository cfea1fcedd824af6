"""A small mBART learns six languages from the book of Genesis in each, in minutes on 2 CPU cores.

Paper: Liu et al., arXiv:2001.08210; the objective is that of cc25.py beside this file. The vocabulary is trained on the
text and includes the language codes.
Command: python -m scripts.train experiments/mbart/small_genesis.py --run_dir runs/mbart_small
Data: plain text, a verse a line, as genesis/LANGUAGE.train.txt and genesis/LANGUAGE.held_out.txt. To hold out the last
    200 lines of a file of NLTK's corpus "genesis":
    head -n -200 german.txt > genesis/de_DE.train.txt; tail -n 200 german.txt > genesis/de_DE.held_out.txt
    For other paths or languages: --config.data.corpora='[PlainText("PATH/de.train.txt",
    "PATH/de.held_out.txt", "file", language="de_DE"), ...]', and for other codes
    --config.data.tokenizer.languages='["de_DE", ...]'.
Result: held-out loss 3.325 nats a target token, accuracy 36.1 %; on one NVIDIA H200, shared with a
    dozen other runs (commit 5db4c41; the curve is in LOG.md).
"""

from research import (
    BART,
    AdamW,
    Checkpoint,
    Denoising,
    Evaluation,
    Experiment,
    Learned,
    Linear,
    Loss,
    Mixing,
    PlainText,
    Report,
    TextInfilling,
    TrainedSentencePiece,
)
from research.model import family

LANGUAGES = ("de_DE", "en_XX", "fi_FI", "fr_XX", "pt_XX", "sv_SE")


def get_config() -> Experiment:
    return Experiment(
        model=family.mbart(
            "large",
            vocab_size=4008,
            width=128,
            heads=4,
            head_width=32,
            feed_forward=512,
            encoder_layers=2,
            decoder_layers=2,
            positions=Learned(64),
            dropout=0.0,
            compute="float32",
            unroll=2,
        ),
        data=Denoising(
            corpora=tuple(
                PlainText(f"genesis/{code}.train.txt", f"genesis/{code}.held_out.txt", "file", language=code)
                for code in LANGUAGES
            ),
            tokenizer=TrainedSentencePiece(pieces=4000, sentinels=0, languages=LANGUAGES),
            objective=BART(TextInfilling(noise_density=0.35, poisson_mean=3.5), sentence_ends=()),
            input_length=64,
            eos_after_lines=True,
            mixing=Mixing(temperature=1 / 0.7),
        ),
        optimizer=AdamW(
            schedule=Linear(peak=2e-3, warmup=200), clip_norm=1.0, weight_decay=0.01, b2=0.98, epsilon=1e-6
        ),
        loss=Loss(z_loss=0.0),
        steps=3000,
        batch_size=16,
        evaluation=Evaluation(every=500, rows=512),
        checkpoint=Checkpoint(every=500),
        report=Report(every=20),
    )
