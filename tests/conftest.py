"""Tests run on 8 simulated CPU devices, with every annotated shape checked."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
# Tests are small and compile often: without optimisation they compile two to three times as fast.
FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"

from jaxtyping import install_import_hook

install_import_hook("research", "beartype.beartype")
