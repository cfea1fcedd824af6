"""Attention weights of every layer, captured in a forward pass of the model over a batch."""

from dataclasses import replace
from typing import Any, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from research.config import DecoderOnly, Model, require
from research.data.batch import Batch
from research.model.attention import attention_weights
from research.model.mask import AttentionPart
from research.model.transformer import Params, bind


def attention_map(
    model: Model, params: Params, batch: Batch, part: AttentionPart, layer: int
) -> Float[Array, "b h t s"]:
    """Compute one layer's attention weights, as `attention_maps` does.

    Raises:
        ConfigError: the model has no such part or layer.
    """
    one_stack = isinstance(model.stacks, DecoderOnly)
    count = model.encoder_layers if part == "encoder" and not one_stack else model.decoder_layers
    require(-count <= layer < count, f"layer is {layer}: there are {count}, from 0 to {count - 1}.")
    return attention_maps(model, params, batch, part)[layer]


def attention_maps(model: Model, params: Params, batch: Batch, part: AttentionPart) -> list[Float[Array, "b h t s"]]:
    """Compute the attention weights of all layers of the encoder, of the decoder, or from decoder to encoder output.

    In a decoder-only model, "encoder" gives the weights from inputs to inputs, and "decoder" those from targets to
    inputs and targets, concatenated along the last axis. Nothing is compiled, so the pass is slow: use few rows.

    Raises:
        ConfigError: the model has no such part.
    """
    one_stack = isinstance(model.stacks, DecoderOnly)
    require(part in get_args(AttentionPart), f"part is {part!r}: allowed is {', '.join(get_args(AttentionPart))}.")
    require(part != "cross" or not one_stack, "This model has no cross attention: part must be encoder or decoder.")
    network = bind(replace(model, remat="none"), jax.tree.map(jnp.asarray, params))
    maps: list[Array] = []

    def capture(*arrays: Any) -> Array:
        maps.append(attention_weights(*arrays))
        return maps[-1]

    stack = network.encoder if part == "encoder" and not one_stack else network.decoder
    (stack.layers.cross_attention if part == "cross" else stack.layers.self_attention).weights = capture
    with jax.disable_jit():  # makes the scan over layers a Python loop, so that every layer's arrays are captured
        network(batch)
    if one_stack:  # a layer attends twice: the inputs, then the targets
        maps = maps[part == "decoder" :: 2]
    return maps
