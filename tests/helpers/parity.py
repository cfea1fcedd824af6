"""Comparison of our model with a reference on the same inputs."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

from research import Model
from research.model.transformer import bind
from research.pretrained.huggingface import read_config, read_params, table
from research.pretrained.table import fill_params

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
T5S = ("t5", "t5_v1_1", "mt5", "umt5", "ul2")
VARIANTS = (*T5S, "bart", "mbart", "m2m_100", "marian", "marian_separate")

# Relative to the scale of the compared values.
TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4


def read(directory: Path):
    model = replace(read_config(directory), compute="float32")
    return model, read_params(directory, model)


def golden(variant: str):
    """Read a model, its parameters, and the reference's inputs and outputs."""
    return *read(GOLDENS / variant), load_file(GOLDENS / variant / "expected.safetensors")


def forward(model: Model, params, inputs, segments: bool):
    """Compute encoder output and logits. `segments` passes masks; without it the path without masks is tested."""
    module = bind(model, params)
    source = jnp.asarray(inputs["encoder_mask"]) if segments else None
    target = jnp.asarray(inputs["decoder_mask"]) if segments else None
    encoded = module.encode(jnp.asarray(inputs["encoder_input_tokens"]), source)
    x = module.decode(jnp.asarray(inputs["decoder_input_tokens"]), encoded, target, encoder_segment_ids=source)
    return encoded, module.logits(x)


def compute(model: Model, params, inputs, segments: bool):
    """Compute what the reference has: encoder output, logits, mean loss over real targets and its gradients."""

    def loss(params):
        encoded, logits = forward(model, params, inputs, segments)
        targets = jnp.asarray(inputs["decoder_target_tokens"])[..., None]
        likelihood = jnp.take_along_axis(jax.nn.log_softmax(logits), targets, -1)[..., 0]
        real = inputs["decoder_mask"]
        return -jnp.sum(likelihood * real) / jnp.sum(real), (encoded, logits)

    (value, (encoded, logits)), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return encoded, logits, value, gradients


def assert_close(ours, theirs, tolerance: float, what: str, scale: float | None = None) -> None:
    """Compare the largest difference with a tolerance relative to the scale, or to the largest value."""
    scale = np.max(np.abs(theirs)) if scale is None else scale
    difference = np.max(np.abs(np.asarray(ours) - theirs))
    assert difference <= tolerance * scale, f"{what}: {difference:.3g} on a scale of {scale:.3g}"


def assert_outputs(ours, expected) -> None:
    """Compare encoder output and logits at all positions but padding."""
    for name, array in zip(("encoded", "logits"), ours, strict=True):
        real = expected["encoder_mask" if name == "encoded" else "decoder_mask"] == 1
        assert_close(array[real], expected[name][real], TOLERANCE, name)


def assert_parity(model: Model, params, inputs, expected, segments: bool) -> None:
    encoded, logits, loss, gradients = compute(model, params, inputs, segments)
    assert_outputs((encoded, logits), inputs | expected)
    assert_close(loss, expected["loss"], TOLERANCE, "loss")
    theirs = {name.removeprefix("gradient/"): array for name, array in expected.items() if name.startswith("gradient/")}
    theirs = flatten_dict(fill_params(theirs, table(model, theirs), model, "the gradients"), sep="/")
    ours = flatten_dict(gradients, sep="/")
    assert set(ours) == set(theirs)
    if model.zero_token is not None:
        # Our row has no gradient; in transformers it has the head's share of it.
        assert not ours["embedding"][model.zero_token].any()
        theirs["embedding"][model.zero_token] = 0
    for path, gradient in ours.items():
        # Softmax ignores a constant added to all scores: the gradient of the keys' bias is only rounding.
        scale = np.max(np.abs(theirs[path.replace("key/bias", "query/bias")]))
        assert_close(gradient, theirs[path], GRADIENT_TOLERANCE, f"gradient of {path}", scale)
