"""The parametrization: what of a model depends on its width, by initial values alone or as muP has it.

muP, the maximal update parametrization (Yang et al., arXiv:2203.03466), is what lets every layer learn as much at every
step, however wide it is, and so one learning rate serve all widths. Here it is the paper's table 8, of sizes over those
of a base model, at which nothing changes. With r for how many times as many features a matrix reads as in the base:

                                     initial deviation   learning rate   learning rate,       what it gives
                                                         of AdamW        steps scaled by RMS  is multiplied by
hidden: attention, feed-forward      r ** -0.5           1 / r           r ** -0.5
scores                                                                                        1 / growth of a head
head, of its own or tied             1                   1               1                    1 / growth of the width
tables, norms, biases                1                   1               1

Adafactor and RMS-scaled AdamW move a matrix in proportion to its root mean square, which is narrower by r ** -0.5
already, as is the least root mean square that they reckon with. All else that a formula takes from the width (T5's
deviation of a head, its scaling of a tied one, Marian's scaling of embeddings) it takes from the base's.

Weight decay is the same at every width, as in the authors' MuAdamW. So are clip_norm, Adam's epsilon and Adafactor's
min_factored: a gradient's entries shrink as the model widens, so an epsilon must stay far below them, and min_factored
should factor the base's matrices if it factors the wide ones'.
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
    """The size of those axes together; letters that are no size of a model count as 1."""
    return math.prod(getattr(config, SIZES[axis]) for axis in axes if axis in SIZES)


def growth(config: Model, axes: str) -> float:
    """How many times as many features those axes have as the base's; 1 where the parametrization is standard."""
    return features(config, axes) / features(config.base, axes)


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
    return standard / growth(config, "d")


def standard_model(config: Model) -> Model:
    """The standard model whose weights can do what those of this one do.

    Raises:
        ConfigError: the multiplier of logits has no place in its weights.
    """
    shared = (
        isinstance(config.stacks, SharedLayers) and not config.norm_first and not isinstance(config.head, UntiedHead)
    )
    said = "With SharedLayers, a tied head and norm_first=False, muP's multiplier of logits has no place in weights."
    require(not shared or growth(config, "d") == 1.0, said)
    return replace(config, parametrization=Standard())


def as_standard(config: Model, params: Tree) -> Tree:
    """The weights of `standard_model` with muP's multipliers in them: in queries, tables, and the head or its norm."""
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
