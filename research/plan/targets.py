"""Accelerators that are not here, as XLA compiles for them: TPU topologies by libtpu, GPUs by their descriptions.

Neither needs the hardware, its driver or CUDA. XLA cannot measure which of a GPU's kernels is fastest without one, so
its Triton products are off, and cuDNN's attention is compiled without asking a device whether it runs there.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from importlib.util import find_spec
from typing import Any, NamedTuple
from unittest import mock

import jax

from research.config import ConfigError, require
from research.parallel.hardware import Hardware

MEGACORE = ("v4", "v5p")  # TPUs with two cores that act as one device


class Gpu(NamedTuple):
    """A GPU as XLA's compiler sees it. Bytes and units are of one streaming multiprocessor, or of the whole device."""

    name: str
    capability: int  # compute capability, its major number; the minor one is 0
    memory: int  # bytes that a program can address
    bandwidth: int  # bytes/s of the memory
    cache: int  # bytes of L2
    processors: int
    units: int  # float32 units of a processor
    clock: float  # GHz
    shared_memory: int  # bytes of a processor
    block_memory: int  # bytes of shared memory that one block may use


# From OpenXLA's descriptions of these devices: xla/backends/gpu/target_config/specs/{a100_sxm_80,h100_sxm,h200,b200}.
GPUS = {
    "A100": Gpu(
        *("NVIDIA A100-SXM4-80GB", 8, 85_100_068_864, 2_039_040_000_000, 41_943_040),
        *(108, 64, 1.41, 167_936, 166_912),
    ),
    "H100": Gpu(
        *("NVIDIA H100 80GB HBM3", 9, 84_942_979_072, 3_352_320_000_000, 52_428_800),
        *(132, 128, 1.98, 233_472, 232_448),
    ),
    "H200": Gpu(
        *("NVIDIA H200", 9, 151_397_597_184, 4_800_000_000_000, 52_428_800),
        *(132, 128, 1.98, 233_472, 232_448),
    ),
    "B200": Gpu(
        *("NVIDIA B200", 10, 191_514_411_008, 7_672_320_000_000, 132_644_864),
        *(148, 128, 1.965, 233_472, 232_448),
    ),
}
CUDNN = (9, 28, 0)  # the version that pip install "jax[cuda12]" brings
DESCRIPTION = """\
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {gpu.shared_memory}
  threads_per_core_limit: 2048
  core_count: {gpu.processors}
  fpus_per_core: {gpu.units}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {gpu.bandwidth}
  l2_cache_size: {gpu.cache}
  clock_rate_ghz: {gpu.clock}
  device_memory_size: {gpu.memory}
  shared_memory_per_block_optin: {gpu.block_memory}
  cuda_compute_capability {{ major: {gpu.capability} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: {cudnn[0]} minor: {cudnn[1]} patch: {cudnn[2]} }}
device_description_str: "{gpu.name}"
"""
CUDA_WHEELS = ("jax-cuda12-plugin", "jax-cuda12-pjrt")
GPU_OPTIONS = {"xla_gpu_enable_triton_gemm": False}


def use_cpus() -> None:
    """Let JAX run on CPUs, unless the user chose a platform. Call this before JAX has looked for devices.

    A plan needs no accelerator, and JAX would take most of the memory of one that is here. The CUDA plugin is skipped
    with an error where CUDA is missing and the platform is not chosen.
    """
    if not jax.config.values.get("jax_platforms"):
        jax.config.update("jax_platforms", "cpu")


def find_gpu(hardware: Hardware) -> Gpu | None:
    """Return the description of a hardware's GPU; None for TPUs."""
    return GPUS[hardware.kind] if hardware.topology is None else None


def target_devices(hardware: Hardware) -> list[jax.Device]:
    """Return devices to compile for.

    Raises:
        ConfigError: the compiler for this hardware is not installed, or does not fit this version of JAX.
    """
    check_compiler(hardware)
    gpu = find_gpu(hardware)
    return _tpu_devices(hardware) if gpu is None else _gpu_devices(hardware, gpu)


def compiler_options(hardware: Hardware) -> dict[str, Any]:
    """Return the options of XLA to compile with for devices that are not here."""
    return dict(GPU_OPTIONS) if hardware.topology is None else {}


def _gpu_devices(hardware: Hardware, gpu: Gpu) -> list[jax.Device]:
    from jax.experimental import topologies

    try:
        topology = topologies.get_topology_desc(
            platform="cuda",
            target_config=DESCRIPTION.format(gpu=gpu, cudnn=CUDNN),
            topology=f"{hardware.domains}x1x{hardware.slice}",
        )
    except Exception as error:
        raise ConfigError(
            f"--compile for {hardware.name}: JAX's CUDA plugin did not start ({str(error).splitlines()[0]})."
            " Set JAX_PLATFORMS=cpu."
        ) from error
    return list(topology.devices)


def check_compiler(hardware: Hardware) -> None:
    """Check that the compiler for this hardware is installed: libtpu, or JAX's CUDA plugin in the version of JAX.

    Raises:
        ConfigError: it is not; the message has the command that installs it.
    """
    if hardware.topology is not None:
        here = find_spec("libtpu") is not None
        require(here, f"--compile for {hardware.name} needs libtpu: pip install 'kintsugi[tpu]'.")
        return
    found = {wheel: _version(wheel) for wheel in CUDA_WHEELS}
    of_cuda_13 = {_version(wheel.replace("12", "13")) for wheel in CUDA_WHEELS}
    command = " ".join(f"{wheel}=={jax.__version__}" for wheel in found)
    require(
        {jax.__version__} in (set(found.values()), of_cuda_13),
        f"--compile for {hardware.name} needs JAX's CUDA plugin in the version of jax, {jax.__version__}, but"
        f" {', '.join(f'{wheel} is {version}' for wheel, version in found.items())}: pip install --no-deps {command}"
        " (478 MB; it needs no GPU and no CUDA).",
    )


def _version(wheel: str) -> str:
    try:
        return metadata.version(wheel)
    except metadata.PackageNotFoundError:
        return "not installed"


def _tpu_devices(hardware: Hardware) -> list[jax.Device]:
    from jax.experimental import topologies

    # Compiling uses no TPU, so several processes may. Without the other variables libtpu asks the network for its TPU.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5e-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    options: dict[str, Any] = {"chip_config_name": "megacore"} if hardware.kind in MEGACORE else {}
    if hardware.slice < hardware.chip.host:  # part of a host
        torus = [int(side) for side in str(hardware.topology).partition(":")[2].split("x")]
        options["chips_per_host_bounds"] = torus if len(torus) == 3 else [*torus, 1]
    try:
        topology = topologies.get_topology_desc(
            platform="tpu", topology_name=str(hardware.topology), num_slices=hardware.domains, **options
        )
    except Exception as error:
        raise ConfigError(
            f"--compile for {hardware.topology}: libtpu refuses this topology ({str(error).splitlines()[0]})"
        ) from error
    return list(topology.devices)


@contextmanager
def attention_of(hardware: Hardware) -> Iterator[None]:
    """Let JAX trace cuDNN's attention for a GPU that is not here: it asks a local device what it can run."""
    gpu = find_gpu(hardware)
    if gpu is None:
        yield
        return
    from jax._src.cudnn import fused_attention_stablehlo as fused

    capability, version = float(gpu.capability), CUDNN[0] * 10_000 + CUDNN[1] * 100 + CUDNN[2]
    answers: dict[str, Callable[..., Any]] = {
        "check_cudnn_version": lambda: version,
        "check_compute_capability": lambda least: capability >= float(least),
        "is_cuda_compute_capability_equal": lambda asked: capability == float(asked),
    }
    with ExitStack() as replaced:
        for name, answer in answers.items():
            replaced.enter_context(mock.patch.object(fused, name, answer))
        yield
