"""Calibration of the model of a step's time (research/plan/time_model.py) by what this device reaches.

Measured are the matrix products of a step, a copy, the cost of a kernel, and attention by cuDNN. The program that the
phase step_base compiled on this device is then modelled with the constants as they are and as they should be, beside
the step that was measured.
"""

import argparse
import gzip
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from research.config import Model
from research.model.family import preset
from research.parallel import hardware
from research.parallel.hardware import Hardware
from research.plan import targets, time_model
from research.plan.hlo import Module
from research.plan.parts import by_part, to_json
from research.plan.products import PRODUCTS_OF
from research.plan.time_model import RATES, Rates
from research.plan.traffic import kernels
from scripts.benchmark.accelerator import attention
from scripts.benchmark.accelerator.phase import Figures, Keep, TableRows, records
from scripts.benchmark.train import seconds_each

PROGRAM, STEP = "step_base.hlo.gz", "step_base"  # what the phase of this name leaves
FORMS = {"forward": "mk,kn->mn", "of inputs": "mn,kn->mk", "of weights": "mk,mn->kn"}  # a product and its gradients


def measure(arguments: list[str], keep: Keep, folder: Path) -> Figures:
    options, figures = parser().parse_args(arguments), Figures()
    system = system_here()
    for name, found in (
        ("products", partial(timed_products, options)),
        ("copy", lambda: {"bytes_per_second": copied(options.copied)}),
        ("launch", lambda: launches(options.launches)),
        ("attention", lambda: attention.times(encoder_of(options), options)),
    ):
        figures[name] = found()
        keep(figures)
    suggested = suggestion(figures, system, options)
    figures |= {"hardware": system.kind, "here": is_here(system), "suggested": suggested._asdict()}
    return figures | {"rates": RATES._asdict(), "step": modelled(folder, system, suggested)}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(allow_abbrev=False)
    made.add_argument("--preset", default="t5_v1_1/base")
    made.add_argument("--rows", type=int, default=128)
    made.add_argument("--input_length", type=int, default=512)
    made.add_argument("--target_length", type=int, default=114)
    made.add_argument("--vocab_size", type=int, default=32128)
    made.add_argument("--copied", type=int, default=2**32, help="bytes")
    made.add_argument("--launches", type=int, default=200)
    made.add_argument("--repeats", type=int, default=20)
    return made


def encoder_of(options: argparse.Namespace) -> attention.Case:
    return attention.cases(options.input_length, options.target_length)[0]


def system_here() -> Hardware:
    """Return this device as the model knows it; an H200 in place of one that it does not know."""
    kind = jax.devices()[0].device_kind
    return hardware.find(f"1x{next((name for name, gpu in targets.GPUS.items() if gpu.name == kind), 'H200')}")


def is_here(system: Hardware) -> bool:
    return targets.GPUS[system.kind].name == jax.devices()[0].device_kind


# --- Measuring --------------------------------------------------------------------------------------------------------


class ProductSize(NamedTuple):
    """A matrix product of a step, [m k] by [k n], and how often its forward pass has it."""

    m: int
    k: int
    n: int
    times: int

    @property
    def flops(self) -> int:
        return 2 * self.m * self.k * self.n


def sizes(model: Model, rows: int, inputs: int, targets: int) -> Iterator[ProductSize]:
    """Yield the products of a step without those of the scores, and without merging any."""
    d, inner, f, up = model.width, model.attention_width, model.feed_forward, 2 if model.gated else 1
    s, t, encoder, decoder = rows * inputs, rows * targets, model.encoder_layers, model.decoder_layers
    yield ProductSize(s, d, inner, 3 * encoder + 2 * decoder)  # with the keys and values of cross-attention
    yield ProductSize(s, inner, d, encoder)
    yield ProductSize(s, d, f, up * encoder)
    yield ProductSize(s, f, d, encoder)
    yield ProductSize(t, d, inner, 4 * decoder)
    yield ProductSize(t, inner, d, 2 * decoder)
    yield ProductSize(t, d, f, up * decoder)
    yield ProductSize(t, f, d, decoder)
    yield ProductSize(t, d, model.vocab_size, 1)


def timed_products(options: argparse.Namespace) -> list[Figures]:
    model = preset(options.preset, vocab_size=options.vocab_size)
    found = []
    for size in sizes(model, options.rows, options.input_length, options.target_length):
        for form in FORMS:
            seconds = product_seconds(size, form, jnp.bfloat16, options.repeats)
            found.append({**size._asdict(), "form": form, "dtype": "bfloat16", "seconds": seconds})
    seconds = product_seconds(size, "forward", jnp.float32, options.repeats)
    return [*found, {**size._asdict(), "form": "forward", "dtype": "float32", "seconds": seconds}]


def product_seconds(size: ProductSize, form: str, dtype: Any, repeats: int) -> float:
    axes = size._asdict()
    shapes = [[axes[axis] for axis in operand] for operand in FORMS[form].partition("->")[0].split(",")]
    keys = jax.random.split(jax.random.key(0))
    arrays = [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)]
    multiply = jax.jit(partial(jnp.einsum, FORMS[form]))
    return seconds_each(lambda: multiply(*arrays), repeats)


def copied(size: int) -> float:
    """Measure the bytes a second that a copy reads and writes."""
    source = jnp.ones(size // 4, jnp.float32)
    add: Callable[..., jax.Array] = jax.jit(lambda array: array + 1)
    return 2 * size / seconds_each(lambda: add(source), 10)


def launches(count: int) -> Figures:
    """Time a chain of tiny kernels, each of which waits for the one before."""

    @jax.jit
    def chain(array: jax.Array) -> jax.Array:
        for _ in range(count):
            array = array - jnp.max(array)  # a reduction that no other can be fused with
        return array

    array = jnp.arange(256, dtype=jnp.float32)
    program = chain.lower(array).compile()
    run = sum(kernel.times for kernel in kernels(Module(program.as_text() or "")))
    return {"kernels": run, "seconds": seconds_each(lambda: program(array), 10) / run}


# --- The model --------------------------------------------------------------------------------------------------------


def suggestion(figures: Figures, system: Hardware, options: argparse.Namespace) -> Rates:
    """Compute the constants by which the model would give what was measured."""
    peak, timed = system.chip.flops, figures["products"]
    half = [each for each in timed if each["dtype"] == "bfloat16"]
    flops = [each["times"] * 2 * each["m"] * each["k"] * each["n"] for each in half]
    rate = sum(flops) / sum(each["times"] * each["seconds"] for each in half)
    slow = timed[-1]
    fast = next(each for each in half if (each["n"], each["form"]) == (slow["n"], slow["form"]))
    rates = Rates(
        products=rate / peak,
        float32=fast["seconds"] / slow["seconds"],
        bandwidth=figures["copy"]["bytes_per_second"] / system.chip.bandwidth,
        launch=figures["launch"]["seconds"],
    )
    seconds = {each["backend"]: each["seconds"] for each in figures["attention"]}
    if "cudnn" in seconds:
        rates = with_attention(rates, seconds["cudnn"], system, options)
    if "pallas" in seconds:
        rates = with_own_kernels(rates, seconds["pallas"]["forward and backward"], system, options)
    return rates


def with_attention(rates: Rates, seconds: dict[str, float], system: Hardware, options: argparse.Namespace) -> Rates:
    """Add the rates of cuDNN's attention, as research/plan/products.py counts its FLOPs and its workspace."""
    case = encoder_of(options)
    scores = options.rows * case.heads * case.t * case.s
    forward, workspace = 4 * scores * case.head_width, 2 * scores * jnp.bfloat16.dtype.itemsize
    backward = seconds["forward and backward"] - seconds["forward"] - rates.launch
    backward -= workspace / (rates.bandwidth * system.chip.bandwidth)
    return rates._replace(
        attention_forward=forward / (seconds["forward"] - rates.launch) / system.chip.flops,
        attention_backward=2 * time_model.RECOMPUTED * forward / backward / system.chip.flops,
    )


def with_own_kernels(rates: Rates, seconds: float, system: Hardware, options: argparse.Namespace) -> Rates:
    """Add the rate of our own kernels of attention, with every product that they compute."""
    case = encoder_of(options)
    flops = 2 * sum(PRODUCTS_OF.values()) * options.rows * case.heads * case.t * case.s * case.head_width
    return rates._replace(own_kernels=flops / (seconds - len(PRODUCTS_OF) * rates.launch) / system.chip.flops)


def modelled(folder: Path, system: Hardware, suggested: Rates) -> Figures | None:
    """Model the program of the phase step_base, beside its measured time; None if it is not there."""
    measured = records(folder).get(STEP, {})
    if not measured.get("finished") or not (folder / PROGRAM).is_file():
        return None
    program = kernels(Module(gzip.decompress((folder / PROGRAM).read_bytes()).decode()))

    def seconds(rates: Rates) -> float:
        return sum(kernel.times * time_model.seconds(kernel, system, rates) for kernel in program)

    return {
        "measured_seconds": statistics.median(measured["figures"]["step_seconds"]),
        "modelled_seconds": seconds(RATES),
        "suggested_seconds": seconds(suggested),
        "kernels": sum(kernel.times for kernel in program),
        "traffic": sum(kernel.times * kernel.bytes for kernel in program),
        "parts": [to_json(part, cost) for part, cost in by_part(program, system).items()],
    }


# --- Reporting --------------------------------------------------------------------------------------------------------


def rows(figures: Figures) -> TableRows:
    if "suggested" not in figures:
        return [(name, "measured") for name in figures]
    note = "" if figures["here"] else f", for an {figures['hardware']}, which this device is not"
    rates: dict[str, list[str]] = {}
    for each in figures["products"]:
        rate = 2e-12 * each["m"] * each["k"] * each["n"] / each["seconds"]
        name = f"product [{each['m']} {each['k']}] x [{each['k']} {each['n']}], {each['dtype']}"
        rates.setdefault(name, []).append(f"{rate:,.1f} {each['form']}")
    lines = [(name, f"{', '.join(values)}, in TFLOP/s") for name, values in rates.items()]
    lines.append(("copy", f"{figures['copy']['bytes_per_second'] / 1e9:,.1f} GB/s"))
    lines.append(
        ("a tiny kernel", f"{1e6 * figures['launch']['seconds']:,.2f} us, of {figures['launch']['kernels']:,}")
    )
    for name, value in figures["suggested"].items():
        before = figures["rates"][name]
        same = " (not measured)" if value == before else ""
        lines.append((f"time_model.{name.upper()}", f"{value:.4g}{same}, instead of {before:.4g}{note}"))
    return lines + step_rows(figures["step"], note)


def step_rows(step: Figures | None, note: str) -> TableRows:
    if step is None:
        return [("modelled step", f"none: the phase {STEP} has not finished in this folder")]
    values = {
        "step, measured": step["measured_seconds"],
        "step, modelled": step["modelled_seconds"],
        "step, modelled with the suggested constants": step["suggested_seconds"],
    }
    lines = [(name, f"{1e3 * seconds:,.4g} ms{note if 'modelled' in name else ''}") for name, seconds in values.items()]
    traffic = f"{step['traffic'] / 1e9:,.1f} GB of traffic in {step['kernels']:,} kernels"
    return [*lines, ("the program compiled here", traffic)]
