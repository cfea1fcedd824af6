"""The comparison of architectures in T5's table 2: encoder-decoder, shared, of half the depth, and decoder only.

Paper: Raffel et al., arXiv:1910.10683, section 3.2: the baseline of t5_objectives.py beside this file in five shapes,
pretrained by denoising or by language modelling (of the rest of a prefix, if the model reads a prefix). P is the number
of parameters of one stack of 12 layers, M the FLOPs of 12 + 12 layers. The published scores are GLUE, CNN/DM (ROUGE-2),
SQuAD (EM), SuperGLUE, and BLEU of WMT English to German, French, Romanian:

    architecture            objective  parameters  cost    GLUE   CNNDM  SQuAD  SGLUE  EnDe   EnFr   EnRo
    encoder-decoder         denoising      2P       M      83.28  19.24  80.88  71.36  26.98  39.82  27.65
    encoder-decoder, shared denoising       P       M      82.81  18.78  80.63  70.73  26.72  39.03  27.46
    encoder-decoder, 6 + 6  denoising       P       M/2    80.88  18.97  77.59  68.42  26.38  38.40  26.95
    language model          denoising       P       M      74.70  17.93  61.14  55.02  25.09  35.28  25.86
    prefix LM               denoising       P       M      81.82  18.61  78.94  68.11  26.43  37.98  27.39
    encoder-decoder         LM             2P       M      79.56  18.59  76.02  64.29  26.27  39.17  26.86
    encoder-decoder, shared LM              P       M      79.60  18.13  76.35  63.50  26.62  39.17  27.05
    encoder-decoder, 6 + 6  LM              P       M/2    78.67  18.26  75.32  64.06  26.13  38.42  26.89
    language model          LM              P       M      73.78  17.54  53.81  56.51  25.23  34.31  25.38
    prefix LM               LM              P       M      79.68  17.84  76.87  64.86  26.28  37.51  26.76

The paper leaves two points open. Here each of two stacks has its own table of relative biases and its own last norm,
even if their layers are shared; and a prefix LM counts distances in both directions, as an encoder does.

Commands:
    python -m scripts.sweep experiments/reproductions/t5_architectures.py --dir sweeps/t5_architectures \
        --hardware v5p-64
    python -m scripts.sweep experiments/reproductions/t5_downstream.py --dir sweeps/t5_architectures_downstream \
        --from sweeps/t5_architectures
Data: as in t5_objectives.py.
Hardware, time, result: not run yet; t5_architectures_small.py beside this file is the small version.
"""

from collections.abc import Iterable
from typing import Any

from research import (
    DecoderOnly,
    Experiment,
    LanguageModelling,
    PrefixLM,
    Published,
    ReplaceSpans,
    SeparateStacks,
    SharedLayers,
)

from . import t5_objectives


def get_config() -> Experiment:
    return t5_objectives.get_config()


def sweep() -> Iterable[dict[str, Any]]:
    return architectures(layers=12)


def published() -> Iterable[Published]:
    return [numbers(layers=12)]


def architectures(layers: int) -> list[dict[str, Any]]:
    """Return the rows of the table as overrides, for stacks of `layers` layers."""
    one_stack = [(DecoderOnly(causal=True), layers), (DecoderOnly(), layers)]
    shapes = [(SeparateStacks(), layers), (SharedLayers(), layers), (SeparateStacks(), layers // 2), *one_stack]
    return [
        {
            "model.stacks": stacks,
            "model.encoder_layers": count,
            "model.decoder_layers": count,
            "data.objective": LanguageModelling() if generative and stacks == DecoderOnly(causal=True) else objective,
        }
        for generative, objective in ((False, ReplaceSpans(0.15)), (True, PrefixLM()))
        for stacks, count in shapes
    ]


def numbers(layers: int) -> Published:
    values = (
        (83.28, 19.24, 80.88, 71.36, 26.98, 39.82, 27.65),
        (82.81, 18.78, 80.63, 70.73, 26.72, 39.03, 27.46),
        (80.88, 18.97, 77.59, 68.42, 26.38, 38.40, 26.95),
        (74.70, 17.93, 61.14, 55.02, 25.09, 35.28, 25.86),
        (81.82, 18.61, 78.94, 68.11, 26.43, 37.98, 27.39),
        (79.56, 18.59, 76.02, 64.29, 26.27, 39.17, 26.86),
        (79.60, 18.13, 76.35, 63.50, 26.62, 39.17, 27.05),
        (78.67, 18.26, 75.32, 64.06, 26.13, 38.42, 26.89),
        (73.78, 17.54, 53.81, 56.51, 25.23, 34.31, 25.38),
        (79.68, 17.84, 76.87, 64.86, 26.28, 37.51, 26.76),
    )
    scores = ("GLUE", "CNNDM", "SQuAD", "SGLUE", "EnDe", "EnFr", "EnRo")
    rows = tuple(zip(architectures(layers), values, strict=True))
    return Published("Raffel et al., arXiv:1910.10683, table 2", scores, rows)
