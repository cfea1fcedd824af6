"""Decoding: from an encoder's input to the decoder's tokens, in one jitted loop over an explicit cache."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from research.config import Model
from research.model.transformer import Params, bind


@partial(jax.jit, static_argnames=("model", "length", "start_id", "eos_id", "pad_id"))
def greedy(
    model: Model,
    params: Params,
    encoder_input_tokens: Int[Array, "b s"],
    encoder_segment_ids: Int[Array, "b s"] | None = None,
    *,
    length: int,
    start_id: int,
    eos_id: int,
    pad_id: int,
) -> Int[Array, "b t"]:
    """The most probable token at every position, up to and with EOS, then padding; t is `length`.

    The loop ends early when every row has reached its EOS.
    """
    network = bind(model, params)
    cache = network.new_cache(network.encode(encoder_input_tokens, encoder_segment_ids), length)
    rows = encoder_input_tokens.shape[0]
    tokens = jnp.full((rows, length), pad_id, jnp.int32)

    def unfinished(carry: tuple) -> Array:
        index, _, _, ended, _ = carry
        return (index < length) & ~jnp.all(ended)

    def advance(carry: tuple) -> tuple:
        index, last, tokens, ended, cache = carry
        logits, cache = network.decode_step(last[:, None], cache, index, encoder_segment_ids)
        best = jnp.where(ended, pad_id, jnp.argmax(logits[:, 0], axis=-1).astype(jnp.int32))
        tokens = jax.lax.dynamic_update_slice(tokens, best[:, None], (0, index))
        return index + 1, best, tokens, ended | (best == eos_id), cache

    start = jnp.full((rows,), start_id, jnp.int32)
    carry = (jnp.int32(0), start, tokens, jnp.zeros((rows,), bool), cache)
    return jax.lax.while_loop(unfinished, advance, carry)[2]
