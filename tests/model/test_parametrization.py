"""muP: nothing changes at the base's sizes; at others each rule of its table is seen where it acts."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_transformer import batch_of

from research import (
    LAMB,
    Adafactor,
    AdamW,
    Constant,
    DecoderOnly,
    FanIn,
    LayerNorm,
    Learned,
    MaximalUpdate,
    Model,
    Normal,
    Optimizer,
    Relative,
    RMSScaledAdamW,
    SharedLayers,
    Sinusoidal,
    Standard,
    Tied,
    UntiedHead,
    Xavier,
)
from research.config import ConfigError
from research.model.parametrization import as_standard, standard_model
from research.model.transformer import bind, initial_params
from research.parallel.rules import flatten, unflatten
from research.train.optimizer import build

# Wider than the base by another factor on each side, so that no rule can stand in for another.
BASE = MaximalUpdate(width=16, heads=2, head_width=8, feed_forward=8)
WIDE = Model(512, 64, 8, 16, 128, 2, 2, compute="float32", biases=True, norm=LayerNorm(), parametrization=BASE)
GROWTH = {"width": 4.0, "attention_width": 8.0, "feed_forward": 16.0}
NARROW = WIDE.base
READS = {"query": "width", "key": "width", "value": "width", "up": "width", "gate": "width", "down": "feed_forward"}


def expected(path: str) -> float:
    if not path.endswith("/weight"):
        return 1.0
    part = path.split("/")[-2]
    return GROWTH["attention_width" if part == "output" else READS[part]]


def logits_of(config: Model, params, batch) -> jax.Array:
    return jax.jit(lambda params: bind(config, params)(batch))(params)


@pytest.mark.parametrize("initial", [FanIn(), Normal(0.02), Xavier()], ids=lambda it: type(it).__name__)
@pytest.mark.parametrize("head", [UntiedHead(), Tied(True), Tied(False)], ids=str)
def test_at_the_bases_sizes_it_is_the_standard_one_to_the_bit(initial, head):
    standard = replace(NARROW, initial=initial, head=head, scaled_scores=True, scaled_embedding=True)
    maximal = replace(standard, parametrization=BASE)
    assert isinstance(standard.parametrization, Standard)
    params, same = (initial_params(config, jax.random.key(0)) for config in (standard, maximal))
    jax.tree.map(np.testing.assert_array_equal, params, same)
    np.testing.assert_array_equal(logits_of(standard, params, batch_of()), logits_of(maximal, params, batch_of()))


@pytest.mark.slow
@pytest.mark.parametrize("initial", [FanIn(), Normal(0.02), Xavier()], ids=lambda it: type(it).__name__)
def test_hidden_matrices_alone_begin_narrower_by_the_root_of_what_they_read(initial):
    wide, base = (
        flatten(initial_params(replace(config, initial=initial, positions=Relative(512, 1024)), jax.random.key(0)))
        for config in (WIDE, NARROW)
    )
    for path, param in wide.items():
        if np.std(param) > 0:  # no norm and no bias
            ratio = float(np.std(param) / np.std(base[path]))
            # Of few values, as those of relative bias, a deviation is known by a tenth or so.
            assert ratio == pytest.approx(expected(path) ** -0.5, rel=5 * base[path].size ** -0.5), path


@pytest.mark.slow
@pytest.mark.parametrize("stacks", [None, SharedLayers(), DecoderOnly()], ids=["apart", "shared", "one"])
@pytest.mark.parametrize("scaled_scores", [False, True])
@pytest.mark.parametrize("head", [UntiedHead(), Tied(True), Tied(False)], ids=str)
def test_scores_and_logits_are_multiplied_as_if_their_weights_were(stacks, scaled_scores, head):
    """A standard model of the same sizes gives the same logits, with its queries and its head multiplied instead."""
    changes = {"scaled_scores": scaled_scores, "head": head} | ({} if stacks is None else {"stacks": stacks})
    maximal = replace(WIDE, **changes)
    standard = replace(maximal, parametrization=Standard())
    params = initial_params(maximal, jax.random.key(0))
    # Of heads: 16 wide for 8. Of scores: 1/k of the base's k ** -0.5 or 1. Of logits: a quarter, at the base's scaling.
    of_scores = 8**-0.5 * 0.5 / 16**-0.5 if scaled_scores else 0.5
    of_logits = 0.25 * (16**-0.5 / 64**-0.5 if head == Tied(True) else 1.0)
    scaled = {path: leaf * of_scores if "/query/" in path else leaf for path, leaf in flatten(params).items()}
    batch = batch_of()
    found = logits_of(maximal, params, batch)
    np.testing.assert_allclose(
        found, of_logits * logits_of(standard, unflatten(scaled), batch), rtol=1e-4, atol=1e-5 * float(found.std())
    )


def test_embeddings_are_scaled_by_the_bases_width():
    maximal = replace(WIDE, scaled_embedding=True)
    params = initial_params(maximal, jax.random.key(0))
    found = bind(maximal, params).embed(jnp.array([[3]]))
    np.testing.assert_allclose(found[0, 0], params["embedding"][3] * 4.0, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "exponent"),
    [
        (AdamW(schedule=Constant(peak=0.01), weight_decay=0.1), -1.0),
        (RMSScaledAdamW(schedule=Constant(peak=0.01), weight_decay=0.1), -0.5),
        (LAMB(schedule=Constant(peak=0.01)), -0.5),
        (Adafactor(schedule=Constant(peak=0.01), weight_decay=0.1), -0.5),
        (Adafactor(schedule=Constant(peak=0.01), factored=False, momentum=0.9), -0.5),
    ],
    ids=["AdamW", "RMSScaledAdamW", "LAMB", "Adafactor", "momentum"],
)
def test_the_steps_of_hidden_matrices_alone_are_smaller_and_their_decay_is_not(optimizer: Optimizer, exponent: float):
    params = initial_params(WIDE, jax.random.key(0))
    gradients = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(1), leaf.shape), params)
    zeros = jax.tree.map(jnp.zeros_like, params)

    def change(config: Model, gradients) -> dict[str, np.ndarray]:
        updater = build(optimizer, 10, params, config)
        new, _ = updater.update(gradients, updater.init(params), params, jnp.int32(0))
        return {path: np.asarray(leaf - flatten(params)[path]) for path, leaf in flatten(new).items()}

    plain = replace(WIDE, parametrization=Standard())
    decayed, standard, maximal = change(plain, zeros), change(plain, gradients), change(WIDE, gradients)
    for path, moved in maximal.items():
        share = expected(path) ** exponent
        step, wanted = moved - decayed[path], share * (standard[path] - decayed[path])
        # RMSScaledAdamW's decay is of what the step has left.
        np.testing.assert_allclose(step, wanted, rtol=2e-3, atol=2e-3 * np.abs(wanted).max(), err_msg=path)


WRITTEN = {
    "head of its own": {"scaled_scores": True},
    "tied": {"head": Tied(True)},
    "norms after": {"head": Tied(False), "norm_first": False},
    "Marian": {"head": Tied(False), "norm_first": False, "scaled_embedding": True, "source_vocab_size": 512},
    "mBART": {"head": Tied(False), "scaled_embedding": True, "positions": Learned(40)},
    "one stack": {"head": Tied(True), "stacks": DecoderOnly()},
    "shared layers": {"head": Tied(True), "stacks": SharedLayers()},
}


@pytest.mark.slow
@pytest.mark.parametrize("changes", WRITTEN.values(), ids=WRITTEN.keys())
def test_a_trained_model_is_written_as_a_standard_one(changes):
    maximal = replace(WIDE, **changes)
    params = jax.tree.map(lambda leaf: leaf + 0.01, initial_params(maximal, jax.random.key(0)))  # biases too
    standard, same = standard_model(maximal), as_standard(maximal, params)
    assert isinstance(standard.parametrization, Standard)
    found = logits_of(maximal, params, batch_of())
    np.testing.assert_allclose(logits_of(standard, same, batch_of()), found, rtol=1e-4, atol=2e-5 * float(found.std()))
    assert as_standard(standard, same) is same


def test_shared_layers_that_end_in_their_norm_have_no_place_for_a_multiplier():
    config = replace(WIDE, head=Tied(), norm_first=False, stacks=SharedLayers())
    with pytest.raises(ConfigError, match=r"no weight can absorb muP's multiplier of logits"):
        standard_model(config)


def test_a_base_of_no_size_is_refused():
    with pytest.raises(ConfigError, match=r"model\.parametrization\.heads is 0"):
        MaximalUpdate(width=16, heads=0, head_width=8, feed_forward=32)
    with pytest.raises(ConfigError, match=r"model\.parametrization\.width is 15: it must be even"):
        replace(WIDE, positions=Sinusoidal(), parametrization=replace(BASE, width=15))
