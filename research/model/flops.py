"""What a run costs, from its config alone: exact FLOPs, parameters, bytes of state; and what devices can do at most."""

import math
from typing import Any

import jax

from research.config import DecoderOnly, Experiment, Model
from research.parallel.hardware import PEAK_FLOPS


def train_flops(model: Model, input_length: int, target_length: int) -> int:
    """FLOPs of forward and backward pass over one sequence, a multiply-add counted as two.

    Every matrix product of the model is counted, with all score products of the causal half; embedding look-ups, norms,
    softmax, the optimizer and what remat computes again are not. The backward pass is twice the forward one.
    """
    t, d, inner = target_length, model.width, model.attention_width
    decoder_layer = 8 * d * inner * t + 4 * t * t * inner + _of_inputs(model, input_length, t)
    decoder_layer += _cross_projection(model, input_length) + _feed_forward(model) * t
    logits = 2 * d * model.vocab_size * t
    return 3 * (_encoder(model, input_length) + model.decoder_layers * decoder_layer + logits)


def flops_per_step(experiment: Experiment, input_length: int, target_length: int) -> int:
    return experiment.batch_size * train_flops(experiment.model, input_length, target_length)


def decode_flops(model: Model, input_length: int, output_length: int, hypotheses: int = 1) -> int:
    """FLOPs of decoding one sequence to `output_length` tokens of each hypothesis, counted as in `train_flops`.

    The encoder runs once, and its output is projected once for all hypotheses. A token is scored against as many places
    as its own hypothesis has so far: what is computed of the empty rest of a cache, or of others' places, is not work.
    """
    places = output_length * (output_length + 1) // 2
    of_places = model.decoder_layers * 4 * places * model.attention_width
    steps = output_length * step_flops(model, input_length, 0) + of_places
    return encode_flops(model, input_length) + hypotheses * steps


def encode_flops(model: Model, input_length: int) -> int:
    """FLOPs of what decoding does once a sequence: the encoder, and every decoder layer's projection of its output."""
    return _encoder(model, input_length) + model.decoder_layers * _cross_projection(model, input_length)


def step_flops(model: Model, input_length: int, places: int) -> int:
    """FLOPs of one token of one hypothesis that is scored against `places` of the decoder's cache."""
    own = (8 * model.width + 4 * places) * model.attention_width
    layer = own + _of_inputs(model, input_length, 1) + _feed_forward(model)
    return model.decoder_layers * layer + 2 * model.width * model.vocab_size


def _encoder(model: Model, s: int) -> int:
    layer = (8 * model.width * s + 4 * s * s) * model.attention_width + _feed_forward(model) * s
    return model.encoder_layers * layer


def _of_inputs(model: Model, s: int, t: int) -> int:
    """What reading the inputs costs t targets: cross-attention, or in one stack their scores alone."""
    return 4 * (s if isinstance(model.stacks, DecoderOnly) else model.width + s) * model.attention_width * t


def _cross_projection(model: Model, s: int) -> int:
    return 0 if isinstance(model.stacks, DecoderOnly) else 4 * model.width * model.attention_width * s


def _feed_forward(model: Model) -> int:
    """Of one token."""
    return 2 * (3 if model.gated else 2) * model.width * model.feed_forward


def parameter_count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def peak_flops(device: jax.Device) -> float | None:
    """Dense bfloat16 FLOP/s by the data sheet, or None where it is not known."""
    return PEAK_FLOPS.get(device.device_kind)
