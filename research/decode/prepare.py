"""The network that decodes: matrices in the compute dtype, layers as a list, and on a GPU fewer, larger products.

Decoding reads every weight of the decoder at every step. What a step would do to them is done once, before the loop:
XLA casts inside it, and on a GPU concatenates the matrices of products with one input.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, PRNGKeyArray

from research.config import Model, UntiedHead
from research.model.attention import SelfAttention
from research.model.derivatives import gate
from research.model.layer import Dense, FeedForward
from research.model.network import Network
from research.model.parametrization import score_scale
from research.model.transformer import Params, abstract_params, bind, specs_of, without_adapter
from research.parallel.layout import gather_length, platform
from research.parallel.padding import cut

TABLES = ("embedding", "source_embedding", "head")
ALIGNED = 8  # sizes of products in bfloat16 on tensor cores are multiples of this


@partial(jax.jit, static_argnames=("model",))
def prepared(model: Model, params: Params) -> Any:
    """Make the network that decodes; its decoder's weights are copies. It computes what the model computes.

    Its tables keep the rows of zeros that a mesh adds, since a program cannot return uneven parts: see `own_tables`.
    """
    model, params = without_adapter(model, params)
    network = bind(model, params)
    for _, module in nnx.iter_modules(network):
        for name in ("weight", "bias") if isinstance(module, Dense) else ():
            if hasattr(module, name):
                setattr(module, name, nnx.Param(getattr(module, name)[...].astype(model.compute)))
    for name in TABLES:
        if name in params:
            setattr(network, name, nnx.Param(params[name].astype(model.compute)))
    network.decoder.layers = nnx.List(network.decoder.unstacked())
    adapted = any(module.adapter is not None for _, module in nnx.iter_modules(network) if isinstance(module, Dense))
    fuses = platform() == "gpu" and not adapted  # a CPU does not gain from it
    for layer in network.decoder.layers if fuses else ():
        if type(getattr(layer, "self_attention", None)) is SelfAttention:  # a user's own class stays as it is
            layer.self_attention = FusedSelfAttention(layer.self_attention)
        if type(getattr(layer, "feed_forward", None)) is FeedForward and model.gated:
            layer.feed_forward = FusedFeedForward(layer.feed_forward)
    return network


def own_tables(network: Any) -> Any:
    """Cut off the rows of zeros that a mesh adds to a prepared network's tables, in the program that decodes.

    On a GPU the table of the logits gets rows of zeros up to a multiple of `ALIGNED`, once: XLA pads the sides of
    products with other sizes, which would copy the table at every step.
    """
    config = network.config
    shapes, specs = abstract_params(config), specs_of(config)
    for name in TABLES:
        if hasattr(network, name):
            table = cut(getattr(network, name)[...], shapes[name], specs[name])
            setattr(network, name, nnx.Param(table))
    if platform() == "gpu" and type(network).logits is Network.logits:  # which cuts the logits of these rows off
        name, axis = ("head", 1) if isinstance(config.head, UntiedHead) else ("embedding", 0)
        table = getattr(network, name)[...]
        missing = [(0, -size % ALIGNED if place == axis else 0) for place, size in enumerate(table.shape)]
        setattr(network, name, nnx.Param(jnp.pad(table, missing)))
    return network


class FusedSelfAttention(SelfAttention):
    """Self-attention with one product for queries, keys and values."""

    def __init__(self, attention: SelfAttention) -> None:
        self.projections = fused("btd,dphk->btphk", attention.query, attention.key, attention.value)
        self.output, self.config = attention.output, attention.config
        if hasattr(attention, "relative_bias"):
            self.relative_bias = attention.relative_bias

    def queries(self, x: Float[Array, "b t d"]) -> Float[Array, "b t h k"]:
        return self.projections(x)[:, :, 0] * score_scale(self.config)

    def project(self, x: Float[Array, "b s d"]) -> tuple[Float[Array, "b s h k"], Float[Array, "b s h k"]]:
        y = self.projections(x)  # XLA computes it once for both methods
        return gather_length(y[:, :, 1]), gather_length(y[:, :, 2])


class FusedFeedForward(FeedForward):
    """The gated feed-forward with one product for gate and up."""

    def __init__(self, feed_forward: FeedForward) -> None:
        self.projections = fused("btd,dpf->btpf", feed_forward.gate, feed_forward.up)
        self.down, self.config = feed_forward.down, feed_forward.config

    @jax.named_scope("feed_forward")
    def __call__(self, x: Float[Array, "b t d"], dropout_key: PRNGKeyArray | None = None) -> Float[Array, "b t d"]:
        y = self.projections(x)
        return self.down(gate(self.config.activation, y[:, :, 0], y[:, :, 1]))


def fused(equation: str, *parts: Dense) -> Dense:
    """Stack the weights and biases of products of the same input along a new axis p."""
    whole = nnx.clone(parts[0])
    whole.equation = equation
    whole.weight = nnx.Param(jnp.stack([part.weight[...] for part in parts], axis=1))
    if whole.biased:
        whole.bias = nnx.Param(jnp.stack([part.bias[...] for part in parts]))
    return whole
