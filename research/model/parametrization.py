"""How a model changes with its width: not at all but by its initial values, or as muP has it.

muP, the maximal update parametrization (Yang et al., arXiv:2203.03466), is what lets every layer learn as much at every
step, however wide it is, and so one learning rate serve all widths. Here it is the paper's table 8, of sizes over those
of a base model, at which nothing changes. With r for how many times as many features a matrix reads as in the base:

                                     initial deviation   learning rate   learning rate,       what it gives
                                                         of AdamW        steps scaled by RMS  is multiplied by
hidden: attention, feed-forward      r ** -0.5           1 / r           r ** -0.5
scores                                                                                        1 / growth of a head
head, of its own or tied             1                   1               1                    1 / growth of the width
embeddings, norms, biases            1                   1               1

Adafactor and RMS-scaled AdamW move a matrix in proportion to its root mean square, which is narrower by r ** -0.5
already. All else that a formula takes from the width (T5's deviation of a head, its scaling of a tied one, Marian's
scaling of embeddings) it takes from the base's.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

import jax

from research.config import Model, Standard, Tied, require

Tree = dict[str, Any]  # nested; the leaves are arrays
Side = Literal["width", "attention_width", "feed_forward"]  # the fields of a model by which a matrix can be wider

# What each hidden matrix reads.
READS: tuple[tuple[str, Side], ...] = (
    (r"_attention/(query|key|value)/weight$", "width"),
    (r"_attention/output/weight$", "attention_width"),
    (r"feed_forward/(gate|up)/weight$", "width"),
    (r"feed_forward/down/weight$", "feed_forward"),
)


def growth(config: Model, side: Side) -> float:
    """How many times as wide as the base: 1 where the parametrization is standard."""
    return getattr(config, side) / getattr(config.base, side)


def growths(config: Model, paths: Iterable[str]) -> dict[str, float]:
    """Of what each parameter reads where it is a hidden matrix, else 1."""
    sides = {path: [side for pattern, side in READS if re.search(pattern, path)] for path in paths}
    return {path: growth(config, found[0]) if found else 1.0 for path, found in sides.items()}


def score_scale(config: Model) -> float:
    """What queries are multiplied by."""
    base = config.base.head_width
    return (base**-0.5 if config.scaled_scores else 1.0) * base / config.head_width


def head_scale(config: Model) -> float:
    """What the head's input is multiplied by."""
    match config.head:
        case Tied(scaled=True):
            standard = config.base.width**-0.5
        case _:
            standard = 1.0
    return standard / growth(config, "width")


def as_standard(config: Model, params: Tree) -> tuple[Model, Tree]:
    """The same model in the standard parametrization, whose weights have the multipliers in them.

    Raises:
        ConfigError: the head is tied, so that a multiplier of its own has no place.
    """
    if config.base == config:
        return config, params
    tied = isinstance(config.head, Tied) and config.base.width != config.width
    require(not tied, "Of a tied head, muP's multiplier of logits has no place in weights: train with head=Separate().")
    standard = replace(config, parametrization=Standard())
    of_scores = score_scale(config) / score_scale(standard)
    of_table = (config.base.width / config.width) ** 0.5 if config.scaled_embedding else 1.0

    def scaled(path: tuple[Any, ...], leaf: Any) -> Any:
        names = [key.key for key in path]
        if "query" in names:
            return leaf * of_scores
        if names[-1] in ("embedding", "source_embedding"):
            return leaf * of_table
        return leaf * head_scale(config) if names == ["head"] else leaf

    return standard, jax.tree_util.tree_map_with_path(scaled, params)
