"""A check of cuDNN's attention on this process's GPU: a tiny attention against the plain formula.

Releases of JAX and cuDNN gave gradients of the bias that were zero or not numbers, without an error.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

TOLERANCE = 0.03  # of the largest value: four times the rounding of bfloat16


def cudnn_failure(head_width: int) -> str | None:
    """Return why cuDNN's attention cannot be used, or None if it can, on this process's GPU.

    Without a GPU here, the program is compiled for one that is elsewhere, and nothing is checked.
    """
    return _failure(head_width) if jax.default_backend() == "gpu" else None


@cache
def _failure(head_width: int) -> str | None:
    # In a thread of its own, because the caller may be tracing a step, whose operations would not be executed.
    with ThreadPoolExecutor(1) as pool:
        failure = pool.submit(difference, head_width).result()
        if jax.process_count() > 1:  # every host must compile one program
            failed = pool.submit(multihost_utils.process_allgather, np.array(failure is not None)).result()
            failure = failure or ("it failed on another host" if failed.any() else None)
    return failure


def difference(head_width: int, implementation: Any = "cudnn") -> str | None:
    """Compare output and gradients of a tiny attention with those of JAX's plain formula in float32.

    One program has the three attentions of a model: with a bias, with a causal mask and a bias, and without a bias;
    some rows are padded. Returns a sentence on the first difference.
    """
    rows, length, heads = 3, 64, 2
    generator = np.random.default_rng(0)
    *projections, upstream = (generator.standard_normal((4, rows, length, heads, head_width))).astype(jnp.bfloat16)
    bias = generator.standard_normal((1, heads, length, length)).astype(jnp.bfloat16)
    scaled = (projections[0] / head_width**0.5).astype(jnp.bfloat16), *projections[1:]
    counts = np.array([length, length // 2, 1], np.int32)
    real = (np.arange(length) < counts[:, None])[..., None, None]

    def attend(implementation: Any, causal: bool, query: Any, key: Any, value: Any, bias: Any = None) -> Any:
        return jax.nn.dot_product_attention(
            query, key, value, bias, scale=1.0, is_causal=causal, query_seq_lengths=counts,
            key_value_seq_lengths=counts, implementation=implementation,
        )  # fmt: skip

    def everything(implementation: Any, *arrays: Any) -> Any:
        results = {}
        for name, causal, count in (("encoder", False, 4), ("decoder", True, 4), ("cross", False, 3)):
            output, pull = jax.vjp(partial(attend, implementation, causal), *arrays[:count])
            gradients = pull((upstream * real).astype(output.dtype))
            results[name] = dict(zip(("output", "query", "key", "value", "bias"), (output, *gradients), strict=False))
        return results

    try:
        found = jax.jit(everything, static_argnums=0)(implementation, *scaled, bias)
        wide = [jnp.asarray(array, jnp.float32) for array in (*scaled, bias)]
        with jax.default_matmul_precision("highest"):
            expected = jax.jit(everything, static_argnums=0)("xla", *wide)
        return compare(jax.device_get(found), jax.device_get(expected))
    except Exception as error:  # any error of a library or driver means that it cannot be used here
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"


def compare(found: dict[str, dict[str, Any]], expected: dict[str, dict[str, Any]]) -> str | None:
    """Return a sentence on the first array that differs by more than TOLERANCE of its largest value."""
    for attention, arrays in expected.items():
        for name, array in arrays.items():
            error = np.abs(np.float32(found[attention][name]) - array).max() / np.abs(array).max()
            if not error <= TOLERANCE:  # also if it is not a number
                what = "its output" if name == "output" else f"the gradient of its {name}"
                return f"{what} differs by {error:.2g} of the largest value in a check ({attention} attention)"
    return None
