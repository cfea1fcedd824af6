"""The coordinate check of muP: do a model's activations change equally at every width?

A few steps at one learning rate change the coordinates of every activation. The change is equal at all widths if the
learning rate transfers to wider models, and grows with the width if it does not (arXiv:2203.03466, appendix D.1). Both
parametrizations are checked, so a flat result under muP can be compared with the slope under the standard one.
"""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from research.config import Experiment, MaximalUpdate, Mesh, Model, Standard, require, widths
from research.data.batch import Batch
from research.data.pipeline import prepare
from research.model.attention import Attention
from research.model.layer import Dense, Stack
from research.model.parametrization import score_scale
from research.model.transformer import bind
from research.parallel.layout import AXES
from research.pretrained.rows import check_vocabulary
from research.report.plot import plot_panels
from research.report.table import Cell, Table
from research.train.schedules import Constant
from research.train.state import new_state
from research.train.step import train_step

SLOPE = (
    0.25  # threshold on d log(movement) / d log(width): above it a part grows with the width, below -SLOPE it shrinks
)

Activations = dict[str, list[Array]]  # by the name of the part that computes them; one array a layer


class Movement(NamedTuple):
    """The root-mean-square change of one activation's coordinates at each width."""

    name: str
    distances: list[float]
    slope: float  # d log(distance) / d log(width)


def check(
    config: Experiment, sizes: Sequence[int], steps: int, seeds: int, on_run: Callable[[], Any] = lambda: None
) -> dict[str, list[Movement]]:
    """Measure, per parametrization, how far `steps` training steps move each activation at each width.

    The models have the proportions of muP's base: the experiment's base or, if it has none, its model. The learning
    rate is the schedule's peak from the first step on. Activations that never move, such as those of frozen parts, are
    left out. `on_run` is called after each of the 2 * len(sizes) * seeds trainings.

    Raises:
        ConfigError: the sizes are not valid widths of this model or are fewer than three, the data is not available or
            does not fit the vocabulary, or a loss is not finite.
    """
    require(len(set(sizes)) >= 3, f"Got {len(set(sizes))} different widths: fitting a slope needs at least three.")
    require(steps > 0 and seeds > 0, f"steps is {steps} and seeds {seeds}: each must be above 0.")
    require(
        config.optimizer.schedule.peak > 0, "optimizer.schedule.peak is 0: with this learning rate nothing changes."
    )
    base = config.model.base
    maximal = MaximalUpdate(base.width, base.heads, base.head_width, base.feed_forward)
    model_sizes = [
        {name.removeprefix("model."): size for name, size in change.items()} for change in widths(base, sizes)
    ]
    pipeline = prepare(config.data, config.seed, config.batch_size, config.model.zero_token, config.model.prompt)
    check_vocabulary(base, pipeline.tokenizer)
    batches = list(islice(pipeline.train(), steps))
    watched = next(pipeline.held_out(1))
    movements = {}
    for name, parametrization in (("standard", Standard()), ("muP", maximal)):
        distances = []
        for model_size in model_sizes:
            model = replace(base, **model_size, parametrization=parametrization, compute="float32")
            runs = []
            for run_distances in _train_seeds(_plain(config, model), batches, watched, seeds):
                runs.append(run_distances)
                on_run()
            distances.append({part: float(np.mean([run[part] for run in runs])) for part in runs[0]})
        parts = {part: [at_width[part] for at_width in distances] for part in distances[0]}
        movements[name] = [_movement(part, sizes, values) for part, values in parts.items() if min(values) > 0]
    return movements


def _plain(config: Experiment, model: Model) -> Experiment:
    """Return the experiment with this model on one device, at a constant learning rate."""
    optimizer = replace(config.optimizer, schedule=Constant(peak=config.optimizer.schedule.peak))
    return replace(config, model=model, optimizer=optimizer, mesh=Mesh(), init=None, init_fresh=())


def _train_seeds(
    config: Experiment, batches: Sequence[Batch], watched: Batch, seeds: int
) -> Iterator[dict[str, float]]:
    """Train on the batches once per seed; yield the root-mean-square change of each activation."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape((1,) * len(AXES)), AXES)
    look, step = jax.jit(partial(activations, config)), jax.jit(partial(train_step, config))
    for seed in range(seeds):
        key, data_key = jax.random.split(jax.random.key(config.seed + seed))
        state = new_state(config, mesh, key)
        before = look(state.params, watched)
        for batch in batches:
            state, metrics = step(state, batch, data_key)
            rate, width = config.optimizer.schedule.peak, config.model.width
            finite = not int(metrics.skipped)
            require(
                finite, f"Width {width}: a loss in the first steps is not finite. Lower the learning rate ({rate})."
            )
        yield _distances(before, look(state.params, watched))


def _distances(before: Activations, after: Activations) -> dict[str, float]:
    """Compute the root-mean-square change of each activation, over all layers together."""
    distances = {}
    for name, parts in before.items():
        squares = [float(jnp.sum(jnp.square(new - old))) for old, new in zip(parts, after[name], strict=True)]
        distances[name] = (sum(squares) / sum(part.size for part in parts)) ** 0.5
    return distances


def _movement(name: str, sizes: Sequence[int], distances: list[float]) -> Movement:
    return Movement(name, distances, float(np.polyfit(np.log(sizes), np.log(distances), 1)[0]))


# --- Activations ------------------------------------------------------------------------------------------------------


def activations(config: Experiment, params: Any, batch: Batch) -> Activations:
    """Collect the outputs of all dense layers, the residual streams between layers, attention scores and logits."""
    model, seen = bind(config.model, params), Activations()
    stacks: dict[str, Any] = {name: part for name, part in vars(model).items() if isinstance(part, Stack)}
    for name, stack in stacks.items():
        stack.scan = partial(_scan, seen, name, stack)
    return seen | {"logits": [model(batch)]}


def _scan(seen: Activations, name: str, stack: Stack, body: Callable[..., Any], carry: Any, inputs: Any) -> Any:
    """Run the stack layer by layer: a compiled loop would hide the activations inside it."""
    _note(seen, f"{name}/embedded", carry)
    for index, layer in enumerate(stack.unstacked()):
        for part, module in list(vars(layer).items()):
            _watch(seen, f"{name}/{part}", module)
        carry = body(carry, layer, *jax.tree.map(operator.itemgetter(index), inputs))
        _note(seen, f"{name}/residual", carry)
    return carry


def _watch(seen: Activations, name: str, module: Any) -> None:
    if isinstance(module, nnx.Module):
        for part, linear in list(vars(module).items()):
            if isinstance(linear, Dense):
                setattr(module, part, partial(_product, seen, f"{name}/{part}", linear))
    if isinstance(module, Attention):
        watched: Any = module
        watched.attend = partial(_attend, seen, name, module, module.attend)


def _product(seen: Activations, name: str, linear: Dense, x: Array) -> Array:
    y = linear(x)
    _note(seen, name, y)
    return y


def _attend(
    seen: Activations, name: str, attention: Attention, attend: Callable[..., Array], x: Array, key: Array, *rest: Any
) -> Array:
    result = attend(x, key, *rest)
    query = seen[f"{name}/query"][-1] * score_scale(attention.config)
    _note(seen, f"{name}/scores", jnp.einsum("bthk,bshk->bhts", query, key))
    return result


def _note(seen: Activations, name: str, values: Any) -> None:
    seen.setdefault(name, []).extend(jax.tree.leaves(values))


# --- Results ----------------------------------------------------------------------------------------------------------


def tables(movements: Mapping[str, Sequence[Movement]], sizes: Sequence[int], steps: int) -> list[Table]:
    note = f"Root-mean-square change after {steps} steps; slope of its logarithm against the logarithm of the width."
    header = ("", *map(str, sizes), "slope")
    return [
        Table(
            name,
            header,
            [
                [Cell(one.name), *(Cell(f"{distance:.3g}") for distance in one.distances), Cell(f"{one.slope:+.2f}")]
                for one in of_parametrization
            ],
            note,
        )
        for name, of_parametrization in movements.items()
    ]


def verdict(name: str, movements: Sequence[Movement]) -> str:
    """Summarize one parametrization's movements in a sentence."""
    steep = sorted((one for one in movements if abs(one.slope) > SLOPE), key=lambda one: -abs(one.slope))
    parts = []
    for distance, some in (
        ("further", [one for one in steep if one.slope > 0]),
        ("less far", [one for one in steep if one.slope < 0]),
    ):
        if some:
            listed = ", ".join(f"{one.name} ({one.slope:+.2f})" for one in some)
            parts.append(f"{len(some)} of {len(movements)} move {distance} the wider the model is: {listed}")
    return f"{name}: {'; '.join(parts) or f'no slope is steeper than {SLOPE}'}."


def draw(path: Path, movements: Mapping[str, Sequence[Movement]], sizes: Sequence[int]) -> None:
    panels = {
        name: {one.name: list(zip(map(float, sizes), one.distances, strict=True)) for one in of_parametrization}
        for name, of_parametrization in movements.items()
    }
    plot_panels(path, panels, "model width", "root mean square of the change")
