"""Weights that were found, not yet read: what is known of them, changes to them, and reading them onto a mesh."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from research.config import Generation, Model, Pretrained, Vocabulary
from research.config.pretrained import check_kept
from research.data.tokenizer import Tokenizer
from research.model.quantized import keep, keep_one
from research.model.transformer import Params, specs_of
from research.parallel.rules import flatten, shardings, unflatten
from research.pretrained.hub import located
from research.pretrained.new_tokens import LongerVocabulary
from research.pretrained.shards import Converted
from research.storage.bucket import AnyPath


class Weights(NamedTuple):
    """A model's configuration, with functions that read its parameters, tokenizer and generation settings.

    `params` takes `shardings` and `fresh`, as `fill_params` does. `tokenizer` raises ConfigError if the format stores
    none. `generation` returns the stored generation settings, or those implied by a tokenizer and a target language.
    """

    format: str
    model: Model
    params: Callable[..., Params]
    tokenizer: Callable[[], Tokenizer]
    generation: Callable[[Tokenizer | None, str | None], Generation]
    vocabulary: Callable[[], Vocabulary | None] = lambda: None  # what `tokenizer` opens; None: the format stores none
    settings: Callable[[], Generation | None] = lambda: None  # as stored, without a tokenizer's; None: none are stored
    prefixes: Callable[[], dict[str, str]] = dict  # of sources, by task
    stored_as: str = "params"  # for a run: key of these parameters in its state, "params" or "average"
    states_max_length: bool = False  # whether its generation settings have a max_length of its own


def changed(weights: Weights, path: AnyPath, model: Model) -> Weights:
    """Make the changes that a Pretrained model asks for to the weights at `path`: new tokens, and fewer layers.

    Raises:
        ConfigError: the weights cannot serve.
    """
    if not isinstance(model, Pretrained):
        return weights
    return with_layers(with_new_tokens(weights, path, model), path, model.kept)


def with_new_tokens(weights: Weights, path: AnyPath, model: Pretrained) -> Weights:
    """Add the rows of a Pretrained model's `new_tokens` to the weights at `path`.

    Raises:
        ConfigError: the directory cannot serve.
    """
    if not model.new_tokens:
        return weights
    assert model.tokenizer is not None
    longer = LongerVocabulary(located(path), weights.model, model.tokenizer, model.new_tokens)
    return weights._replace(
        model=longer.model,
        params=longer.params,
        tokenizer=lambda: longer.tokenizer,
        vocabulary=lambda: model.tokenizer,
    )


def with_layers(weights: Weights, path: AnyPath, kept: Mapping[str, tuple[int, ...]]) -> Weights:
    """Leave only some layers of the stacks in the weights at `path`.

    T5's relative bias, which its first layer stores for all, belongs to the stack and is always kept.

    Raises:
        ConfigError: there is no such layer.
    """
    if not kept:
        return weights
    for stack, layers in kept.items():
        check_kept(str(path), stack, layers, getattr(weights.model, f"{stack}_layers"))
    counts: dict[str, Any] = {f"{stack}_layers": len(layers) for stack, layers in kept.items()}

    def chosen(flat: dict[str, Any]) -> dict[str, Any]:
        stacks = {name: name.partition("/layers/")[0] if "/layers/" in name else "" for name in flat}
        indices = {stack: np.array(layers) for stack, layers in kept.items()}
        return {name: leaf[indices[stacks[name]]] if stacks[name] in kept else leaf for name, leaf in flat.items()}

    def params(shardings: Any = None, fresh: tuple[str, ...] = ()) -> Params:
        flat = flatten(weights.params(shardings, fresh))
        if shardings is None:
            return unflatten(chosen(flat))
        return unflatten(jax.jit(chosen, out_shardings={name: leaf.sharding for name, leaf in flat.items()})(flat))

    return weights._replace(model=dataclasses.replace(weights.model, **counts), params=params)


def read(weights: Weights, model: Model, mesh: jax.sharding.Mesh, fresh: tuple[str, ...] = ()) -> Params:
    """Read parameters onto a mesh, each as the adapter of the model keeps it; those in `fresh` are left out."""
    places = flatten(shardings(mesh, specs_of(model)))
    if model.adapter is not None:
        places = {path: Converted(place, partial(keep_one, model, mesh, path)) for path, place in places.items()}
    return keep(model, mesh, weights.params(unflatten(places), fresh))
