"""XLA's options in tests, which are small and compile often."""

from importlib.metadata import version

# For programs that are compared to the bit: without the fusions, a compiler contracts sums of one formula in two ways.
FUSED = {"xla_cpu_use_fusion_emitters": True} if version("jax").startswith("0.10.") else {}


def xla_flags(devices: int) -> str:
    """Return options for that many simulated devices, with which programs compile four times as fast as by default.

    XLA after jax 0.10 has no option to do without MLIR's fusions.
    """
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    flags += " --xla_cpu_parallel_codegen_split_count=1"
    return flags + (" --xla_cpu_use_fusion_emitters=false" if version("jax").startswith("0.10.") else "")
