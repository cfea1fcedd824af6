"""Decoding compiled for hardware that is not here, and what one step of its loop moves.

The step is the body of the loop over the longest cache. The least that it must read is every decoder weight once and
every cached key and value once, in the compute dtype; what it moves beyond that is activations, logits and waste.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from research.config import Beam, ConfigError, DecoderOnly, Experiment, Generation, Model, Sampling, Tied
from research.data.shapes import row_lengths
from research.decode.search import decode
from research.model.flops import step_flops
from research.model.transformer import abstract_params, bind, specs_of, whole
from research.parallel.hardware import Hardware
from research.parallel.mesh import batch_sharding, make_mesh
from research.parallel.padding import placed
from research.parallel.rules import flatten, shardings
from research.plan import targets
from research.plan.breakdown import Figures, figures
from research.plan.compiled import Compiled, Memory, too_large
from research.plan.hlo import Computation, Instruction, Module, arrays
from research.plan.parts import STACKS
from research.plan.products import CUBLAS
from research.plan.traffic import Kernel, kernels
from research.storage.console import byte_amount, table

# Instructions that exchange data with the host, and words in the targets of custom calls that do.
HOST_INSTRUCTIONS = ("infeed", "outfeed", "send", "recv")
HOST_WORDS = ("callback", "Host")
COPIES = ("copy", "transpose")


class Least(NamedTuple):
    """Bytes that a step must read: each once, in the compute dtype."""

    weights: int  # of the decoder's layers and the head
    own: int  # cached keys and values of the decoder's positions
    cross: int  # those of the encoder's output

    @property
    def total(self) -> int:
        return sum(self)


@dataclass(frozen=True)
class CompiledDecoding:
    """A compiled decoding program; `step` has the kernels of one step alone, and the memory of the whole program."""

    step: Compiled
    least: Least
    stages: int  # loops, one for each length of the cache
    tokens: int  # that a step writes: one for each row
    copies: list[Kernel]  # kernels that only move weights or caches
    workspace: int  # bytes of cuBLAS's workspaces, counted as written
    host: list[str]  # names of instructions that exchange data with the host

    @property
    def times_least(self) -> float:
        """The step's traffic without workspaces over the least: a small product hardly touches its workspace."""
        return (self.step.total.bytes - self.workspace) / self.least.total


def compile_decoding(experiment: Experiment, generation: Generation, hardware: Hardware) -> CompiledDecoding:
    """Compile decoding of `batch_size` padded rows for that hardware.

    Raises:
        ConfigError: it does not fit, or cannot be compiled here.
    """
    model, (inputs, _) = experiment.model, row_lengths(experiment)
    mesh = make_mesh(experiment.mesh, targets.target_devices(hardware))
    rows, hypotheses = experiment.batch_size, hypotheses_of(generation)
    began = time.perf_counter()
    try:
        with targets.attention_of(hardware), jax.set_mesh(mesh):
            lowered = decode.lower(
                model, *_arguments(model, mesh, rows, inputs), generation=generation, keys=_keys(generation, rows)
            )
            program = lowered.compile(targets.compiler_options(hardware))
    except jax.errors.JaxRuntimeError as error:
        raise ConfigError(too_large(str(error), "Decoding")) from error
    seconds = time.perf_counter() - began
    analysis: Any = program.memory_analysis()
    text = program.as_text() or ""
    module = Module(text)
    loops = list(decoding_loops(module))
    step = Compiled(
        hardware=hardware,
        seconds=seconds,
        memory=Memory(analysis.argument_size_in_bytes, analysis.temp_size_in_bytes),
        kernels=kernels(module, loops[-1].body),
        mesh_shape=mesh.devices.shape,
        flops=rows * hypotheses * step_flops(model, inputs, generation.max_length) / hardware.chips,
        text=text,
    )
    least = least_read(model, rows, inputs, generation.max_length, hypotheses)
    return CompiledDecoding(
        step=step,
        least=Least(*(size // hardware.chips for size in least)),
        stages=len(loops),
        tokens=rows,
        copies=list(copies(module, loops[-1].body, smallest(model, least) // hardware.chips)),
        workspace=sum(kernel.times * workspace(kernel) for kernel in step.kernels),
        host=[name for loop in loops for name in (*on_host(module, loop.body), *on_host(module, loop.condition))],
    )


def hypotheses_of(generation: Generation) -> int:
    return generation.method.beams if isinstance(generation.method, Beam) else generation.outputs


def _arguments(model: Model, mesh: jax.sharding.Mesh, rows: int, inputs: int) -> tuple[Any, Any, Any]:
    """Return the shapes of parameters, tokens and segment ids on the mesh."""
    params = placed(abstract_params(model), shardings(mesh, specs_of(model)))
    tokens = jax.ShapeDtypeStruct((rows, inputs), jnp.int32, sharding=batch_sharding(mesh))
    return params, tokens, tokens


def _keys(generation: Generation, rows: int) -> Any:
    if not isinstance(generation.method, Sampling):
        return None
    return jax.eval_shape(lambda: jax.random.split(jax.random.key(0), rows))


# --- What a step must read --------------------------------------------------------------------------------------------


def least_read(model: Model, rows: int, inputs: int, length: int, hypotheses: int) -> Least:
    """Count the bytes that a step of a cache of that length must read."""
    width = jnp.dtype(model.compute).itemsize
    own, cross = _cached(model, rows, inputs, length, hypotheses)
    weights = sum(math.prod(leaf.shape) for leaf in step_weights(model).values())
    return Least(weights * width, *(sum(leaf.size * width for leaf in jax.tree.leaves(side)) for side in (own, cross)))


def step_weights(model: Model) -> dict[str, Any]:
    """Return the parameters that every step uses, by path; a row of an embedding is not counted."""
    params = flatten(whole(model, abstract_params(model)))
    head = "embedding" if isinstance(model.head, Tied) else "head"
    before = () if isinstance(model.stacks, DecoderOnly) else ("cross_attention/key/", "cross_attention/value/")
    return {
        path: leaf
        for path, leaf in params.items()
        if path in (head, "logits_bias")
        or (path.startswith("decoder/") and not any(name in path for name in before) and "position_emb" not in path)
    }


def _cached(model: Model, rows: int, inputs: int, length: int, hypotheses: int) -> tuple[Any, Any]:
    """Return the shapes of a cache: of the decoder's positions, and of the encoder's output."""

    def cache(params: Any, tokens: Any) -> Any:
        network = bind(model, params)
        return network.new_cache(network.encode(tokens), length, hypotheses)

    tokens = jax.ShapeDtypeStruct((rows, inputs), jnp.int32)
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
        found = jax.eval_shape(cache, abstract_params(model), tokens)
    return found.own, found.cross


# --- What is in the loop ----------------------------------------------------------------------------------------------


class DecodingLoop(NamedTuple):
    """The names of the two computations of a loop."""

    body: str
    condition: str


def decoding_loops(module: Module) -> Iterator[DecodingLoop]:
    """Yield the loops over steps, in order: those that are not inside a stack's computation."""
    for instruction in module.computations[module.entry].instructions.values():
        if instruction.opcode == "while" and not any(f"/{stack}/" in instruction.op_name for stack in STACKS):
            yield DecodingLoop(_called(instruction, "body"), _called(instruction, "condition"))


def _called(loop: Instruction, name: str) -> str:
    return str(loop.attribute(rf"{name}=%?([\w.\-]+)"))


def smallest(model: Model, least: Least) -> int:
    """Return the bytes of the smallest matrix of a layer, or of its cached keys if these are fewer."""
    matrices = [leaf.size // model.decoder_layers for path, leaf in step_weights(model).items() if "/weight" in path]
    return min(
        jnp.dtype(model.compute).itemsize * min(matrices), *(size // 2 // model.decoder_layers for size in least[1:])
    )


def copies(module: Module, body: str, least: int) -> Iterator[Kernel]:
    """Yield the kernels of a loop's body that only move at least so many bytes: copies, casts and concatenations.

    They compute no product, and either are copies by name or read only what the loop carries.
    """
    computation = module.computations[body]
    for kernel in kernels(module, body):
        if kernel.products or kernel.written < least or kernel.name not in computation.instructions:
            continue
        operands = computation.instructions[kernel.name].operands
        if kernel.kind in COPIES or all(is_carried(computation, computation.instructions[name]) for name in operands):
            yield kernel


def is_carried(computation: Computation, instruction: Instruction) -> bool:
    """Tell whether an instruction is a constant, or an array that a loop carries into its body."""
    if instruction.opcode == "get-tuple-element":
        return computation.operand(instruction, 0).opcode == "parameter"
    return instruction.opcode == "constant"


def workspace(kernel: Kernel) -> int:
    """Return the bytes of the workspace that a product of cuBLAS has."""
    return sum(array.bytes for array in arrays(kernel.results)[1:]) if kernel.kind.startswith(CUBLAS) else 0


def on_host(module: Module, computation: str) -> Iterator[str]:
    """Yield the names of instructions that exchange data with the host."""
    for instruction, _, _ in module.executed(computation):
        opcode = instruction.opcode.removesuffix("-start").removesuffix("-done")
        if opcode in HOST_INSTRUCTIONS or any(word in instruction.target for word in HOST_WORDS):
            yield instruction.name


# --- Reporting --------------------------------------------------------------------------------------------------------


def decoding_figures(found: CompiledDecoding) -> Figures:
    """Collect the figures of a step; memory is the whole program's."""
    seconds = found.step.total.seconds
    return figures(found.step) | {
        "decoding": {
            "least": found.least._asdict(),
            "times_least": found.times_least,
            "workspace": found.workspace,
            "tokens_per_second": found.tokens / seconds,
            "stages": found.stages,
            "copies": {kernel.name: kernel.times * kernel.bytes for kernel in found.copies},
            "host": found.host,
        }
    }


def show(found: CompiledDecoding) -> None:
    """Print what a step does."""
    step, least, total = found.step, found.least, found.step.total
    copied = sum(kernel.times * kernel.bytes for kernel in found.copies)
    products = ", ".join(f"{count / 1e9:,.1f} GFLOP in {dtype}" for dtype, count in sorted(total.flops.items()))
    rows = {
        "compiled": f"in {step.seconds:.1f} s, for {step.hardware.topology or step.hardware.name}",
        "memory": f"{byte_amount(step.memory.arguments)} of parameters and tokens,"
        f" {byte_amount(step.memory.temporaries)} of temporaries, the cache among them",
        "a step reads at least": f"{least.total / 1e9:.3f} GB: {least.weights / 1e9:.3f} of weights,"
        f" {least.own / 1e9:.3f} of the decoder's cached positions, {least.cross / 1e9:.3f} of the encoder's output",
        "moves": f"{total.bytes / 1e9:.3f} GB in {total.kernels:,} kernels; {found.times_least:.2f} times the least"
        f" without the {found.workspace / 1e9:.3f} GB of cuBLAS's workspaces",
        "products": products,
        "copies of weights and caches": f"{len(found.copies)} kernels, {copied / 1e9:.3f} GB",
        "on the host": ", ".join(found.host) or "nothing but the loop's condition, by XLA's runtime",
        "takes, modelled": f"{total.seconds * 1e3:.3f} ms, not measured: {found.tokens / total.seconds:,.0f} tokens/s",
    }
    table("A step of decoding", rows)
