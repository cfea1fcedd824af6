"""Peak rates of accelerators and the slices and servers that can be rented, from the vendors' documents."""

import math
import re
from typing import NamedTuple

from research.config import ConfigError

GIB = 2**30


class Chip(NamedTuple):
    """Peak rates of one chip. Rates between chips are in bytes/s that one chip sends over all its links together."""

    flops: float | int  # dense bfloat16 FLOP/s, without sparsity
    memory: float | int  # bytes
    bandwidth: float | int  # bytes/s of its memory
    links: float | int  # bytes/s to the other chips of its domain: a TPU slice, or GPUs joined by NVLink
    domain: int  # maximum number of chips joined by `links`
    network: float | int  # bytes/s per chip between domains
    host: int  # chips per host
    cores: int = 1  # cores per chip: the names of slices count cores
    dimensions: int = 0  # of the torus; 0 if every chip of a domain reaches every other one at the same rate
    clock: float | int = 0  # cycles a second of a TPU's core

    @property
    def lanes(self) -> int:
        """Lanes of a TPU's vector register: in memory, the last axis of an array is padded to a multiple of this."""
        return 128 if self.dimensions else 1


# Sources: cloud.google.com/tpu/docs/v4, v5e, v5p and v6e for FLOP/s, memory and its bandwidth. `links` is half of the
# interconnect's bidirectional bandwidth. The network between slices is the host's, divided by its chips: 50, 25, 50 and
# 100 Gbit/s each. NVIDIA's data sheets of A100, H100, H200 and HGX B200 (an eighth of eight): NVLink is half of the
# bidirectional figure, and the network is one adapter per GPU, as in DGX systems (200, 400, 400 and 400 Gbit/s).
# A TPU's clock is assumed: FLOP/s over 2 for each cell of a core's 4 matrix units, 128 x 128, in v6e 256 x 256.
CHIPS = {
    "v4": Chip(275e12, 32 * GIB, 1200e9, 150e9, 4096, 6.25e9, 4, cores=2, dimensions=3, clock=1.05e9),
    "v5e": Chip(197e12, 16 * GIB, 819e9, 200e9, 256, 3.125e9, 4, dimensions=2, clock=1.5e9),
    "v5p": Chip(459e12, 95 * GIB, 2765e9, 600e9, 6144, 6.25e9, 4, cores=2, dimensions=3, clock=1.75e9),
    "v6e": Chip(918e12, 32 * GIB, 1638e9, 400e9, 256, 12.5e9, 4, dimensions=2, clock=1.75e9),
    "A100": Chip(312e12, 80e9, 2039e9, 300e9, 8, 25e9, 8),
    "H100": Chip(989.4e12, 80e9, 3350e9, 450e9, 8, 50e9, 8),
    "H200": Chip(989.4e12, 141e9, 4800e9, 450e9, 8, 50e9, 8),
    "B200": Chip(2250e12, 180e9, 8000e9, 900e9, 8, 50e9, 8),
}
# Dense bfloat16 FLOP/s of one device, by `jax.Device.device_kind`.
PEAK_FLOPS = {
    "TPU v4": CHIPS["v4"].flops,
    "TPU v5 lite": CHIPS["v5e"].flops,
    "TPU v5e": CHIPS["v5e"].flops,
    "TPU v5": CHIPS["v5p"].flops,
    "TPU v5p": CHIPS["v5p"].flops,
    "TPU v6 lite": CHIPS["v6e"].flops,
    "NVIDIA A100-SXM4-40GB": CHIPS["A100"].flops,
    "NVIDIA A100-SXM4-80GB": CHIPS["A100"].flops,
    "NVIDIA A100 80GB PCIe": CHIPS["A100"].flops,
    "NVIDIA H100 PCIe": 756e12,  # NVIDIA H100 data sheet
    "NVIDIA H100 80GB HBM3": CHIPS["H100"].flops,
    "NVIDIA H200": CHIPS["H200"].flops,
    "NVIDIA GH200 480GB": 989.4e12,  # NVIDIA GH200 data sheet
    "NVIDIA B200": CHIPS["B200"].flops,
}
HELP = "a TPU slice by name (v5p-512; v4 and v5p count cores, two per chip) or by torus (v5p:8x8x4), several slices"
HELP += " as 2xv5e-256, or GPUs as 8xH100"


class Hardware(NamedTuple):
    """A number of chips of one kind, in domains of equal size."""

    name: str
    chip: Chip
    chips: int
    topology: str | None = None  # of a TPU slice, in libtpu's notation: v5p:8x8x4

    @property
    def kind(self) -> str:
        """Name of the chip, such as v5p or H100."""
        return self.name.rpartition("x")[2] if self.topology is None else self.topology.partition(":")[0]

    @property
    def platform(self) -> str:
        """Name of the platform as JAX has it: tpu, gpu, or cpu for all that `CHIPS` does not list."""
        return "cpu" if self.kind not in CHIPS else "gpu" if self.topology is None else "tpu"

    @property
    def domains(self) -> int:
        """Number of domains: TPU slices, or sets of GPUs joined by NVLink."""
        return math.ceil(self.chips / self.chip.domain) if self.topology is None else self.chips // self.slice

    @property
    def slice(self) -> int:
        """Chips of one domain."""
        if self.topology is None:
            return min(self.chips, self.chip.domain)
        return math.prod(map(int, self.topology.partition(":")[2].split("x")))


def find(name: str) -> Hardware:
    """Parse a hardware name in one of the forms that `HELP` lists.

    Raises:
        ConfigError: the name is not valid; the message lists the valid ones.
    """
    gpus = re.fullmatch(r"(?:(\d+)x)?([A-Z]+\d+)", name)
    if gpus and gpus[2] in CHIPS:
        chip, count = CHIPS[gpus[2]], int(gpus[1] or 1)
        if count > 0 and (count <= chip.domain or count % chip.domain == 0):
            return Hardware(name, chip, count)
        raise ConfigError(f"--hardware {name}: hosts have {chip.domain} of them: up to {chip.domain}, or a multiple.")
    tpus = re.fullmatch(r"(?:(\d+)x)?(v\d\w?)(?:-(\d+)|:(\d+(?:x\d+)+))", name)
    if not tpus or tpus[2] not in CHIPS or CHIPS[tpus[2]].dimensions == 0:
        raise ConfigError(f"--hardware {name} is not known. Chips: {', '.join(CHIPS)}. Give {HELP}.")
    slices, kind, chip = int(tpus[1] or 1), tpus[2], CHIPS[tpus[2]]
    torus = tuple(map(int, tpus[4].split("x"))) if tpus[4] else _torus(chip, int(tpus[3]))
    if torus is None or len(torus) != chip.dimensions or slices < 1 or not 1 <= math.prod(torus) <= chip.domain:
        sizes = [chip.cores * size for size in _sizes(chip)]
        raise ConfigError(f"--hardware {name}: there is no such slice; {kind} has {', '.join(map(str, sizes))}.")
    return Hardware(name, chip, slices * math.prod(torus), f"{kind}:{'x'.join(map(str, torus))}")


def _sizes(chip: Chip) -> list[int]:
    """List the sizes in chips of the slices that have a name: powers of two."""
    return [size for size in (2**power for power in range(2, 13)) if size <= chip.domain]


def _torus(chip: Chip, named: int) -> tuple[int, ...] | None:
    """Find the torus of the slice with this number in its name. Sides are powers of two, as equal as possible."""
    chips, rest = divmod(named, chip.cores)
    if rest or chips not in _sizes(chip):
        return None
    sides = [2, 2] + [1] * (chip.dimensions - 2)
    while math.prod(sides) < chips:
        shortest = min(range(len(sides)), key=lambda side: (sides[side], -side))
        sides[shortest] *= 2
    return tuple(sorted(sides, key=lambda side: (side == 1, side)))
