"""A check of the kernels of attention on this process's GPU: a tiny attention against the plain formula.

Releases of JAX and cuDNN gave gradients of the bias that were zero or not numbers, without an error.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from research.model.cudnn_attention import cudnn_attention
from research.model.mask import AttentionMask, encoder_mask, self_mask
from research.model.pallas_attention import pallas_attention

TOLERANCE = 0.03  # of the largest value: four times the rounding of bfloat16
ROWS, LENGTH, HEADS = 3, 96, 2

Kernels = Literal["cudnn", "pallas"]
KERNELS: dict[Kernels, Callable[..., Any]] = {"cudnn": cudnn_attention, "pallas": pallas_attention}


def kernel_failure(kernels: Kernels, head_width: int) -> str | None:
    """Return why these kernels cannot be used, or None if they can, on this process's GPU.

    Without a GPU here, the program is compiled for one that is elsewhere, and nothing is checked.
    """
    return _failure(kernels, head_width) if jax.default_backend() == "gpu" else None


@cache
def _failure(kernels: Kernels, head_width: int) -> str | None:
    # In a thread of its own, because the caller may be tracing a step, whose operations would not be executed.
    with ThreadPoolExecutor(1) as pool:
        failure = pool.submit(difference, kernels, head_width).result()
        if jax.process_count() > 1:  # every host must compile one program
            failed = pool.submit(multihost_utils.process_allgather, np.array(failure is not None)).result()
            failure = failure or ("it failed on another host" if failed.any() else None)
    return failure


def difference(kernels: Kernels, head_width: int) -> str | None:
    """Compare output and gradients of a tiny attention with those of JAX's plain formula in float32.

    One program has the three attentions of a model: with a bias, with a causal mask and a bias, and without a bias;
    some rows are padded and, where the kernels serve them, packed. Returns a sentence on the first difference.
    """
    generator = np.random.default_rng(0)
    *projections, upstream = generator.standard_normal((4, ROWS, LENGTH, HEADS, head_width)).astype(jnp.bfloat16)
    bias = generator.standard_normal((1, HEADS, LENGTH, LENGTH)).astype(jnp.bfloat16)
    scaled = (projections[0] / head_width**0.5).astype(jnp.bfloat16), *projections[1:]
    packed = kernels == "pallas"
    position, counts = np.arange(LENGTH), np.array([LENGTH, LENGTH // 2, 1])[:, None]
    ids = jnp.asarray((position < counts) * np.where((position >= 10) & packed, 2, 1), jnp.int32)
    real = (ids > 0)[..., None, None]

    def plain(query: Any, key: Any, value: Any, mask: AttentionMask, bias: Any) -> Any:
        seen = None if mask.array is None else mask.array[:, None]
        return jax.nn.dot_product_attention(query, key, value, bias, seen, scale=1.0, implementation="xla")

    def everything(attend: Any, *arrays: Any) -> Any:
        masks = {
            "encoder": self_mask("encoder", LENGTH, ids, causally=False, packed=packed),
            "decoder": self_mask("decoder", LENGTH, ids, causally=True, packed=packed),
            "cross": encoder_mask(ids, ids, ids, packed=packed),
        }
        results = {}
        for name, mask in masks.items():
            given = arrays[: 3 if name == "cross" else 4]
            output, pull = jax.vjp(partial(_attend, attend, mask), *given)
            gradients = pull((upstream * real).astype(output.dtype))
            found = output * real, *gradients
            results[name] = dict(zip(("output", "query", "key", "value", "bias"), found, strict=False))
        return results

    try:
        found = jax.jit(everything, static_argnums=0)(KERNELS[kernels], *scaled, bias)
        wide = [jnp.asarray(array, jnp.float32) for array in (*scaled, bias)]
        with jax.default_matmul_precision("highest"):
            expected = jax.jit(everything, static_argnums=0)(plain, *wide)
        return compare(jax.device_get(found), jax.device_get(expected))
    except Exception as error:  # any error of a library or driver means that it cannot be used here
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"


def _attend(attend: Callable[..., Any], mask: AttentionMask, query: Any, key: Any, value: Any, bias: Any = None) -> Any:
    return attend(query, key, value, mask, bias)


def compare(found: dict[str, dict[str, Any]], expected: dict[str, dict[str, Any]]) -> str | None:
    """Return a sentence on the first array that differs by more than TOLERANCE of its largest value."""
    for attention, arrays in expected.items():
        for name, array in arrays.items():
            error = np.abs(np.float32(found[attention][name]) - array).max() / np.abs(array).max()
            if not error <= TOLERANCE:  # also if it is not a number
                what = "its output" if name == "output" else f"the gradient of its {name}"
                return f"{what} differs by {error:.2g} of the largest value in a check ({attention} attention)"
    return None
