"""What a step receives: a pytree of integer arrays, with what a pipeline guarantees left out as None."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

Array = np.ndarray  # or a jax.Array: batches are made on the host and placed on the mesh


class Batch(NamedTuple):
    """Token ids and, where rows hold padding or several examples, the segments that say which token belongs to which.

    A segment id is 0 for padding and 1, 2, ... for the examples packed into a row. None for the segments means,
    statically, that every token of every row is real and belongs to one example, so attention needs no mask but the
    causal one. None for the positions means 0, 1, 2, ... along the row. None for the weights means that every target
    counts once.
    """

    encoder_input_tokens: Int[Array, "b s"]
    decoder_input_tokens: Int[Array, "b t"]
    decoder_target_tokens: Int[Array, "b t"]
    decoder_loss_weights: Float[Array, "b t"] | None = None
    encoder_segment_ids: Int[Array, "b s"] | None = None
    encoder_positions: Int[Array, "b s"] | None = None
    decoder_segment_ids: Int[Array, "b t"] | None = None
    decoder_positions: Int[Array, "b t"] | None = None
