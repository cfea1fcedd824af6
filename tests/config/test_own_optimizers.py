"""Optimizers and schedules of one's own: the examples in the bases' docstrings work, and mistakes are one sentence."""

import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research import (
    Constant,
    Denoising,
    Experiment,
    MaximalUpdate,
    Mesh,
    Model,
    Optimizer,
    Parameter,
    PlainText,
    Schedule,
)
from research.config import ConfigError, classes, override
from research.parallel.mesh import abstract_mesh
from research.parallel.rules import flatten, unflatten
from research.train.optimizer import build, learning_rate
from research.train.state import abstract_state, state_shardings

MODEL = Model(64, 16, 4, 4, 32, 2, 2)
MUP = replace(MODEL, parametrization=MaximalUpdate(8, 4, 4, 16))
DOWN = "encoder/layers/feed_forward/down/weight"  # [l f d], reads f
PARAMS = unflatten({"embedding": jnp.ones((64, 16)), DOWN: jnp.ones((2, 32, 16))})
PEAK = Constant(peak=0.5)


def examples(base: type) -> list[str]:
    """The blocks of code in the docstring of a base that define a class."""
    lines = inspect.getdoc(base) or ""
    blocks = re.findall(r"(?:^    .*\n|^\n)+", lines + "\n", flags=re.M)
    return [textwrap.dedent(block) for block in blocks if "class " in block]


def defined(source: str) -> dict[str, Any]:
    names = {"dataclass": dataclass, "Optimizer": Optimizer, "Schedule": Schedule, "Experiment": Experiment}
    exec(source, names)
    return names


def moved(settings: Optimizer, model: Model, gradient: float = 0.01) -> dict[str, np.ndarray]:
    """How far one step moves each parameter."""
    updater = build(settings, 10, PARAMS, model)
    gradients = jax.tree.map(lambda leaf: jnp.full_like(leaf, gradient), PARAMS)
    new, _ = jax.jit(updater.update)(gradients, updater.init(PARAMS), PARAMS, jnp.int32(0))
    return {path: np.asarray(leaf) - 1.0 for path, leaf in flatten(new).items()}


def test_the_examples_of_the_optimizer_s_docstring() -> None:
    plain, maximal = examples(Optimizer)
    lion = defined(plain)["Lion"](schedule=PEAK, weight_decay=0.1, no_decay=("embedding",), clip_norm=1.0)
    steps = moved(lion, MODEL)
    np.testing.assert_allclose(steps["embedding"], -0.5, rtol=1e-6)
    np.testing.assert_allclose(steps[DOWN], -0.5 - 0.5 * 0.1, rtol=1e-6)
    lion = defined(maximal)["Lion"](schedule=PEAK, no_decay=())
    steps = moved(lion, MUP)
    np.testing.assert_allclose(steps["embedding"], -0.5, rtol=1e-6)
    np.testing.assert_allclose(steps[DOWN], -0.5 / 2, rtol=1e-6)


def test_the_example_of_the_schedule_s_docstring() -> None:
    (source,) = examples(Schedule)
    schedule = defined(source)["Staircase"](peak=2.0, every=10, warmup=4)
    rates = [float(learning_rate(schedule, 100)(jnp.int32(step))) for step in (0, 2, 4, 9, 10, 25)]
    np.testing.assert_allclose(rates, [0.0, 1.0, 2.0, 2.0, 0.2, 0.02], rtol=1e-6)


@dataclass(frozen=True, kw_only=True)
class Noisy(Optimizer):
    """SGD with momentum, that goes wrong in the way of `fault`."""

    fault: str = ""

    def transformation(self, rate: Any, parameters: Any) -> optax.GradientTransformation:
        assert all(isinstance(parameter, Parameter) for parameter in parameters.values())
        inner = optax.sgd(rate, momentum=0.9)
        match self.fault:
            case "raises":
                raise KeyError("no such thing")
            case "shape":
                return optax.chain(inner, optax.stateless(lambda updates, _: jax.tree.map(jnp.sum, updates)))
            case "state":
                init = optax.trace(0.9).init
                return optax.GradientTransformation(init, lambda updates, state, params: (updates, {}))
        return inner


def experiment(optimizer: Optimizer, **changes: Any) -> Experiment:
    data = Denoising(corpora=(PlainText(train="unread"),))
    return Experiment(model=MODEL, data=data, optimizer=optimizer, steps=10, batch_size=8, **changes)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raises", r"test_own_optimizers.py:\d+: Noisy.transformation raised KeyError: 'no such thing'"),
        ("shape", r"Noisy.transformation returned updates with float32\[\] at .*norm/bias|.*, where float32\[.*\] was"),
        ("state", r"Noisy.transformation returned a state with nothing at trace/.*, where float32\[.*\] was given"),
    ],
)
def test_a_mistake_is_named_before_anything_is_compiled(fault: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        abstract_state(experiment(Noisy(schedule=PEAK, no_decay=(), fault=fault)))


def test_a_class_without_the_method_is_refused() -> None:
    lacking = dataclass(frozen=True, kw_only=True)(type("Lacking", (Optimizer,), {"__module__": __name__}))
    with pytest.raises(ConfigError, match=r"Lacking lacks transformation\(\): Optimizer needs it"):
        lacking(schedule=PEAK)


def test_mup_is_refused_without_a_rule_for_it() -> None:
    with pytest.raises(ConfigError, match=r"optimizer is Noisy, which has no rule for muP, model.parametrization"):
        abstract_state(replace(experiment(Noisy(schedule=PEAK, no_decay=())), model=MUP))


def test_the_rate_of_any_optimizer_follows_the_step_of_the_run() -> None:
    settings = Noisy(schedule=Constant(peak=1.0, warmup=10), no_decay=())
    updater = build(settings, 100, PARAMS, MODEL)
    gradients = jax.tree.map(jnp.ones_like, PARAMS)
    for step in (1, 5):
        new, _ = updater.update(gradients, updater.init(PARAMS), PARAMS, jnp.int32(step))
        np.testing.assert_allclose(new["embedding"], 1 - step / 10, rtol=1e-5)


def test_its_state_is_split_by_the_table() -> None:
    settings = experiment(Noisy(schedule=PEAK, no_decay=(), frozen=("encoder/",)))
    placed = state_shardings(settings, abstract_mesh(Mesh(1, 4, 1, 2), 8))
    momentum, params = flatten(placed.opt_state[0].trace), flatten(placed.params)
    assert momentum.keys() == {path for path in params if not path.startswith("encoder/")}
    assert all(params[path] == place for path, place in momentum.items())


@pytest.fixture
def known() -> Iterator[None]:
    before = list(classes._namespaces)
    classes.remember({"Noisy": Noisy})
    yield
    classes._namespaces[:] = before


@pytest.mark.usefixtures("known")
def test_an_own_optimizer_is_an_override_and_comes_back_from_json() -> None:
    settings = experiment(override.parse(Optimizer, "Noisy(schedule=Cosine(peak=1e-3), fault='shape')", "it"))
    assert isinstance(settings.optimizer, Noisy)
    assert settings.optimizer.fault == "shape"
    assert override.from_json(override.to_json(settings)) == settings
