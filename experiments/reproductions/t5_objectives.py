"""The ablations of the objective in T5's tables 4 to 7: thirteen objectives, each used to pretrain T5 base on C4.

Paper: Raffel et al., arXiv:1910.10683, sections 3.1 (the setting) and 3.3 (the objectives): 223 M parameters, 2**19
steps of 128 rows of 512 tokens, Adafactor with the inverse square root schedule, dropout 0.1; then 2**18 steps of
fine-tuning on each task with a learning rate of 0.001. The published scores are GLUE, CNN/DM (ROUGE-2), SQuAD (EM),
SuperGLUE, and BLEU of WMT English to German, French, Romanian:

    table  objective                 GLUE   CNNDM  SQuAD  SGLUE  EnDe   EnFr   EnRo
    4      prefix language model     80.69  18.94  77.99  65.27  26.86  39.73  27.49
    4, 5   BERT-style                82.96  19.17  80.65  69.85  26.78  40.03  27.41
    4      deshuffling               73.17  18.59  67.61  58.47  26.11  39.30  25.62
    5      MASS-style                82.32  19.16  80.10  69.28  26.79  39.89  27.55
    5-7    replace spans, 15 %       83.28  19.24  80.88  71.36  26.98  39.82  27.65    the baseline
    5      drop tokens               84.44  19.31  80.52  68.67  27.07  39.76  27.82
    6      10 %                      82.82  19.00  80.38  69.55  26.87  39.28  27.44
    6      25 %                      83.00  19.54  80.96  70.48  27.04  39.83  27.47
    6      50 %                      81.27  19.32  79.80  70.33  27.01  39.90  27.49
    7      spans of mean length 2    83.54  19.39  82.09  72.20  26.76  39.99  27.63
    7      3                         83.49  19.62  81.84  72.53  26.86  39.65  27.62
    7      5                         83.40  19.24  82.05  72.23  26.88  39.40  27.53
    7      10                        82.85  19.33  81.84  70.44  26.79  39.49  27.69

The numbers are those of two public conversions of the paper. The paper's baseline varied between ten runs with a
standard deviation of 0.235 (GLUE), 0.065, 0.343, 0.416, 0.112, 0.090 and 0.108 (its table 1).

Commands:
    python -m scripts.sweep experiments/reproductions/t5_objectives.py --dir sweeps/t5_objectives --hardware v5p-64
    python -m scripts.sweep experiments/reproductions/t5_downstream.py --dir sweeps/t5_objectives_downstream \
        --from sweeps/t5_objectives
Data: C4 by its TensorFlow Datasets name (about 750 GB; its builder needs Apache Beam), or the JSON lines that AllenAI
    publishes, with --config.data.corpora='[JSONLines("en/c4-train.*.json.gz", "en/c4-validation.*.json.gz")]'.
    T5's SentencePiece model: --config.data.tokenizer.path=PATH.
Hardware, time, result: not run yet; t5_objectives_small.py beside this file, the small version, was run.
"""

from collections.abc import Iterable
from typing import Any

from research import (
    TFDS,
    Adafactor,
    BERTStyle,
    Checkpoint,
    Denoising,
    Deshuffling,
    DropTokens,
    Evaluation,
    Experiment,
    InverseSquareRoot,
    MASSStyle,
    Mesh,
    PrefixLM,
    Published,
    ReplaceSpans,
    SentencePiece,
    SpanCorruption,
    chain,
    grid,
)
from research.model import family


def get_config() -> Experiment:
    return Experiment(
        model=family.t5("base"),
        data=Denoising(
            corpora=(TFDS("c4/en:2.2.0"),),
            tokenizer=SentencePiece("sentencepiece.model"),
            objective=ReplaceSpans(noise_density=0.15),
            input_length=512,
        ),
        optimizer=Adafactor(schedule=InverseSquareRoot(peak=0.01, timescale=10_000)),
        steps=2**19,
        batch_size=128,
        mesh=Mesh(data=-1),
        evaluation=Evaluation(every=10_000, rows=16_384),
        checkpoint=Checkpoint(every=5_000),
    )


def sweep() -> Iterable[dict[str, Any]]:
    rates = grid({"data.objective": [ReplaceSpans(density) for density in (0.15, 0.1, 0.25, 0.5)]})
    spans = grid({"data.objective": [SpanCorruption(0.15, length) for length in (2.0, 3.0, 5.0, 10.0)]})
    others = grid({"data.objective": [PrefixLM(), BERTStyle(), MASSStyle(), DropTokens(), Deshuffling()]})
    return chain(rates, spans, others)


def published() -> Iterable[Published]:
    baseline = ({"data.objective": ReplaceSpans(0.15)}, (83.28, 19.24, 80.88, 71.36, 26.98, 39.82, 27.65))
    bert_style = ({"data.objective": BERTStyle()}, (82.96, 19.17, 80.65, 69.85, 26.78, 40.03, 27.41))
    tables = {
        "table 4": (
            ({"data.objective": PrefixLM()}, (80.69, 18.94, 77.99, 65.27, 26.86, 39.73, 27.49)),
            bert_style,
            ({"data.objective": Deshuffling()}, (73.17, 18.59, 67.61, 58.47, 26.11, 39.30, 25.62)),
        ),
        "table 5": (
            bert_style,
            ({"data.objective": MASSStyle()}, (82.32, 19.16, 80.10, 69.28, 26.79, 39.89, 27.55)),
            baseline,
            ({"data.objective": DropTokens()}, (84.44, 19.31, 80.52, 68.67, 27.07, 39.76, 27.82)),
        ),
        "table 6": (
            ({"data.objective": ReplaceSpans(0.1)}, (82.82, 19.00, 80.38, 69.55, 26.87, 39.28, 27.44)),
            baseline,
            ({"data.objective": ReplaceSpans(0.25)}, (83.00, 19.54, 80.96, 70.48, 27.04, 39.83, 27.47)),
            ({"data.objective": ReplaceSpans(0.5)}, (81.27, 19.32, 79.80, 70.33, 27.01, 39.90, 27.49)),
        ),
        "table 7": (
            baseline,
            ({"data.objective": SpanCorruption(0.15, 2.0)}, (83.54, 19.39, 82.09, 72.20, 26.76, 39.99, 27.63)),
            ({"data.objective": SpanCorruption(0.15, 3.0)}, (83.49, 19.62, 81.84, 72.53, 26.86, 39.65, 27.62)),
            ({"data.objective": SpanCorruption(0.15, 5.0)}, (83.40, 19.24, 82.05, 72.23, 26.88, 39.40, 27.53)),
            ({"data.objective": SpanCorruption(0.15, 10.0)}, (82.85, 19.33, 81.84, 70.44, 26.79, 39.49, 27.69)),
        ),
    }
    scores = ("GLUE", "CNNDM", "SQuAD", "SGLUE", "EnDe", "EnFr", "EnRo")
    return [Published(f"Raffel et al., arXiv:1910.10683, {name}", scores, rows) for name, rows in tables.items()]
