"""The choice of an attention's backend: by platform, dtype, structure of the batch and dropout.

reference   the plain formula over all rows; serves everything
cudnn       cuDNN's fused kernels on NVIDIA GPUs (research/model/cudnn_attention.py)
pallas      our own kernels on NVIDIA GPUs, for packed rows too (research/model/pallas_attention.py); only by its name,
            because no GPU has measured them
blocked     the plain formula a few rows at a time (research/model/blocked_attention.py)
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from research.model.kernel_check import Kernels, kernel_failure
from research.model.mask import AttentionMask
from research.parallel.layout import platform

Backend = Literal["reference", "cudnn", "pallas", "blocked"]
# The backends that "auto" tries, in this order. On CPUs the loop over blocks is no faster than the plain formula.
ORDER: Mapping[str, tuple[Backend, ...]] = {
    "gpu": ("cudnn", "reference"),
    "tpu": ("blocked", "reference"),
    "cpu": ("reference",),
}
# On a device: 64 MiB in float32. So few stay in a TPU's fast memory, and a loop over blocks takes longer.
FEW_SCORES = 2**24


class BackendChoice(NamedTuple):
    """A backend, and why it is this one."""

    backend: Backend
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.backend} ({self.reason})" if self.reason else self.backend


class AttentionFacts(NamedTuple):
    """All that the choice depends on; known before anything is computed."""

    platform: str  # of the mesh's devices, which need not be on this machine
    devices: int  # 1 if a mesh is set; otherwise nothing tells how rows lie on them
    mesh: Mapping[str, int]
    dtype: Any
    rows: int
    lengths: tuple[int, int]  # of queries and keys
    heads: int
    head_width: int
    mask: AttentionMask
    biases: int  # number of biases [h t s]: 0, one for each part of the batch, or one for each row
    dropped: bool  # by masks of each query's own; keys that all queries drop are dropped before

    @classmethod
    def of(
        cls,
        dtype: Any,
        queries: int,
        keys: tuple[int, ...],
        mask: AttentionMask,
        bias: Float[Array, "*_ h t s"] | None,
        dropped: bool,
    ) -> "AttentionFacts":
        """Collect the facts of a call with keys of the shape [b s h k], on the mesh that is set."""
        mesh, (rows, length, heads, width) = jax.sharding.get_abstract_mesh(), keys
        biases = 0 if bias is None else 1 if bias.ndim == 3 else len(bias)
        devices = jax.device_count() if mesh.empty else 1
        sizes = (rows, (queries, length), heads, width)
        return cls(platform(), devices, dict(mesh.shape), dtype, *sizes, mask, biases, dropped)

    @property
    def parts(self) -> int:
        """Number of parts into which the mesh divides a batch."""
        return self.mesh.get("data", 1) * self.mesh.get("fsdp", 1)

    @property
    def scores(self) -> int:
        """Number of scores that a device computes."""
        split = self.parts * self.mesh.get("sequence", 1) * self.mesh.get("tensor", 1)
        return self.rows * self.heads * self.lengths[0] * self.lengths[1] // split


def choose(asked: Literal["auto"] | Backend, facts: AttentionFacts) -> BackendChoice:
    """Choose a backend. One asked for by name that cannot serve this call is replaced as by "auto", with the reason."""
    order, refused = ORDER.get(facts.platform, ("reference",)), list[str]()
    tried: tuple[Backend, ...] = order
    if asked == "reference":
        return BackendChoice("reference", "as configured")
    if asked == "auto":
        if facts.devices > 1 and facts.platform != "cpu":
            return BackendChoice("reference", f"{facts.devices} devices and no mesh")
        if order[0] == "blocked" and facts.scores <= FEW_SCORES:
            return BackendChoice("reference", "its scores fit in fast memory as a whole")
    else:
        tried = (asked, *(name for name in order if name != asked))
    for name in tried:
        obstacle = next((text for holds, text in OBSTACLES[name](facts) if holds), None)
        if obstacle is None:
            return BackendChoice(
                name, "; ".join(refused) or ("as configured" if name == asked else f"on a {facts.platform}")
            )
        refused.append(f"{name} does not serve {obstacle}")
    raise AssertionError("The reference serves every call.")


def _no_obstacles(facts: AttentionFacts) -> Iterator[tuple[bool, str]]:
    yield from ()


def _blocked_obstacles(facts: AttentionFacts) -> Iterator[tuple[bool, str]]:
    yield facts.rows % facts.parts != 0, f"{facts.rows} rows in {facts.parts} parts"
    yield facts.biases not in (0, facts.parts, facts.rows), f"{facts.biases} biases for {facts.parts} parts"


def _cudnn_obstacles(facts: AttentionFacts) -> Iterator[tuple[bool, str]]:
    queries, keys = facts.lengths
    yield from _gpu_obstacles(facts)
    yield facts.dropped, "attention dropout of each query"
    yield facts.mask.packed, "packed rows"
    yield queries % 2 == 1 or keys % 2 == 1, f"an odd length, of {queries} queries and {keys} keys"  # in training
    yield facts.head_width % 8 != 0 or facts.head_width > 128, f"heads of {facts.head_width} features"
    yield from _failed_check("cudnn", facts)


def _pallas_obstacles(facts: AttentionFacts) -> Iterator[tuple[bool, str]]:
    yield from _gpu_obstacles(facts)
    yield facts.head_width not in (16, 32, 64, 128), f"heads of {facts.head_width} features"
    yield from _failed_check("pallas", facts)


def _gpu_obstacles(facts: AttentionFacts) -> Iterator[tuple[bool, str]]:
    yield facts.platform != "gpu", f"a {facts.platform}"
    yield facts.dtype not in (jnp.bfloat16, jnp.float16), f"{jnp.dtype(facts.dtype).name}"
    yield not facts.mask.structured, "the mask of a decoder-only model's targets"
    yield facts.biases not in (0, facts.parts), "a bias for each row"
    yield facts.mesh.get("sequence", 1) > 1, "a mesh with a sequence axis"
    tensor = facts.mesh.get("tensor", 1)
    yield facts.heads % tensor != 0, f"{facts.heads} heads in {tensor} parts"
    yield facts.rows % facts.parts != 0, f"{facts.rows} rows in {facts.parts} parts"


def _failed_check(kernels: Kernels, facts: AttentionFacts) -> Iterator[tuple[bool, str]]:
    failure = kernel_failure(kernels, facts.head_width)
    yield failure is not None, f"this GPU: {failure}"


OBSTACLES: Mapping[str, Callable[[AttentionFacts], Iterator[tuple[bool, str]]]] = {
    "reference": _no_obstacles,
    "blocked": _blocked_obstacles,
    "cudnn": _cudnn_obstacles,
    "pallas": _pallas_obstacles,
}

# --- The record of what was chosen ------------------------------------------------------------------------------------

Record = dict[str, list[BackendChoice]]  # by part
_records: ContextVar[Record | None] = ContextVar("records", default=None)


@contextmanager
def recorded() -> Iterator[Record]:
    """Collect the choices made while functions are traced inside this block."""
    record: Record = {}
    token = _records.set(record)
    try:
        yield record
    finally:
        _records.reset(token)


def record(part: str, choice: BackendChoice) -> None:
    """Add a choice to the record, if there is one."""
    found = _records.get()
    if found is not None and choice not in found.setdefault(part, []):
        found[part].append(choice)


def backends_text(record: Record) -> str:
    """Format a record: the backend of each attention, and why."""
    texts = {part: " and ".join(map(str, choices)) for part, choices in record.items()}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return ", ".join(f"{part} {text}" for part, text in texts.items()) or "by the model's own layers"
