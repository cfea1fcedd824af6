"""The shipped optimizers, chained of transformations, give the numbers of their plain formulas to the bit.

Their states have the names that they have in checkpoints of runs that were trained by those.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_optimizers import PlainOptimizer
from xla_flags import FUSED

from research import Adafactor, AdamW, Constant, InverseSquareRoot, Linear, MaximalUpdate, Model, RMSScaledAdamW
from research.parallel.rules import flatten, unflatten
from research.train.optimizer import build, learning_rate

MODEL = Model(48, 30, 6, 4, 40, 3, 3)
MUP = replace(MODEL, parametrization=MaximalUpdate(width=18, heads=2, head_width=4, feed_forward=8))
GROWN = {"query": 30 / 18, "output": 24 / 8, "down": 40 / 8}
LAYERS = "encoder/layers"
SHAPES = {  # with the letters of PlainOptimizer's layouts
    "embedding": ((48, 30), "cr"),
    "encoder/relative_bias": ((16, 6), ".."),
    "encoder/norm/scale": ((30,), "."),
    f"{LAYERS}/self_attention/query/weight": ((3, 30, 6, 4), "lrcc"),
    f"{LAYERS}/self_attention/output/weight": ((3, 6, 4, 30), "lrrc"),
    f"{LAYERS}/self_attention_norm/scale": ((3, 30), "l."),
    f"{LAYERS}/feed_forward/down/weight": ((3, 40, 30), "lrc"),
}
SETTINGS = {
    "AdamW": AdamW(schedule=Linear(peak=0.02, warmup=2), weight_decay=0.13, clip_norm=0.7, no_decay=("norm",), b2=0.95),
    "AdamW frozen": AdamW(schedule=InverseSquareRoot(timescale=2), no_decay=(), frozen=("embedding", "attention/")),
    "RMS scaled": RMSScaledAdamW(schedule=Linear(peak=0.02), weight_decay=0.07, clip_norm=1.3),
    "factored": Adafactor(schedule=Constant(peak=0.03), min_factored=16, weight_decay=0.01, clip_norm=0.9),
    "momentum": Adafactor(schedule=Linear(peak=0.02), min_factored=28, momentum=0.9, weight_decay=0.003, no_decay=()),
    "whole": Adafactor(factored=False, momentum=0.7, clip_update=0.5, decay_exponent=0.5, frozen=("encoder/norm",)),
}


def arrays(seed: int) -> dict[str, jax.Array]:
    """Of scales from a thousandth to ten, so that clipping and the least root mean square both count."""
    random = np.random.default_rng(seed)
    scales = {path: 10.0 ** random.uniform(-4, 1) for path in SHAPES}
    return {path: jnp.float32(random.normal(size=shape) * scales[path]) for path, (shape, _) in SHAPES.items()}


@pytest.mark.parametrize("model", [MODEL, MUP], ids=["standard", "muP"])
@pytest.mark.parametrize("name", SETTINGS)
def test_parameters_and_state_are_those_of_the_plain_formulas(name: str, model: Model) -> None:
    settings, values = SETTINGS[name], arrays(0)
    updater = build(settings, 50, unflatten(values), model)
    trained, frozen = updater.split(unflatten(values))
    state, update = updater.init(trained), jax.jit(updater.update, compiler_options=FUSED)

    spared = {path for path in SHAPES if any(pattern in path for pattern in settings.no_decay)}
    reference = PlainOptimizer(
        settings,
        {path: layout for path, (_, layout) in SHAPES.items()},
        {path: GROWN.get(path.split("/")[-2], 1.0) if model == MUP and "weight" in path else 1.0 for path in SHAPES},
        {path: 0.0 if path in spared else settings.weight_decay for path in SHAPES},
    )
    rate = learning_rate(settings.schedule, 50)
    plain = flatten(trained)
    plain_state = reference.init(plain)
    stepped = jax.jit(
        lambda gradients, state, params, step: reference.update(gradients, state, params, rate(step)),
        compiler_options=FUSED,
    )

    for step in (0, 1, 2, 4, 5):  # the update of step 3 was skipped
        gradients, _ = updater.split(unflatten(arrays(step + 1)))
        trained, state = update(gradients, state, trained, jnp.int32(step))
        plain, plain_state = stepped(flatten(gradients), plain_state, plain, jnp.int32(step))
    assert len(flatten(frozen)) == (3 if name == "AdamW frozen" else 1 if name == "whole" else 0)
    for ours, theirs in ((flatten(trained), plain), (flatten(state), plain_state)):
        assert ours.keys() == theirs.keys()
        for path, value in theirs.items():
            np.testing.assert_array_equal(ours[path], value, err_msg=path)
