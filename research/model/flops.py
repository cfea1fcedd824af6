"""FLOPs of training and decoding, computed from the config alone; parameter counts; and peak FLOP/s of devices."""

import math
from typing import Any

import jax

from research.config import DecoderOnly, Experiment, Model, Tied
from research.config.adapter import ADDED
from research.model.transformer import abstract_params, whole
from research.parallel.hardware import PEAK_FLOPS
from research.parallel.rules import flatten
from research.storage.console import amount


def train_flops(model: Model, input_length: int, target_length: int) -> int:
    """Count the FLOPs of a forward and backward pass over one sequence; a multiply-add counts as two.

    Every matrix product of the model counts, with the score products of both halves of a causal mask. Embedding
    look-ups, norms, softmax, the optimizer and recomputation by remat do not. The backward pass costs twice the forward
    pass, but that of a product with a weight which an adapter does not train costs the same as the forward pass.
    """
    return 3 * forward_flops(model, input_length, target_length) - _untrained(model, input_length, target_length)


def forward_flops(model: Model, input_length: int, target_length: int) -> int:
    """Count the FLOPs of a forward pass over one sequence, as in `train_flops`."""
    forward = _encoder(model, input_length) + _decoder(model, input_length, target_length)
    return forward + 2 * model.width * model.vocab_size * target_length


def flops_per_step(experiment: Experiment, input_length: int, target_length: int) -> int:
    """Count the FLOPs of a step, with the forward pass of a teacher."""
    row, distil = train_flops(experiment.model, input_length, target_length), experiment.distil
    if distil is not None:
        row += forward_flops(distil.teacher, input_length, target_length)
    return experiment.batch_size * row


def trained_count(model: Model) -> int:
    """Count the parameters that are trained: all, or those that the model's adapter trains."""
    flat = flatten(abstract_params(model))
    return parameter_count([leaf for path, leaf in flat.items() if model.adapter is None or model.adapter.trains(path)])


def describe_count(model: Model) -> str:
    """Write the number of parameters, and of those an adapter trains."""
    text = f"{amount(parameter_count(abstract_params(model)))} parameters"
    if model.adapter is None:
        return text
    return f"{text}, {amount(trained_count(model))} of them trained by {type(model.adapter).__name__}"


def _untrained(model: Model, inputs: int, targets: int) -> int:
    """Count the FLOPs of the gradients of weights that an adapter does not train, less those of what it adds.

    Every weight is multiplied with each input or with each target once.
    """
    if model.adapter is None:
        return 0
    flops = 0
    for path, leaf in flatten(whole(model, abstract_params(model))).items():
        of_inputs = path.startswith("encoder/") or "cross_attention/key" in path or "cross_attention/value" in path
        size = 2 * math.prod(leaf.shape) * (inputs if of_inputs else targets)
        if ADDED in path:
            flops -= 3 * size
        elif path.endswith("/weight") or path == head_path(model):
            flops += 0 if model.adapter.trains(path) else size
    return flops


def head_path(model: Model) -> str:
    """Return the path of the matrix that makes the logits."""
    return "embedding" if isinstance(model.head, Tied) else "head"


def decode_flops(model: Model, input_length: int, output_length: int, hypotheses: int = 1) -> int:
    """Count the FLOPs of decoding one sequence to `output_length` tokens per hypothesis, as in `train_flops`.

    The encoder runs once, and its output is projected once for all hypotheses. A token is scored against the positions
    that its own hypothesis has so far; scores against empty cache slots or other hypotheses' slots do not count.
    """
    positions = output_length * (output_length + 1) // 2
    scores = model.decoder_layers * 4 * positions * model.attention_width
    steps = output_length * step_flops(model, input_length, 0) + scores
    return encode_flops(model, input_length) + hypotheses * steps


def encode_flops(model: Model, input_length: int) -> int:
    """Count the FLOPs that decoding spends once per sequence: encoder, and projection of its output by each layer."""
    return _encoder(model, input_length) + model.decoder_layers * _cross_projection(model, input_length)


def step_flops(model: Model, input_length: int, slots: int) -> int:
    """Count the FLOPs of decoding one token of one hypothesis, scored against `slots` positions of the cache."""
    own = (8 * model.width + 4 * slots) * model.attention_width
    layer = own + _input_attention(model, input_length, 1) + _feed_forward(model)
    return model.decoder_layers * layer + 2 * model.width * model.vocab_size


def _encoder(model: Model, s: int) -> int:
    layer = (8 * model.width * s + 4 * s * s) * model.attention_width + _feed_forward(model) * s
    return model.encoder_layers * layer


def _decoder(model: Model, s: int, t: int) -> int:
    inner = model.attention_width
    layer = 8 * model.width * inner * t + 4 * t * t * inner + _input_attention(model, s, t)
    layer += _cross_projection(model, s) + _feed_forward(model) * t
    return model.decoder_layers * layer


def _input_attention(model: Model, s: int, t: int) -> int:
    """FLOPs of attention from t targets to s inputs: cross-attention, or in a decoder-only model the scores alone."""
    return 4 * (s if isinstance(model.stacks, DecoderOnly) else model.width + s) * model.attention_width * t


def _cross_projection(model: Model, s: int) -> int:
    return 0 if isinstance(model.stacks, DecoderOnly) else 4 * model.width * model.attention_width * s


def _feed_forward(model: Model) -> int:
    """FLOPs of the feed-forward of one token."""
    return 2 * (3 if model.gated else 2) * model.width * model.feed_forward


def parameter_count(tree: Any) -> int:
    """Count the elements of all arrays of a tree."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def peak_flops(device: jax.Device) -> float | None:
    """Return the dense bfloat16 FLOP/s of the data sheet, or None for an unknown device."""
    return PEAK_FLOPS.get(device.device_kind)
