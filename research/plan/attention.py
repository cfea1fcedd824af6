"""The backend of each attention in a step on hardware that is not here, by the rules of the step itself."""

from contextlib import ExitStack
from dataclasses import asdict, replace

import jax
from jax.sharding import AbstractDevice

from research.config import DecoderOnly, Experiment, Mesh, Relative
from research.data.shapes import abstract_batch
from research.model.attention_backends import AttentionFacts, Backend, choose
from research.model.mask import AttentionMask, AttentionPart
from research.parallel.hardware import Hardware
from research.parallel.mesh import abstract_mesh
from research.plan import targets


def backends(
    experiment: Experiment, hardware: Hardware, mesh: Mesh, lengths: tuple[int, int]
) -> dict[AttentionPart, Backend]:
    """Choose the backend of each attention. The mesh must be resolved: no size is -1.

    A user's own model counts as the shipped structure.
    """
    model, batch, (inputs, outputs) = experiment.model, abstract_batch(experiment, rows=1), lengths
    rows, parts = experiment.batch_size // experiment.microbatches, mesh.data * mesh.fsdp
    one_stack = isinstance(model.stacks, DecoderOnly)
    packed = (batch.encoder_segment_ids if one_stack else batch.encoder_positions) is not None
    biases = (rows if packed and one_stack else parts) if isinstance(model.positions, Relative) else 0
    facts = AttentionFacts(
        platform=hardware.platform,
        devices=1,
        mesh=asdict(mesh),
        dtype=jax.numpy.dtype(model.compute),
        rows=rows,
        lengths=(inputs, inputs),
        heads=model.heads,
        head_width=model.head_width,
        mask=AttentionMask("encoder", packed=packed),
        biases=biases,
        dropped=model.attention_dropout > 0 and not model.shared_dropout,
    )
    decoder = AttentionMask("decoder", causal=True, packed=packed, structured=not one_stack)
    chosen: dict[AttentionPart, AttentionFacts] = {
        "encoder": facts,
        "decoder": facts._replace(lengths=(outputs, outputs + inputs if one_stack else outputs), mask=decoder),
        "cross": facts._replace(lengths=(outputs, inputs), mask=replace(facts.mask, part="cross"), biases=0),
    }
    return {part: choose(model.attention, each).backend for part, each in chosen.items()}


def device_of(hardware: Hardware) -> AbstractDevice:
    """Describe a chip that is not here, so that what is traced on a mesh of it chooses as on the chip."""
    return AbstractDevice(device_kind=hardware.kind, num_cores=None, platform=hardware.platform)


def on_one_chip(hardware: Hardware | None) -> ExitStack:
    """Trace inside this context as for one chip of the hardware; None: as for this process's devices."""
    context = ExitStack()
    if hardware is not None and hardware.platform != "cpu":
        context.enter_context(targets.attention_of(hardware))
        context.enter_context(jax.sharding.use_abstract_mesh(abstract_mesh(Mesh(1), 1, device_of(hardware))))
    return context
