"""One training step and one evaluation step as pure functions, and their compilation on a mesh.

The gradient of a step is the sum over its target tokens, divided once by their global number. So neither micro-batches
nor the mesh change it, even if rows have unequal numbers of tokens.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray

from research.config import Adapter, Experiment, Model, Optimizer
from research.config.parts import is_shipped
from research.data.batch import Batch
from research.model.loss import Sums, chunks, cross_entropy, cross_entropy_in_chunks
from research.model.network import Network
from research.model.parameters import param_specs, state_specs, table_of
from research.model.transformer import abstract_params, bind, initial_params, own_rows, specs_of, without_dropout
from research.parallel.layout import BATCH_AXES, LOGITS, constrain
from research.parallel.mesh import batch_sharding
from research.parallel.padding import check_padded, cut, fill, placed
from research.parallel.rules import Tree, flatten, shardings, unflatten
from research.train.optimizer import Updater, build, learning_rate
from research.train.schedules import Constant

# Norms, relative biases and logits are computed in float32, so their parameters are not rounded. Embeddings are cast
# after the lookup instead: its gradient adds up the rows of equal tokens, and sums of thousands need float32.
PRECISE = ("norm/scale", "norm/bias", "relative_bias", "logits_bias", "embedding")


class TrainState(NamedTuple):
    """State of training. A step maps it to the next state."""

    step: Int[Array, ""]  # steps taken, including skipped ones
    params: Tree  # float32; those that an adapter does not train have its dtype `frozen`
    opt_state: Tree
    average: Tree | None = None  # moving average of the parameters (with an adapter, of those that are trained), if
    # experiment.average_decay is set

    @property
    def evaluated(self) -> Tree:
        """Parameters for evaluation and use: the average if there is one."""
        if self.average is None:
            return self.params
        whole = flatten(self.average).keys() == flatten(self.params).keys()
        return self.average if whole else _merge(self.params, self.average)


class Metrics(NamedTuple):
    """Metrics of one step, on the device. Means are per target token: weight steps by `target_tokens` to average them.

    For a skipped step all but the last three are 0, including `target_tokens`, so that it drops out of every average.
    """

    loss: Float[Array, ""]  # the training objective: smoothed cross entropy plus z-loss, in nats
    nll: Float[Array, ""]  # -log p(target), in nats
    z_loss: Float[Array, ""]  # the z-loss inside `loss`
    accuracy: Float[Array, ""]
    gradient_norm: Float[Array, ""]  # of trained parameters, before clipping
    target_tokens: Float[Array, ""]
    parameter_norm: Float[Array, ""]  # after the step; with an adapter, of trained parameters
    learning_rate: Float[Array, ""]
    skipped: Int[Array, ""]  # 1 if loss, gradient or parameters were not finite, so that the update was skipped


# --- State ------------------------------------------------------------------------------------------------------------


class _StateParts(NamedTuple):
    """The parts of an experiment on which the structure of its state depends."""

    model: Model
    optimizer: Optimizer
    steps: int
    averaged: bool


def _updater(experiment: Experiment, params: Tree) -> Updater:
    return build(experiment.optimizer, experiment.steps, params, experiment.model)


def _first_state(experiment: Experiment, params: Tree) -> TrainState:
    updater, adapter = _updater(experiment, params), experiment.model.adapter
    return _state(updater, adapter, params, experiment.average_decay is not None)


def _state(updater: Updater, adapter: Adapter | None, params: Tree, averaged: bool) -> TrainState:
    trained, frozen = updater.split(params)
    average = params if averaged else None
    if adapter is not None:
        average = trained if averaged else None
        params = _merge(trained, _stored(adapter, frozen))
    return TrainState(jnp.zeros((), jnp.int32), params, updater.init(trained), average)


def _stored(adapter: Adapter, frozen: Tree) -> Tree:
    """Convert parameters that an adapter does not train to the dtype in which it keeps them."""
    kept = {
        path: leaf if path.endswith(PRECISE[:-1]) else leaf.astype(adapter.frozen)
        for path, leaf in flatten(frozen).items()
    }
    return unflatten(kept)


def saved(experiment: Experiment, state: Any) -> Any:
    """Return what a checkpoint holds of a state, or of a tree of its structure: not what an adapter does not train."""
    adapter = experiment.model.adapter
    if adapter is None:
        return state
    trained = {path: leaf for path, leaf in flatten(state.params).items() if adapter.trains(path)}
    return state._replace(params=unflatten(trained))


def with_base(experiment: Experiment, mesh: jax.sharding.Mesh, state: TrainState, base: Tree) -> TrainState:
    """Add the parameters that an adapter does not train to a state from a checkpoint."""
    adapter, targets = experiment.model.adapter, flatten(state_shardings(experiment, mesh).params)
    assert adapter is not None
    frozen = {path: leaf for path, leaf in flatten(base).items() if not adapter.trains(path)}
    layouts = unflatten({path: targets[path] for path in frozen})
    convert = jax.jit(partial(_stored, adapter), donate_argnums=0, out_shardings=layouts)
    return state._replace(params=_merge(convert(unflatten(frozen)), state.params))


def _random_state(experiment: Experiment, key: PRNGKeyArray) -> TrainState:
    return _first_state(experiment, initial_params(experiment.model, key))


def _random_params(experiment: Experiment, paths: Collection[str], key: PRNGKeyArray) -> dict[str, Array]:
    """Initialise only the parameters at these paths. Under jit, the others are not computed."""
    params = flatten(initial_params(experiment.model, key))
    return {path: params[path] for path in paths}


def abstract_state(
    experiment: Experiment, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh | None = None
) -> TrainState:
    """Compute the shapes and dtypes of a state without allocating it; with a mesh, as the mesh pads and shards them.

    Raises:
        ConfigError: the optimizer does not fit the model.
    """
    state = _abstract_state(_state_parts(experiment))
    return state if mesh is None else placed(state, state_shardings(experiment, mesh))


def _state_parts(experiment: Experiment) -> _StateParts:
    """Return the parts that determine the state, which many variants of a sweep have in common.

    Raises:
        ConfigError: the schedule does not fit the number of steps.
    """
    optimizer, steps = experiment.optimizer, experiment.steps
    if is_shipped(type(optimizer)) and is_shipped(type(optimizer.schedule)):  # whose states do not depend on the rate
        optimizer.schedule.check(steps)
        optimizer, steps = replace(optimizer, schedule=Constant(peak=1.0)), 1
    return _StateParts(without_dropout(experiment.model), optimizer, steps, experiment.average_decay is not None)


@cache
def _abstract_state(parts: _StateParts) -> TrainState:
    params = abstract_params(parts.model)
    updater = build(parts.optimizer, parts.steps, params, parts.model)
    state = jax.eval_shape(partial(_state, updater, parts.model.adapter, averaged=parts.averaged), params)
    if not is_shipped(type(parts.optimizer)):  # find mistakes in a user's optimizer before anything is compiled
        trained, _ = updater.split(state.params)
        jax.eval_shape(updater.update, trained, state.opt_state, trained, state.step)
    return state


def state_shardings(experiment: Experiment, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> TrainState:
    """Compute the sharding of every array of a state."""
    return _state_shardings(_state_parts(experiment), mesh)


@cache
def _state_shardings(parts: _StateParts, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> TrainState:
    return shardings(mesh, _specs(parts))


@cache
def _specs(parts: _StateParts) -> TrainState:
    state = _abstract_state(parts)
    params = specs_of(parts.model)
    table = table_of(parts.model)
    average = None if state.average is None else param_specs(state.average, table)
    of_optimizer = state_specs(state.opt_state, state.params, table)
    return TrainState._make((PartitionSpec(), params, of_optimizer, average))


def check_stored(experiment: Experiment, found: Mapping[str, tuple[int, ...]]) -> None:
    """Check the shapes of a stored state by path: a mesh may have padded its vocabulary.

    Raises:
        ConfigError: a shape is not that of the experiment's state.
    """
    parts = _state_parts(experiment)
    check_padded(found, _abstract_state(parts), _specs(parts))


def _own_rows(experiment: Experiment, state: TrainState) -> TrainState:
    parts = _state_parts(experiment)
    return cut(state, _abstract_state(parts), _specs(parts))


def new_state(
    experiment: Experiment, mesh: jax.sharding.Mesh, key: PRNGKeyArray, given: Tree | None = None
) -> TrainState:
    """Initialise a state, sharded from the start: no device ever holds all of it. Every mesh gives the same numbers.

    `given` are parameters with their shardings; their buffers are donated to the state. Parameters that it lacks are
    random, with the values they would have without it.
    """
    whole = abstract_state(experiment, mesh)

    def compiled(make: Callable[[Any], Tree], like: Tree, **options: Any) -> Callable[[Any], Tree]:
        places = jax.tree.map(lambda leaf: leaf.sharding, like)
        return jax.jit(lambda given: fill(make(given), like), out_shardings=places, **options)

    if given is None:
        return compiled(partial(_random_state, experiment), whole)(key)
    params = flatten(given)
    missing = {path: leaf for path, leaf in flatten(whole.params).items() if path not in params}
    if missing:
        params |= compiled(partial(_random_params, experiment, missing.keys()), missing)(key)

    def first(params: Tree) -> TrainState:
        return _first_state(experiment, own_rows(experiment.model, params))

    return compiled(first, whole, donate_argnums=0)(unflatten(params))


# --- Steps ------------------------------------------------------------------------------------------------------------


def train_step(
    experiment: Experiment, state: TrainState, batch: Batch, key: PRNGKeyArray
) -> tuple[TrainState, Metrics]:
    """Make one update. Dropout depends on `key`, which is fixed for a run, and the step.

    If the loss, the gradient or an updated parameter is not finite (or the target tokens have no weight), parameters
    and optimizer state stay bitwise unchanged, but the step still advances. Rows of zeros that a mesh adds stay zero.
    """
    given, state = state, _own_rows(experiment, state)
    updater = _updater(experiment, state.params)
    trained, frozen = updater.split(state.params)
    gradients, sums = _summed_gradients(experiment, trained, frozen, batch, jax.random.fold_in(key, state.step))
    gradients = jax.tree.map(lambda gradient: gradient / sums.weight, gradients)
    gradient_norm = optax.global_norm(gradients)
    with jax.named_scope("optimizer"):
        updated, opt_state = updater.update(gradients, state.opt_state, trained, state.step)
    finite = jnp.isfinite(sums.loss) & jnp.isfinite(gradient_norm) & jnp.isfinite(optax.global_norm(updated))
    updated, opt_state = jax.tree.map(partial(jnp.where, finite), (updated, opt_state), (trained, state.opt_state))
    params = _merge(updated, frozen)
    average, kept = state.average, params if experiment.model.adapter is None else updated
    if experiment.average_decay is not None:
        moved = _update_average(average, kept, experiment.average_decay, state.step)
        average = jax.tree.map(partial(jnp.where, finite), moved, average)

    def mean(total: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.where(finite, total / sums.weight, 0.0)

    metrics = Metrics(
        loss=mean(sums.loss),
        nll=mean(sums.nll),
        z_loss=mean(sums.z_loss),
        accuracy=mean(sums.correct),
        gradient_norm=jnp.where(finite, gradient_norm, 0.0),
        target_tokens=jnp.where(finite, sums.weight, 0.0),
        parameter_norm=optax.global_norm(kept),
        learning_rate=learning_rate(experiment.optimizer.schedule, experiment.steps)(state.step),
        skipped=1 - finite.astype(jnp.int32),
    )
    return fill(TrainState(state.step + 1, params, opt_state, average), given), metrics


def _update_average(average: Tree, params: Tree, decay: float, step: Int[Array, ""]) -> Tree:
    """Update the average. As in Marian, decay is at most (1 + step) / (10 + step), so that early steps count more."""
    kept = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda before, now: before + (1.0 - kept) * (now - before), average, params)


def eval_step(experiment: Experiment, params: Tree, batch: Batch) -> Sums:
    """Sum losses over the target tokens of a batch, without dropout. Add the sums of several batches, then divide."""
    return summed_loss(experiment, _cast(experiment, params), batch, None)


def summed_loss(experiment: Experiment, params: Tree, batch: Batch, key: PRNGKeyArray | None) -> Sums:
    """Sum the loss over a batch. `params` are already cast; `key=None` disables dropout."""
    network = bind(experiment.model, params)
    targets, weights = jax.tree.map(jnp.asarray, (batch.decoder_target_tokens, batch.decoder_loss_weights))
    loss = experiment.loss
    settings: dict[str, Any] = {
        "z_loss": loss.z_loss,
        "label_smoothing": loss.label_smoothing,
        "smoothing": loss.smoothing,
    }
    count = chunks(targets.shape, experiment.model.vocab_size)
    if count > 1 and type(network).__call__ is Network.__call__:  # a network with a call of its own gives its logits
        return cross_entropy_in_chunks(network.logits, network.hidden(batch, key), targets, weights, count, **settings)
    # Constrain the logits; otherwise the partitioner may split them by the head's fsdp shards and gather activations.
    logits = constrain(network(batch, key), LOGITS)
    with jax.named_scope("loss"):
        return cross_entropy(logits, targets, weights, **settings)


def _summed_gradients(
    experiment: Experiment, trained: Tree, frozen: Tree, batch: Batch, key: PRNGKeyArray
) -> tuple[Tree, Sums]:
    """Compute float32 gradients of the summed loss, and the sums, accumulated over the micro-batches."""
    specs, count = param_specs(trained, table_of(experiment.model)), experiment.microbatches
    # Cast once per step, not once per micro-batch. If parameters are sharded, the cast ones are gathered.
    cast, frozen = _cast(experiment, trained), _cast(experiment, frozen)

    def gradients_and_sums(rows: Batch, key: PRNGKeyArray) -> tuple[Tree, Sums]:
        def summed(params: Tree) -> tuple[Float[Array, ""], Sums]:
            sums = summed_loss(experiment, _merge(params, frozen), rows, key if experiment.model.dropped else None)
            return sums.loss, sums

        gradients, sums = jax.grad(summed, has_aux=True)(cast)
        return constrain(jax.tree.map(lambda gradient: gradient.astype(jnp.float32), gradients), specs), sums

    if count == 1:
        return gradients_and_sums(batch, key)

    def accumulate(total: tuple[Tree, Sums], inputs: tuple[Batch, PRNGKeyArray]) -> tuple[tuple[Tree, Sums], None]:
        return jax.tree.map(jnp.add, total, gradients_and_sums(*inputs)), None

    zeros = constrain(jax.tree.map(jnp.zeros_like, trained), specs), Sums(*[jnp.zeros(())] * len(Sums._fields))
    total, _ = jax.lax.scan(accumulate, zeros, (_microbatches(batch, count), jax.random.split(key, count)))
    return total


def _microbatches(batch: Batch, count: int) -> Batch:
    """Split a batch into micro-batches of every count-th row, so that each device already has its share of each one."""

    def deal(rows: Array) -> Array:
        dealt = rows.reshape(-1, count, *rows.shape[1:]).swapaxes(0, 1)
        return constrain(dealt, PartitionSpec(None, BATCH_AXES))

    return jax.tree.map(deal, batch)


def _cast(experiment: Experiment, params: Tree) -> Tree:
    flat = flatten(params)
    return unflatten(
        {path: leaf if path.endswith(PRECISE) else leaf.astype(experiment.model.compute) for path, leaf in flat.items()}
    )


def _merge(trained: Tree, frozen: Tree) -> Tree:
    return unflatten({**flatten(trained), **flatten(frozen)})


# --- Compilation ------------------------------------------------------------------------------------------------------


def compile_train_step(
    experiment: Experiment, mesh: jax.sharding.Mesh, batch: Batch, *, options: dict[str, Any] | None = None
) -> jax.stages.Compiled:
    """Compile `train_step` of (state, batch, key) for batches of these global shapes and dtypes.

    `options` are for XLA's compiler.

    The state is donated: its buffers become those of the new state. `memory_analysis()` of the result reports the
    memory that a device will need, before anything is allocated.
    """
    state, whole = state_shardings(experiment, mesh), NamedSharding(mesh, PartitionSpec())
    step = jax.jit(
        partial(train_step, experiment),
        donate_argnums=0,
        in_shardings=(state, batch_sharding(mesh), whole),
        out_shardings=(state, whole),
    )
    with jax.set_mesh(mesh):
        return step.lower(abstract_state(experiment, mesh), _shapes(batch), _abstract_key()).compile(options)


def compile_eval_step(experiment: Experiment, mesh: jax.sharding.Mesh, batch: Batch) -> jax.stages.Compiled:
    """Compile `eval_step` of (params, batch) for batches of these global shapes and dtypes."""
    params, whole = state_shardings(experiment, mesh).params, NamedSharding(mesh, PartitionSpec())
    step = jax.jit(partial(eval_step, experiment), in_shardings=(params, batch_sharding(mesh)), out_shardings=whole)
    with jax.set_mesh(mesh):
        return step.lower(abstract_state(experiment, mesh).params, _shapes(batch)).compile()


class EachShape:
    """A step compiled for every shape of batch. A call selects the program by the shape of its second argument."""

    def __init__(self, compile: Callable[[Batch], jax.stages.Compiled], batches: Iterable[Batch]) -> None:
        self.compiled = {batch.encoder_input_tokens.shape: compile(batch) for batch in batches}

    def __call__(self, first: Any, batch: Batch, *others: Any) -> Any:
        return self.compiled[batch.encoder_input_tokens.shape](first, batch, *others)

    @property
    def largest(self) -> jax.stages.Compiled:
        """The program that needs the most memory."""

        def activations(step: jax.stages.Compiled) -> int:
            memory: Any = step.memory_analysis()
            return memory.temp_size_in_bytes

        return max(self.compiled.values(), key=activations)


def _shapes(batch: Batch) -> Batch:
    return jax.tree.map(lambda rows: jax.ShapeDtypeStruct(rows.shape, rows.dtype), batch)


def _abstract_key() -> jax.ShapeDtypeStruct:
    return jax.eval_shape(partial(jax.random.key, 0))
