"""One training step and one evaluation step as pure functions, and their compilation on a mesh.

The gradient of a step is the sum over its target tokens, divided once by their global number. So neither micro-batches
nor the mesh change it, even if rows have unequal numbers of tokens.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray

from research.config import Experiment
from research.data.batch import Batch
from research.model.loss import Sums, Teacher, chunks, cross_entropy, cross_entropy_in_chunks, distilled, zero_sums
from research.model.network import Network
from research.model.parameters import param_specs, table_of
from research.model.quantized import INTEGERS, PRECISE, cast
from research.model.transformer import bind
from research.parallel.layout import BATCH_AXES, LOGITS, constrain
from research.parallel.mesh import batch_sharding
from research.parallel.padding import fill
from research.parallel.rules import Tree, merge
from research.train.optimizer import learning_rate
from research.train.state import TrainState, abstract_state, abstract_teacher, own_state, state_shardings, updater_of


class Metrics(NamedTuple):
    """Metrics of one step, on the device. Means are per target token: weight steps by `target_tokens` to average them.

    For a skipped step all but parameter_norm, learning_rate and skipped are 0, including `target_tokens`, so that it
    drops out of every average.
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
    divergence: Float[Array, ""] | None = None  # with a teacher: KL(teacher || student) at the temperature, in nats


# --- Steps ------------------------------------------------------------------------------------------------------------


def train_step(
    experiment: Experiment, state: TrainState, batch: Batch, key: PRNGKeyArray, teacher: Tree | None = None
) -> tuple[TrainState, Metrics]:
    """Make one update. Dropout depends on `key`, which is fixed for a run, and the step.

    `teacher` has the parameters of `experiment.distil.teacher`, as research/train/teacher.py reads them.

    If the loss, the gradient or an updated parameter is not finite (or the target tokens have no weight), parameters
    and optimizer state stay bitwise unchanged, but the step still advances. Rows of zeros that a mesh adds stay zero.
    """
    given, state = state, own_state(experiment, state)
    updater = updater_of(experiment)
    trained, frozen = updater.split(state.params)
    key = jax.random.fold_in(key, state.step)
    gradients, sums = _summed_gradients(experiment, trained, frozen, batch, key, teacher)
    gradients = jax.tree.map(lambda gradient: gradient / sums.weight, gradients)
    gradient_norm = optax.global_norm(gradients)
    with jax.named_scope("optimizer"):
        updated, opt_state = updater.update(gradients, state.opt_state, trained, state.step)
    finite = jnp.isfinite(sums.loss) & jnp.isfinite(gradient_norm) & jnp.isfinite(optax.global_norm(updated))
    updated, opt_state = jax.tree.map(partial(jnp.where, finite), (updated, opt_state), (trained, state.opt_state))
    params = merge(updated, frozen)
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
        divergence=None if teacher is None else mean(jnp.asarray(sums.divergence)),
    )
    return fill(TrainState(state.step + 1, params, opt_state, average), given), metrics


def _update_average(average: Tree, params: Tree, decay: float, step: Int[Array, ""]) -> Tree:
    """Update the average. As in Marian, decay is at most (1 + step) / (10 + step), so that early steps count more."""
    kept = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda before, now: before + (1.0 - kept) * (now - before), average, params)


def eval_step(experiment: Experiment, params: Tree, batch: Batch) -> Sums:
    """Sum losses over the target tokens of a batch, without dropout. Add the sums of several batches, then divide."""
    return summed_loss(experiment, _cast(experiment, params), batch, None)


def summed_loss(
    experiment: Experiment, params: Tree, batch: Batch, key: PRNGKeyArray | None, teacher: Tree | None = None
) -> Sums:
    """Sum the loss over a batch. `params` are already cast; `key=None` disables dropout.

    Without `teacher`, the parameters of the experiment's teacher, the loss is the usual one.
    """
    network = bind(experiment.model, params)
    targets, weights = jax.tree.map(jnp.asarray, (batch.decoder_target_tokens, batch.decoder_loss_weights))
    loss = experiment.loss
    settings: dict[str, Any] = {
        "z_loss": loss.z_loss,
        "label_smoothing": loss.label_smoothing,
        "smoothing": loss.smoothing,
    }
    distil, guide = experiment.distil, None
    if teacher is not None and distil is not None:
        guide = bind(distil.teacher, jax.lax.stop_gradient(teacher))
    networks = [network] if guide is None else [network, guide]
    count = chunks(targets.shape, len(networks) * experiment.model.vocab_size)
    # A network with a call of its own gives its logits.
    if count > 1 and all(type(each).__call__ is Network.__call__ for each in networks):
        taught = None if guide is None or distil is None else Teacher(guide.logits, guide.hidden(batch), distil)
        x = network.hidden(batch, key)
        return cross_entropy_in_chunks(network.logits, x, targets, weights, count, taught, **settings)
    # Constrain the logits; otherwise the partitioner may split them by the head's fsdp shards and gather activations.
    logits = constrain(network(batch, key), LOGITS)
    with jax.named_scope("loss"):
        sums = cross_entropy(logits, targets, weights, **settings)
    if guide is None or distil is None:
        return sums
    with jax.named_scope("teacher"):
        taught = constrain(guide(batch), LOGITS)
    with jax.named_scope("loss"):
        return distilled(sums, logits, taught, weights, distil)


def _summed_gradients(
    experiment: Experiment,
    trained: Tree,
    frozen: Tree,
    batch: Batch,
    key: PRNGKeyArray,
    teacher: Tree | None = None,
) -> tuple[Tree, Sums]:
    """Compute float32 gradients of the summed loss, and the sums, accumulated over the micro-batches."""
    specs, count = param_specs(trained, table_of(experiment.model)), experiment.microbatches
    # Cast once per step, not once per micro-batch. If parameters are sharded, the cast ones are gathered.
    lower, frozen = _cast(experiment, trained), _cast(experiment, frozen)

    def gradients_and_sums(rows: Batch, key: PRNGKeyArray) -> tuple[Tree, Sums]:
        def summed(params: Tree) -> tuple[Float[Array, ""], Sums]:
            drawn = key if experiment.model.dropped else None
            sums = summed_loss(experiment, merge(params, frozen), rows, drawn, teacher)
            return sums.loss, sums

        gradients, sums = jax.grad(summed, has_aux=True)(lower)
        return constrain(jax.tree.map(lambda gradient: gradient.astype(jnp.float32), gradients), specs), sums

    if count == 1:
        return gradients_and_sums(batch, key)

    def accumulate(total: tuple[Tree, Sums], inputs: tuple[Batch, PRNGKeyArray]) -> tuple[tuple[Tree, Sums], None]:
        return jax.tree.map(jnp.add, total, gradients_and_sums(*inputs)), None

    zeros = constrain(jax.tree.map(jnp.zeros_like, trained), specs), zero_sums()
    total, _ = jax.lax.scan(accumulate, zeros, (_microbatches(batch, count), jax.random.split(key, count)))
    return total


def _microbatches(batch: Batch, count: int) -> Batch:
    """Split a batch into micro-batches of every count-th row, so that each device already has its share of each one."""

    def deal(rows: Array) -> Array:
        dealt = rows.reshape(-1, count, *rows.shape[1:]).swapaxes(0, 1)
        return constrain(dealt, PartitionSpec(None, BATCH_AXES))

    return jax.tree.map(deal, batch)


def _cast(experiment: Experiment, params: Tree) -> Tree:
    return cast(params, experiment.model.compute, (*PRECISE, *INTEGERS))


# --- Compilation ------------------------------------------------------------------------------------------------------


def compile_train_step(
    experiment: Experiment, mesh: jax.sharding.Mesh, batch: Batch, *, options: dict[str, Any] | None = None
) -> jax.stages.Compiled:
    """Compile `train_step` of (state, batch, key), and the teacher if there is one, for batches of these global shapes.

    `options` are for XLA's compiler.

    The state is donated: its buffers become those of the new state. `memory_analysis()` of the result reports the
    memory that a device will need, before anything is allocated.
    """
    state, whole = state_shardings(experiment, mesh), NamedSharding(mesh, PartitionSpec())
    teacher = () if experiment.distil is None else (abstract_teacher(experiment.distil.teacher, mesh),)
    step = jax.jit(
        partial(train_step, experiment),
        donate_argnums=0,
        in_shardings=(state, batch_sharding(mesh), whole, *jax.tree.map(lambda leaf: leaf.sharding, teacher)),
        out_shardings=(state, whole),
    )
    with jax.set_mesh(mesh):
        return step.lower(abstract_state(experiment, mesh), _shapes(batch), _abstract_key(), *teacher).compile(options)


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
