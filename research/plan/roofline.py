"""How long a training step must take: products at what a chip reaches, its memory's traffic, and what chips exchange.

Nothing is compiled or run. Traffic counts what is written to memory and read again when neighbouring elementwise
operations are fused, and no more; so good implementations take 1.2 to 1.8 times as long. In features of the compute
dtype, forward and backward together, a token unless said otherwise:

products     3 (read + written): the inputs and outputs of the forward product and of the two backward ones
norms, sums  10 d a sublayer
activation   8 f, gated 12 f
scores       15 a pair of query and key: written, masked, exponentiated, normalised, and back
logits       9 a target token and token of the vocabulary

and every parameter 3 times a micro-batch, and once more by the optimizer with its states, in float32.

Over `tensor`, what each sublayer returns is summed, and what its input receives backward; over `sequence`, keys and
values are gathered, and their gradients scattered: nothing hides that. Over `fsdp`, weights are gathered for the
forward and the backward pass of every micro-batch, and gradients are scattered; over `data` and `sequence`, gradients
are summed. That happens beside products: only what it takes longer than they do counts.
"""

from functools import cache
from typing import NamedTuple

from research.config import Experiment, Mesh, Model, OneStack
from research.model.flops import parameter_count, train_flops
from research.model.transformer import abstract_params
from research.parallel.hardware import Hardware
from research.train.optimizers import Adafactor

REACHED = 0.8  # of a data sheet's FLOP/s by large products: 769 - 798 of 989 TFLOP/s on an H200
SIZES = {"bfloat16": 2, "float32": 4}
STATES = {True: 20, False: 28}  # bytes a parameter that Adafactor, AdamW and others read and write
AGAIN = {"none": (0.0, 0.0), "dots": (0.0, 0.15), "full": (1 / 3, 0.3)}  # what remat repeats of products, of traffic


class Times(NamedTuple):
    """Seconds of a step that its parts add to it, on each chip."""

    products: float | int
    memory: float | int  # traffic of all else
    activations: float | int  # what is exchanged of them, over tensor and sequence
    exchange: float | int  # of weights and gradients, what products and memory do not hide

    @property
    def step(self) -> float | int:
        return sum(self)

    @property
    def limit(self) -> str:
        """The part that adds most."""
        return max(zip(self, self._fields, strict=True))[1]


class RowWork(NamedTuple):
    """What the layers do to a row: features times tokens, split over the tensor axis or whole on each of its chips."""

    split: float | int
    whole: float | int
    summed: float | int  # over the tensor axis
    attended: float | int  # keys and values, gathered over the sequence axis


def step_times(experiment: Experiment, hardware: Hardware, mesh: Mesh, input_length: int, target_length: int) -> Times:
    """On a mesh of as many chips as there are; no size of it is -1."""
    model, chip, size = experiment.model, hardware.chip, SIZES[experiment.model.compute]
    rows = experiment.batch_size / (mesh.data * mesh.fsdp * mesh.sequence)
    row = _row(model, input_length, target_length)
    logits = model.vocab_size * target_length / mesh.tensor
    parameters = _parameters(model)
    more_products, more_traffic = AGAIN[model.remat]

    flops = train_flops(model, input_length, target_length) / mesh.tensor
    flops += more_products * (flops - 6 * logits * model.width)
    products = rows * flops / (REACHED * chip.flops * 2 / size)
    traffic = rows * size * ((1 + more_traffic) * (row.split / mesh.tensor + row.whole) + 9 * logits)
    traffic += parameters / mesh.tensor * size * 3 * experiment.microbatches
    traffic += parameters / (mesh.tensor * mesh.fsdp) * STATES[isinstance(experiment.optimizer, Adafactor)]
    memory = traffic / chip.bandwidth
    exchange = _exchange(experiment, hardware, mesh, parameters * size)
    return Times(
        products=products,
        memory=memory,
        activations=(1 + more_products) * rows * size * _moved(mesh, row) / chip.links,
        exchange=max(0.0, exchange - products - memory),
    )


def _moved(mesh: Mesh, row: RowWork) -> float | int:
    """Features that a chip sends of its part of a row: summed over tensor, gathered and scattered over sequence."""
    gathered = 2 * row.attended / mesh.tensor * mesh.sequence
    return 2 * _around(mesh.tensor, row.summed) + _around(mesh.sequence, gathered)


@cache  # a search asks for every mesh, and tracing the model takes longer than all else
def _parameters(model: Model) -> int:
    return parameter_count(abstract_params(model))


def _row(model: Model, s: int, t: int) -> RowWork:
    """Of s inputs and t targets."""
    d, f, inner, gates = model.width, model.feed_forward, model.attention_width, 2 if model.gated else 1
    block = RowWork(3 * (gates + 1) * f + (12 if model.gated else 8) * f, 3 * (gates + 1) * d + 10 * d, 2 * d, 0)
    attention = RowWork(3 * 4 * inner, 3 * 4 * d + 10 * d, 2 * d, 2 * inner)  # queries as long as keys
    over_inputs = RowWork(3 * 2 * inner, 3 * 2 * d, d, 2 * inner)  # keys and values of what the encoder returned
    across = RowWork(3 * 2 * inner, 3 * 2 * d + 10 * d, 2 * d, 0)

    def times(part: RowWork, tokens: int) -> RowWork:
        return RowWork(*(tokens * features for features in part))

    def scores(queries: int, keys: int) -> RowWork:
        return RowWork(15.0 * model.heads * queries * keys, 0, 0, 0)

    encoder = [times(block, s), times(attention, s), scores(s, s)]
    decoder = [times(block, t), times(attention, t), scores(t, t), scores(t, s)]
    if not isinstance(model.stacks, OneStack):
        decoder += [times(across, t), times(over_inputs, s)]
    parts = [(model.encoder_layers, part) for part in encoder] + [(model.decoder_layers, part) for part in decoder]
    return RowWork(*(sum(layers * part[kind] for layers, part in parts) for kind in range(len(RowWork._fields))))


def _around(chips: int, sent: float | int) -> float | int:
    """What each chip of a ring sends when arrays of so many bytes are gathered or scattered over it, once."""
    return sent * (chips - 1) / chips


def _exchange(experiment: Experiment, hardware: Hardware, mesh: Mesh, weights: float | int) -> float | int:
    """Seconds that weights and gradients, of so many bytes in all, take over fsdp, and over data and sequence.

    What one domain holds is exchanged over its links first, then each chip's part of it over the network.
    """
    chip, part = hardware.chip, weights / mesh.tensor
    gathered = 3 * _around(mesh.fsdp, part) * experiment.microbatches
    inside = min(mesh.fsdp * mesh.tensor, hardware.slice)
    copies = min(mesh.data * mesh.sequence, max(1, hardware.slice // inside))  # of the weights, in one domain
    summed = 2 * _around(copies, part / mesh.fsdp)
    if hardware.domains == 1:
        return (gathered + summed) / chip.links
    if mesh.fsdp * mesh.tensor > hardware.slice:  # the fsdp axis itself leaves the domain
        return (gathered + summed) / chip.network
    across = 2 * _around(hardware.domains, part / mesh.fsdp / copies)
    return (gathered + summed) / chip.links + across / chip.network
