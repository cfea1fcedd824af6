"""A small T5 learns UL2's seven denoisers at once on Python's own documentation, in minutes on 2 CPU cores.

Paper: Tay et al., arXiv:2205.05131, table 1.
Command: python -m scripts.train experiments/t5/ul2_small_python_docs.py --run_dir runs/ul2_small
To compare with a single objective: --config.data.objective='PrefixLM()', 'SpanCorruption()', 'ReplaceSpans()',
    'BERTStyle()', 'MASSStyle()', 'DropTokens()', 'Deshuffling()' or 'LanguageModelling()'. Losses of
    different targets cannot be compared.
Result: held-out loss 3.967 nats a target token, of all seven denoisers; on one NVIDIA H200, shared with a
    dozen other runs (commit 5db4c41; the curve is in LOG.md).
"""

from dataclasses import replace

from research import TFDS, UL2, Denoising, Experiment, TrainedSentencePiece

from .. import quickstart

QUICKSTART = quickstart.get_config()


def get_config() -> Experiment:
    return replace(
        QUICKSTART,
        data=Denoising(
            corpora=(TFDS("python_docs"),),
            tokenizer=TrainedSentencePiece(pieces=2048),
            objective=UL2(regular="[R]", extreme="[X]", sequential="[S]"),
            input_length=128,
        ),
    )
