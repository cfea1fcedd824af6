"""The modules of adapters, and merging them into the weights; see research/config/adapter.py."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from research.config import ConfigError, Model, require
from research.config.adapter import ADDED, IA3, PROMPT, WEIGHT, LoRA, PromptTuning, source_room
from research.data.tokenizer import Tokenizer
from research.model.derivatives import product
from research.model.layer import Dense, drawn_key, dropout
from research.model.network import Network
from research.model.parametrization import embedding_scale
from research.parallel.rules import Tree, flatten, occurrences, unflatten

FREQUENT = 5_000  # pieces from which a prompt's first values are drawn


def add_low_rank(network: nnx.Module, config: LoRA, key: PRNGKeyArray) -> None:
    """Add the matrices of LoRA to the projections that it names."""
    for number, (path, dense) in enumerate(chosen(network, config.targets, "targets").items()):
        dense.adapter = LowRank(dense, config, path, jax.random.fold_in(key, number))


def add_scales(network: nnx.Module, config: IA3) -> None:
    """Add the scales of (IA)^3 to the projections that it names."""
    of_input = chosen(network, config.feed_forward, "feed_forward") if config.feed_forward else {}
    targets = chosen(network, config.targets, "targets")
    stray = ", ".join(of_input.keys() - targets.keys())
    require(not stray, f"model.adapter.feed_forward matches {stray}, which model.adapter.targets does not match.")
    for path, dense in targets.items():
        dense.adapter = Scale(dense, path in of_input)


def add_prompt(network: nnx.Module, config: PromptTuning, key: PRNGKeyArray) -> None:
    """Add the prompt to the embeddings of sources."""
    message = f"model.adapter is a prompt, but {type(network).__name__} has no embed_source of Network to add it to."
    if not isinstance(network, Network) or type(network).embed_source is not Network.embed_source:
        raise ConfigError(message)
    if network.config.longest is not None:
        source_room(network.config.prompt, network.config.longest, "The number of positions")
    network.adapter = Prompt(network.config, key)


def check_targets(network: nnx.Module, targets: tuple[str, ...]) -> None:
    """Raise ConfigError if a pattern matches no parameter."""
    _matches(targets, [*flatten(nnx.to_pure_dict(nnx.state(network)))], "targets")


class LowRank(nnx.Module):
    """The two matrices of LoRA beside a projection. b starts at zero, a as torch.nn.Linear, as in PEFT."""

    def __init__(self, dense: Dense, config: LoRA, path: str, key: PRNGKeyArray) -> None:
        layers, reads, writes = sides(dense)
        rows, columns, rank = math.prod(reads), math.prod(writes), config.rank
        require(
            rank <= min(rows, columns),
            f"model.adapter.rank is {rank}: {path} has {rows} rows and {columns} columns, and the rank must be at most"
            " the smaller of them.",
        )
        bound = rows**-0.5
        self.a = nnx.Param(jax.random.uniform(key, (*layers, *reads, rank), jnp.float32, -bound, bound))
        self.b = nnx.Param(jnp.zeros((*layers, rank, *writes), jnp.float32))
        x, axes, y = dense.equation.replace("->", ",").split(",")
        read, tokens = [axis for axis in axes if axis in x], x.rstrip(axes)
        written = "".join(axis for axis in axes if axis not in x)
        self.down, self.up = f"{x},{''.join(read)}r->{tokens}r", f"{tokens}r,r{written}->{y}"
        self.scale, self.rate, self.shared = config.scale, config.dropout, dense.shared_dropout

    def __call__(self, dense: Callable[[Array], Array], x: Float[Array, "b t *_"]) -> Float[Array, "b t *_"]:
        flat = x.reshape(*x.shape[:2], -1)
        dropped = dropout(flat, self.rate, drawn_key() if self.rate else None, shared=self.shared).reshape(x.shape)
        narrow = product(self.down, dropped, self.a[...].astype(x.dtype))
        return dense(x) + product(self.up, narrow, self.b[...].astype(x.dtype)) * self.scale


class Scale(nnx.Module):
    """The scale of (IA)^3 of what a projection reads or writes."""

    def __init__(self, dense: Dense, of_input: bool) -> None:
        layers, reads, writes = sides(dense)
        ones = nnx.Param(jnp.ones((*layers, *(reads if of_input else writes)), jnp.float32))
        self.of_input = of_input
        if of_input:
            self.input_scale = ones
        else:
            self.output_scale = ones

    def __call__(self, dense: Callable[[Array], Array], x: Float[Array, "b t *_"]) -> Float[Array, "b t *_"]:
        if self.of_input:
            return dense(x * self.input_scale[...].astype(x.dtype))
        return dense(x) * self.output_scale[...].astype(x.dtype)


class Prompt(nnx.Module):
    """The embeddings of a prompt's ids, which follow those of the vocabulary."""

    def __init__(self, config: Model, key: PRNGKeyArray) -> None:
        self.first = config.prompt.start
        shape = len(config.prompt), config.width
        self.prompt_embedding = nnx.Param(jax.random.uniform(key, shape, jnp.float32, -0.5, 0.5))

    def __call__(self, tokens: Int[Array, "b s"], x: Float[Array, "b s d"]) -> Float[Array, "b s d"]:
        own = self.prompt_embedding[...][jnp.maximum(tokens - self.first, 0)].astype(x.dtype)
        return jnp.where((tokens >= self.first)[..., None], own, x)


def first_prompt(config: PromptTuning, model: Model, params: Tree, tokenizer: Tokenizer, seed: int) -> Tree:
    """Return the first values of a prompt as a tree: embeddings of a text's pieces and of others that are drawn.

    Raises:
        ConfigError: the text has more pieces than the prompt has tokens.
    """
    named = tokenizer.encode(config.init_text) if config.init_text else []
    message = f"model.adapter.init_text has {len(named)} pieces, but the prompt has {config.tokens} tokens."
    require(len(named) <= config.tokens, message)
    drawn, left = np.random.default_rng(seed), config.tokens - len(named)
    table = params["embedding" if model.source_vocab_size is None else "source_embedding"]
    frequent = tokenizer.text_ids[:FREQUENT]
    ids = np.array([*named, *drawn.choice(frequent, left, replace=left > len(frequent))], np.int32)
    others = drawn.uniform(-0.5, 0.5, (left, model.width))

    @jax.jit
    def rows(table: Array) -> Array:
        found = table[ids].astype(jnp.float32) * embedding_scale(model)
        return found if config.initial == "vocabulary" else found.at[len(named) :].set(others)

    return unflatten({PROMPT: rows(table)})


def sides(dense: Dense) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return the sizes of a weight: of the layers, if they are stacked, of the axes read, and of those written."""
    x, axes, _ = dense.equation.replace("->", ",").split(",")
    shape = dense.weight[...].shape
    own = dict(zip(axes, shape[-len(axes) :], strict=True))
    reads, writes = ([size for axis, size in own.items() if (axis in x) == read] for read in (True, False))
    return shape[: -len(axes)], tuple(reads), tuple(writes)


def chosen(network: nnx.Module, patterns: tuple[str, ...], field: str) -> dict[str, Dense]:
    """Return the projections whose weights the patterns match, by the path of the weight.

    Raises:
        ConfigError: a pattern matches no parameter, or none that is the weight of a projection.
    """
    paths = [*flatten(nnx.to_pure_dict(nnx.state(network)))]
    modules = {"/".join(map(str, path)) + WEIGHT: module for path, module in nnx.iter_modules(network)}
    projections = {path: module for path, module in modules.items() if isinstance(module, Dense)}
    found: dict[str, Dense] = {}
    for pattern, matches in _matches(patterns, paths, field).items():
        own = {path: projections[path] for path in matches if path in projections}
        message = (
            f"model.adapter.{field} has {pattern!r}, which matches {', '.join(matches)}: no matrix of a projection"
        )
        require(bool(own), f"{message}; there are {', '.join(projections)}.")
        found |= own
    return {path: projections[path] for path in projections if path in found}


def _matches(patterns: tuple[str, ...], paths: list[str], field: str) -> dict[str, list[str]]:
    require(bool(patterns), f"model.adapter.{field} is empty: name at least one pattern of parameters.")
    return occurrences(f"model.adapter.{field}", patterns, paths)


# --- Merging ----------------------------------------------------------------------------------------------------------


def merge_low_rank(params: Tree, scale: float) -> Tree:
    """Add the products of LoRA's matrices to the weights, and leave the matrices out."""
    return _merge(params, partial(_summed, scale))


def merge_scales(params: Tree) -> Tree:
    """Multiply the weights and biases by the scales of (IA)^3, and leave the scales out."""
    return _merge(params, _scaled)


def _merge(params: Tree, change: Callable[..., dict[str, Array]]) -> Tree:
    """Return the parameters without adapters: `change` makes those of a projection from its own and its adapter's."""
    flat = flatten(params)
    base = {path: leaf for path, leaf in flat.items() if ADDED not in path}
    added: dict[str, dict[str, Array]] = {}
    for path in flat.keys() - base.keys():
        stem, name = path.split(ADDED)
        added.setdefault(stem, {})[name] = jnp.asarray(flat[path], jnp.float32)
    for stem, adapter in added.items():
        names = [name for name in ("weight", "bias") if f"{stem}/{name}" in base]
        own = {name: jnp.asarray(base[f"{stem}/{name}"], jnp.float32) for name in names}
        changed = change(own, adapter, 1 if "/layers/" in stem else 0)
        base |= {f"{stem}/{name}": leaf for name, leaf in changed.items()}
    return unflatten(base)


def _summed(scale: float, own: dict[str, Array], adapter: dict[str, Array], layer_axes: int) -> dict[str, Array]:
    """Add the product of the two matrices to the weight, layer by layer."""
    a, b, weight = adapter["a"], adapter["b"], own["weight"]
    layers, rank = weight.shape[:layer_axes], a.shape[-1]
    a, b = a.reshape(*layers, -1, rank), b.reshape(*layers, rank, -1)
    added = jnp.einsum("...ir,...ro->...io", a, b, precision=jax.lax.Precision.HIGHEST)
    return own | {"weight": weight + scale * added.reshape(weight.shape)}


def _scaled(own: dict[str, Array], adapter: dict[str, Array], layer_axes: int) -> dict[str, Array]:
    """Multiply the weight, and the bias of a scaled output, by the scale."""
    weight, (name, scale) = own["weight"], next(iter(adapter.items()))
    ones = (1,) * (weight.ndim - scale.ndim)
    if name == "input_scale":
        return own | {"weight": weight * scale.reshape(*scale.shape, *ones)}
    wide = scale.reshape(*scale.shape[:layer_axes], *ones, *scale.shape[layer_axes:])
    biases = {name: own[name] * scale for name in ("bias",) if name in own}
    return {"weight": weight * wide} | biases
