"""The weights of one layer's attention, to look at: taken from the model's own pass over a batch."""

from dataclasses import replace
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from research.config import DecoderOnly, Model, require
from research.data.batch import Batch
from research.model.attention import attention_weights
from research.model.transformer import Params, bind

AttentionPart = Literal["encoder", "decoder", "cross"]


def attention_map(
    model: Model, params: Params, batch: Batch, part: AttentionPart, layer: int
) -> Float[Array, "b h t s"]:
    """The attention weights of one layer: of the encoder, of the decoder, or from the decoder to the encoder's output.

    In a model of one stack, "encoder" is how inputs attend to inputs, and "decoder" how targets attend to inputs and
    targets, side by side on the last axis. The batch is computed operation by operation: give few rows.

    Raises:
        ConfigError: there is no such part or layer.
    """
    one_stack = isinstance(model.stacks, DecoderOnly)
    require(part in get_args(AttentionPart), f"part is {part!r}: allowed is {', '.join(get_args(AttentionPart))}.")
    require(part != "cross" or not one_stack, "This model has no cross attention: part must be encoder or decoder.")
    count = model.encoder_layers if part == "encoder" and not one_stack else model.decoder_layers
    require(-count <= layer < count, f"layer is {layer}: there are {count}, from 0 to {count - 1}.")
    network = bind(replace(model, remat="none"), jax.tree.map(jnp.asarray, params))
    maps: list[Array] = []

    def listen(*arrays: Any) -> Array:
        maps.append(attention_weights(*arrays))
        return maps[-1]

    stack = network.encoder if part == "encoder" and not one_stack else network.decoder
    (stack.layers.cross_attention if part == "cross" else stack.layers.self_attention).weights = listen
    with jax.disable_jit():  # so that the scan over layers is a loop, and every layer's arrays are seen
        network(batch)
    if one_stack:  # a layer attends twice: the inputs, then the targets
        maps = maps[part == "decoder" :: 2]
    return maps[layer]
