"""The parametrization: how initial values, multipliers and learning rates depend on the width, standard or by muP.

muP, the maximal update parametrization (Yang et al., arXiv:2203.03466), keeps the size of every layer's updates
independent of the width, so that one learning rate serves all widths. This is the paper's table 8, with sizes relative
to those of a base model, for which nothing changes. r is the number of features that a matrix reads over that of the
base:

                                     initial deviation   learning rate   learning rate,       multiplier of
                                                         of AdamW        steps scaled by RMS  the output
hidden: attention, feed-forward      r ** -0.5           1 / r           r ** -0.5
scores                                                                                        1 / growth of a head
head, untied or tied                 1                   1               1                    1 / growth of the width
tables, norms, biases                1                   1               1

Adafactor and RMS-scaled AdamW update a matrix in proportion to its root mean square, which is already smaller by
r ** -0.5, as is the lower bound that they put on it. All other formulas that use the width (T5's deviation of a head,
its scaling of a tied head, Marian's scaling of embeddings) use the base's width.

Weight decay is the same at every width, as in the authors' MuAdamW. So are clip_norm, Adam's epsilon and Adafactor's
min_factored. A gradient's entries shrink as the model widens, so an epsilon must stay far below them; and if
min_factored factors the wide matrices, it should factor the base's too.
"""

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from research.config import Model, SharedLayers, Standard, Tied, UntiedHead, require

Tree = dict[str, Any]  # nested; the leaves are arrays
# The fields of a model that grow, by the letter of their axis in the parameters' table.
SIZES = {"d": "width", "h": "heads", "k": "head_width", "f": "feed_forward"}


def features(config: Model, axes: str) -> int:
    """Multiply the sizes of the axes; a letter that is not in SIZES counts as 1."""
    return math.prod(getattr(config, SIZES[axis]) for axis in axes if axis in SIZES)


def growth(config: Model, axes: str) -> float:
    """Return the features of the axes over those of the base model; 1 if the parametrization is standard."""
    return features(config, axes) / features(config.base, axes)


def score_scale(config: Model) -> float:
    """Return the multiplier of the queries."""
    base = config.base.head_width
    return (base**-0.5 if config.scaled_scores else 1.0) * base / config.head_width


def head_scale(config: Model) -> float:
    """Return the multiplier of the head's input."""
    match config.head:
        case Tied(scaled=True):
            standard = config.base.width**-0.5
        case _:
            standard = 1.0
    return standard / growth(config, "d")


def embedding_scale(config: Model) -> float:
    """Return the multiplier of embeddings."""
    return config.base.width**0.5 if config.scaled_embedding else 1.0


def standard_model(config: Model) -> Model:
    """Return the model with the standard parametrization, whose weights can express the same function.

    Raises:
        ConfigError: no weight can absorb the multiplier of the logits.
    """
    shared = (
        isinstance(config.stacks, SharedLayers) and not config.norm_first and not isinstance(config.head, UntiedHead)
    )
    message = "With SharedLayers, a tied head and norm_first=False, no weight can absorb muP's multiplier of logits."
    require(not shared or growth(config, "d") == 1.0, message)
    return replace(config, parametrization=Standard())


def as_standard(config: Model, params: Tree) -> Tree:
    """Fold muP's multipliers into the weights for `standard_model`: into queries, tables, and the head or its norm."""
    standard = standard_model(config)
    of_scores = score_scale(config) / score_scale(standard)
    of_logits = head_scale(config) / head_scale(standard)
    of_tables = (config.base.width / config.width) ** 0.5 if config.scaled_embedding else 1.0
    of_norm = 1.0 if isinstance(config.head, UntiedHead) else of_logits / of_tables
    last_norm = "decoder/norm/" if config.norm_first else "decoder/layers/feed_forward_norm/"

    def scaled(path: tuple[Any, ...], leaf: Any) -> Any:
        name = "/".join(key.key for key in path)
        if "/query/" in name:
            return leaf * of_scores
        if name in ("embedding", "source_embedding"):
            return leaf * of_tables
        if name.startswith(last_norm):
            last = True if config.norm_first else (jnp.arange(len(leaf)) == len(leaf) - 1)[:, None]
            return jnp.where(last, leaf * of_norm, leaf)
        return leaf * of_logits if name == "head" else leaf

    return params if config.base == config else jax.tree_util.tree_map_with_path(scaled, params)
