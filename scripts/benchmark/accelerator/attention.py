"""Exactness and time of attention's backends on this device, gradients included.

Output and gradients of every backend are compared with the plain formula in float32, from the same numbers. What a
backend does not serve is recorded with the reason that the model would give.
"""

import argparse
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from research.model.attention import reference_attention
from research.model.attention_backends import AttentionFacts, Backend, choose
from research.model.blocked_attention import blocked_attention
from research.model.kernel_check import KERNELS, TOLERANCE
from research.model.mask import AttentionMask, AttentionPart, encoder_mask, self_mask
from scripts.benchmark.accelerator.phase import Figures, Keep, TableRows
from scripts.benchmark.train import seconds_each

BACKENDS: tuple[Backend, ...] = get_args(Backend)
# The largest error of an array, of its largest value: in bfloat16 as in the check at every start.
TOLERANCES = {"bfloat16": TOLERANCE, "float32": 1e-5}
NAMES = ("output", "query", "key", "value", "bias")
WORKERS = 6  # cases at once: the plain formula in float32 takes 8 GiB for base's encoder


Operands = list[jax.Array]


class Case(NamedTuple):
    """One attention: its lengths, heads, mask and bias."""

    name: str
    part: AttentionPart
    t: int
    s: int
    rows_hold: Literal["whole", "padded", "packed"]
    biased: bool
    heads: int = 12
    head_width: int = 64
    timed: bool = False


class Inputs(NamedTuple):
    """The inputs of an attention and of its backward pass."""

    mask: AttentionMask
    arrays: Operands  # queries, keys, values, and the bias if there is one
    upstream: jax.Array  # the gradient of the output


def cases(inputs: int, targets: int) -> list[Case]:
    """List the attentions of T5 base and of BART, and odd ones."""
    encoder: tuple[AttentionPart, int, int] = ("encoder", inputs, inputs)
    decoder: tuple[AttentionPart, int, int] = ("decoder", targets, targets)
    cross: tuple[AttentionPart, int, int] = ("cross", targets, inputs)
    return [
        Case("encoder", *encoder, "whole", biased=True, timed=True),
        Case("encoder, padded", *encoder, "padded", biased=True),
        Case("encoder, packed", *encoder, "packed", biased=True, timed=True),
        Case("encoder, padded, no bias", *encoder, "padded", biased=False),
        Case("decoder", *decoder, "whole", biased=True, timed=True),
        Case("decoder, padded", *decoder, "padded", biased=True),
        Case("decoder, packed", *decoder, "packed", biased=True),
        Case("decoder, no bias", *decoder, "whole", biased=False),
        Case("cross", *cross, "whole", biased=False, timed=True),
        Case("cross, padded", *cross, "padded", biased=False),
        Case("encoder, odd length", "encoder", inputs - 1, inputs - 1, "padded", biased=True),
        Case("cross, odd lengths", "cross", targets - 1, inputs - 1, "padded", biased=False),
        Case("encoder, 1 head of 128", *encoder, "padded", biased=True, heads=1, head_width=128),
    ]


def measure(arguments: list[str], keep: Keep, folder: Path) -> Figures:
    options = parser().parse_args(arguments)
    figures: Figures = {"rows": options.rows, "cases": [], "times": [], "wrong": []}
    every = cases(options.input_length, options.target_length)
    with ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1)) as pool:  # compiling takes most of the time
        for found, problems in pool.map(partial(compared, options.rows), every):
            figures["cases"] += found
            figures["wrong"] += problems
            keep(figures)
    for case in every:
        if case.timed:
            figures["times"] += times(case, options)
            keep(figures)
    return figures


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(allow_abbrev=False)
    made.add_argument("--rows", type=int, default=128)
    made.add_argument("--input_length", type=int, default=512)
    made.add_argument("--target_length", type=int, default=114)
    made.add_argument("--repeats", type=int, default=20)
    return made


# --- Exactness --------------------------------------------------------------------------------------------------------


def compared(rows: int, case: Case) -> tuple[list[Figures], list[str]]:
    """Compare every backend with the plain formula in float32; return figures, and sentences on what is wrong."""
    inputs = inputs_of(case, rows)
    with jax.default_matmul_precision("highest"):
        expected = jax.jit(partial(gradients, "reference"))(*inputs)
    every, wrong = list[Figures](), list[str]()
    for backend in BACKENDS:
        for dtype, tolerance in TOLERANCES.items():
            if (backend, dtype) == ("reference", "float32"):
                continue
            found: Figures = {"case": case.name, "backend": backend, "dtype": dtype, "tolerance": tolerance}
            found |= outcome(backend, dtype, inputs, expected)
            every.append(found)
            wrong += [f"{case.name}, {backend} in {dtype}: {problem}" for problem in problems(found)]
    return every, wrong


def outcome(backend: Backend, dtype: str, inputs: Inputs, expected: Operands) -> Figures:
    """Return the largest error of the output and of each gradient, of its largest value, or why there is none."""
    refusal = refused(backend, inputs, dtype)
    if refusal:
        return {"not served": refusal}

    def largest(inputs: Inputs, expected: Operands) -> Operands:
        pairs = zip(gradients(backend, *in_dtype(inputs, dtype)), expected, strict=True)
        return [jnp.abs(jnp.float32(one) - other).max() / jnp.abs(other).max() for one, other in pairs]

    try:
        with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
            errors = [float(error) for error in jax.jit(largest)(inputs, expected)]
    except Exception as error:  # of a compiler, a library or a driver; the other cases are compared all the same
        return {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}
    return {"errors": dict(zip(NAMES, errors, strict=False))}


def problems(found: Figures) -> Iterator[str]:
    if "this GPU:" in found.get("not served", ""):  # it should serve this call, but failed the check at the start
        yield found["not served"]
    if "error" in found:
        yield found["error"]
    for name, error in found.get("errors", {}).items():
        if not error <= found["tolerance"]:  # also if it is not a number
            what = "the output" if name == "output" else f"the gradient of the {name}"
            yield f"{what} differs by {error:.2g} of its largest value, more than {found['tolerance']:g}."


def in_dtype(inputs: Inputs, dtype: str) -> Inputs:
    """Cast queries, keys, values and the output's gradient. The bias stays in float32, as in the model."""
    cast = [array.astype(dtype) if array.ndim == 4 else array for array in inputs.arrays]
    return Inputs(inputs.mask, cast, inputs.upstream.astype(dtype))


def gradients(backend: Backend, mask: AttentionMask, arrays: Operands, upstream: jax.Array) -> Operands:
    """Compute the output of real queries, and the gradients."""
    seen = 1 if mask.query_ids is None else (mask.query_ids > 0)[..., None, None]
    output, pull = jax.vjp(partial(attend, backend, mask), *arrays)
    return [output * seen, *pull((upstream * seen).astype(output.dtype))]


def attend(backend: Backend, mask: AttentionMask, *arrays: Any) -> jax.Array:
    query, key, value, bias = (*arrays, None)[:4]
    match backend:
        case "reference":
            return reference_attention(query, key, value, mask.array, bias, lambda weights: weights)
        case "cudnn" | "pallas":
            return KERNELS[backend](query, key, value, mask, bias)
        case "blocked":
            return blocked_attention(reference_attention, query, key, value, mask, bias)


def refused(backend: Backend, inputs: Inputs, dtype: str) -> str:
    """Return why a backend does not serve a call; empty if it does."""
    query, key, bias = (inputs.arrays[0], inputs.arrays[1], (*inputs.arrays, None)[3])
    facts = AttentionFacts.of(jnp.dtype(dtype), query.shape[1], key.shape, inputs.mask, bias, False)
    choice = choose(backend, facts)
    return "" if choice.backend == backend else choice.reason


# --- Inputs -----------------------------------------------------------------------------------------------------------


@partial(jax.jit, static_argnums=(0, 1))
def inputs_of(case: Case, rows: int) -> Inputs:
    """Draw the inputs of a case, rounded to bfloat16."""
    lengths = case.t, case.s, case.s, case.t
    shapes: list[tuple[int, ...]] = [(rows, length, case.heads, case.head_width) for length in lengths]
    shapes += [(case.heads, case.t, case.s)] * case.biased
    keys = jax.random.split(jax.random.key(0), len(shapes))
    drawn = [jnp.float32(jax.random.normal(*each, jnp.bfloat16)) for each in zip(keys, shapes, strict=True)]
    query, key, value, upstream, *bias = drawn
    query = query / 2 ** round(np.log2(case.head_width) / 2)  # scores of about 1; exact in bfloat16
    return Inputs(mask_of(case, rows), [query, key, value, *bias], upstream)


def mask_of(case: Case, rows: int) -> AttentionMask:
    packed = case.rows_hold == "packed"
    if case.part == "cross":
        ids = (segment_ids(case, rows, case.t), segment_ids(case, rows, case.s))
        return encoder_mask(jnp.zeros((rows, case.t), jnp.int32), *ids, packed=packed)
    ids_of_tokens = segment_ids(case, rows, case.t)
    return self_mask(case.part, case.t, ids_of_tokens, causally=case.part == "decoder", packed=packed)


def segment_ids(case: Case, rows: int, length: int) -> jax.Array | None:
    """Return the segment ids of rows of one example each, from one token to all, or of three examples each."""
    if case.rows_hold == "whole":
        return None
    real = 1 + (length - 1) * np.arange(rows) // max(rows - 1, 1)
    if case.rows_hold == "padded":
        return jnp.asarray(np.arange(length) < real[:, None], jnp.int32)
    position = np.arange(length) + np.arange(rows)[:, None]  # so that rows differ
    return jnp.asarray(np.minimum(1 + position * 3 // (length + rows), 3), jnp.int32)


# --- Time -------------------------------------------------------------------------------------------------------------


def times(case: Case, options: argparse.Namespace) -> list[Figures]:
    """Time every backend that serves an attention in bfloat16, forward alone and with the backward pass."""
    inputs = in_dtype(inputs_of(case, options.rows), "bfloat16")
    found = []
    for backend in BACKENDS:
        if refused(backend, inputs, "bfloat16"):
            continue
        forward = partial(jax.jit(partial(attend, backend)), inputs.mask, *inputs.arrays)
        both = partial(jax.jit(partial(gradients, backend)), *inputs)
        calls = {"forward": forward, "forward and backward": both}
        seconds = {what: seconds_each(call, options.repeats) for what, call in calls.items()}
        found.append({"case": case.name, "backend": backend, "seconds": seconds})
    return found


# --- Reporting --------------------------------------------------------------------------------------------------------


def rows(figures: Figures) -> TableRows:
    """Format a row for each case. What a backend serves in no case has one row for all."""
    by_case: dict[str, list[str]] = {}
    reasons: dict[str, set[str]] = {}
    for found in figures["cases"]:
        kind = f"{found['backend']}, {found['dtype']}"
        reasons.setdefault(kind, set()).add(found.get("not served") or found["case"])
        by_case.setdefault(found["case"], []).append(result(found))
    limits = ", ".join(f"{value:g} in {dtype}" for dtype, value in TOLERANCES.items())
    lines: TableRows = [("limit of errors", limits)]
    never = {kind: each.pop() for kind, each in reasons.items() if len(each) == 1 < len(by_case)}
    lines += never.items()
    for case, results in by_case.items():
        lines.append((case, "; ".join(each for each in results if each not in never.values())))
    for found in figures["times"]:
        seconds = ", ".join(f"{1e3 * value:,.3f} ms {what}" for what, value in found["seconds"].items())
        lines.append((f"time of {found['case']}, {figures['rows']} rows: {found['backend']}", seconds))
    return lines


def result(found: Figures) -> str:
    if "errors" not in found:
        return found.get("not served") or f"{found['backend']}: {found['error']}"
    worst = max(found["errors"], key=lambda each: found["errors"][each])
    return f"{found['backend']} {found['errors'][worst]:.1e} ({worst}{', float32' * (found['dtype'] == 'float32')})"
