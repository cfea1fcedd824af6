"""A roofline model of the training step: a lower bound of its time from matrix products, memory and communication.

Nothing is compiled or run. Memory traffic counts only arrays that are written and read again if neighbouring
elementwise operations are fused, so good implementations take 1.2 to 1.8 times as long. It is counted in features of
the compute dtype, for the forward and backward pass together, per token unless noted otherwise:

products     3 (read + written): the inputs and outputs of the forward product and of the two backward ones
norms, sums  10 d per sublayer
activation   8 f, gated 12 f
scores       15 per pair of query and key: write, mask, exponentiate, normalize, and the backward pass of these;
             none where cuDNN or blocks of rows keep them on the chip
logits       9 per target token and token of the vocabulary

Every parameter adds 3 per micro-batch, and the optimizer reads and writes it and its states once in float32. A
teacher's forward pass adds a third of a training step's traffic.

Over `tensor`, the output of each sublayer and the gradient of its input are summed. Over `sequence`, keys and values
are gathered and their gradients scattered. Both add to the time of the step. Over `fsdp`, weights are gathered for the
forward and backward pass of every micro-batch, and gradients are scattered. Over `data` and `sequence`, gradients are
summed. These overlap with computation: only the excess over its time counts.
"""

from functools import cache
from typing import NamedTuple

from research.config import DecoderOnly, Experiment, Mesh, Model
from research.model.flops import forward_flops, parameter_count, train_flops, trained_count
from research.model.mask import AttentionPart
from research.model.transformer import abstract_params
from research.parallel.hardware import Hardware
from research.plan.attention import backends
from research.train.optimizers import Adafactor

REACHED = 0.8  # share of the data sheet's FLOP/s that large products reach: 769 - 798 of 989 TFLOP/s on an H200
SIZES = {"bfloat16": 2, "float32": 4}
STATES = {True: 20, False: 28}  # bytes per parameter that Adafactor (True) or others, such as AdamW, read and write
# Shares of products and of traffic that remat repeats.
REMAT_OVERHEAD = {"none": (0.0, 0.0), "dots": (0.0, 0.15), "full": (1 / 3, 0.3)}


class Times(NamedTuple):
    """Seconds that each part adds to a step."""

    products: float | int
    memory: float | int  # traffic of everything but products
    activations: float | int  # communication of activations over tensor and sequence
    exchange: float | int  # communication of weights and gradients that does not overlap with products and memory

    @property
    def step(self) -> float | int:
        return sum(self)

    @property
    def limit(self) -> str:
        """The name of the slowest part."""
        return max(zip(self, self._fields, strict=True))[1]


class RowWork(NamedTuple):
    """Work of all layers for a row, in features times tokens."""

    split: float | int  # traffic that the tensor axis splits
    whole: float | int  # traffic repeated on each chip of the tensor axis
    summed: float | int  # sums over the tensor axis
    attended: float | int  # keys and values, gathered over the sequence axis


def step_times(experiment: Experiment, hardware: Hardware, mesh: Mesh, input_length: int, target_length: int) -> Times:
    """Compute the lower bounds of a step's parts. The mesh must be resolved (no -1) and use all chips."""
    model, chip, size = experiment.model, hardware.chip, SIZES[experiment.model.compute]
    rows = experiment.batch_size / (mesh.data * mesh.fsdp * mesh.sequence)
    chosen = backends(experiment, hardware, mesh, (input_length, target_length))
    row = _row(model, input_length, target_length, frozenset(part for part in chosen if chosen[part] == "reference"))
    logits = model.vocab_size * target_length / mesh.tensor
    parameters, trained = _parameters(model), _trained(model)
    more_products, more_traffic = REMAT_OVERHEAD[model.remat]

    flops = train_flops(model, input_length, target_length) / mesh.tensor
    flops += more_products * (flops - 6 * logits * model.width)
    products = rows * flops / (REACHED * chip.flops * 2 / size)
    traffic = rows * size * ((1 + more_traffic) * (row.split / mesh.tensor + row.whole) + 9 * logits)
    traffic += (2 * parameters + trained) / mesh.tensor * size * experiment.microbatches
    traffic += trained / (mesh.tensor * mesh.fsdp) * STATES[isinstance(experiment.optimizer, Adafactor)]
    weights: float | int = parameters * size
    if experiment.distil is not None:
        taught, read, teacher = _teacher(experiment.distil.teacher, experiment, mesh, input_length, target_length)
        products += taught / (REACHED * chip.flops * 2 / SIZES[experiment.distil.teacher.compute])
        traffic, weights = traffic + read, weights + teacher / 2  # gathered once, not twice
    memory = traffic / chip.bandwidth
    exchange = _exchange(experiment, hardware, mesh, weights, trained * size)
    return Times(
        products=products,
        memory=memory,
        activations=(1 + more_products) * rows * size * _moved(mesh, row) / chip.links,
        exchange=max(0.0, exchange - products - memory),
    )


def _teacher(model: Model, experiment: Experiment, mesh: Mesh, s: int, t: int) -> tuple[float | int, ...]:
    """Compute the FLOPs and the traffic of a teacher's forward pass on a chip, and the bytes of all of its weights.

    The traffic is a third of a training step's. All attentions count as writing their scores.
    """
    rows = experiment.batch_size / (mesh.data * mesh.fsdp * mesh.sequence)
    row, size = _row(model, s, t, frozenset(("encoder", "decoder", "cross"))), SIZES[model.compute]
    weights = _parameters(model) * size
    traffic = rows * size * ((row.split / mesh.tensor + row.whole) / 3 + 3 * model.vocab_size * t / mesh.tensor)
    traffic += weights / mesh.tensor * experiment.microbatches
    return rows * forward_flops(model, s, t) / mesh.tensor, traffic, weights


def _moved(mesh: Mesh, row: RowWork) -> float | int:
    """Compute the features of a row that a chip sends: summed over tensor, gathered and scattered over sequence."""
    gathered = 2 * row.attended / mesh.tensor * mesh.sequence
    return 2 * _around(mesh.tensor, row.summed) + _around(mesh.sequence, gathered)


@cache  # a search calls it for every mesh, and tracing the model is the slowest part
def _parameters(model: Model) -> int:
    return parameter_count(abstract_params(model))


_trained = cache(trained_count)


def _row(model: Model, s: int, t: int, written: frozenset[AttentionPart]) -> RowWork:
    """Compute the work of all layers on a row of s source and t target tokens; `written` attentions write scores."""
    d, f, inner, gates = model.width, model.feed_forward, model.attention_width, 2 if model.gated else 1
    block = RowWork(3 * (gates + 1) * f + (12 if model.gated else 8) * f, 3 * (gates + 1) * d + 10 * d, 2 * d, 0)
    attention = RowWork(3 * 4 * inner, 3 * 4 * d + 10 * d, 2 * d, 2 * inner)  # queries as long as keys
    over_inputs = RowWork(3 * 2 * inner, 3 * 2 * d, d, 2 * inner)  # keys and values of the encoder output
    across = RowWork(3 * 2 * inner, 3 * 2 * d + 10 * d, 2 * d, 0)

    def times(part: RowWork, tokens: int) -> RowWork:
        return RowWork(*(tokens * features for features in part))

    def scores(part: AttentionPart, queries: int, keys: int) -> RowWork:
        return RowWork(15.0 * model.heads * queries * keys if part in written else 0, 0, 0, 0)

    cross: AttentionPart = "decoder" if isinstance(model.stacks, DecoderOnly) else "cross"
    encoder = [times(block, s), times(attention, s), scores("encoder", s, s)]
    decoder = [times(block, t), times(attention, t), scores("decoder", t, t), scores(cross, t, s)]
    if not isinstance(model.stacks, DecoderOnly):
        decoder += [times(across, t), times(over_inputs, s)]
    parts = [(model.encoder_layers, part) for part in encoder] + [(model.decoder_layers, part) for part in decoder]
    return RowWork(*(sum(layers * part[kind] for layers, part in parts) for kind in range(len(RowWork._fields))))


def _around(chips: int, sent: float | int) -> float | int:
    """Compute the bytes that each chip of a ring sends to gather or scatter arrays of `sent` bytes once."""
    return sent * (chips - 1) / chips


def _exchange(
    experiment: Experiment, hardware: Hardware, mesh: Mesh, weights: float | int, trained: float | int
) -> float | int:
    """Compute the seconds of communicating weights and gradients over fsdp, data and sequence.

    `weights` is the bytes of all weights, `trained` of those with gradients. Chips of one domain communicate over its
    links first, then each chip's part is communicated over the network.
    """
    chip, part = hardware.chip, trained / mesh.tensor
    gathered = _around(mesh.fsdp, 2 * weights / mesh.tensor + part) * experiment.microbatches
    inside = min(mesh.fsdp * mesh.tensor, hardware.slice)
    copies = min(mesh.data * mesh.sequence, max(1, hardware.slice // inside))  # of the weights, in one domain
    summed = 2 * _around(copies, part / mesh.fsdp)
    if hardware.domains == 1:
        return (gathered + summed) / chip.links
    if mesh.fsdp * mesh.tensor > hardware.slice:  # the fsdp axis itself leaves the domain
        return (gathered + summed) / chip.network
    across = 2 * _around(hardware.domains, part / mesh.fsdp / copies)
    return (gathered + summed) / chip.links + across / chip.network
