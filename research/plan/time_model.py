"""A model of the time of a compiled step, kernel by kernel. It is not calibrated: nothing here was measured on a GPU.

On GPUs a kernel takes the longer of its memory traffic and its products, plus a launch. Kernels run one after another,
and collectives add what their links take. On TPUs the time is XLA's own estimate of cycles. The model is for comparing
programs: ratios mean more than milliseconds.
"""

from typing import NamedTuple

from research.parallel.hardware import Chip, Hardware
from research.plan.collectives import Collective
from research.plan.products import Product
from research.plan.traffic import Kernel

# Shares of the data sheet's rates. An H200 measured by others reaches 769 - 798 of 989 TFLOP/s in a product of 8,192^3
# in bfloat16; products of a step, which are smaller, are taken to reach 0.8 of 790. Copies reach 4.3 of 4.8 TB/s.
# Attention by cuDNN of head width 64 is taken to reach 400 TFLOP/s forward and 350 backward; our own kernels, 250 with
# everything that they compute. The shares of the H200 are used for the other GPUs too.
PRODUCTS = 0.8 * 790 / 989.4
FLOAT32 = 0.5  # of that with operands in float32: TF32
BANDWIDTH = 4.3 / 4.8
ATTENTION_FORWARD = 400 / 989.4
ATTENTION_BACKWARD = 350 / 989.4
OWN_KERNELS = 250 / 989.4
RECOMPUTED = 1.25  # attention's backward pass computes the scores again: five products for four that count
LAUNCH = 1.5e-6  # seconds


class Rates(NamedTuple):
    """The rates that a GPU reaches, as shares of its data sheet's, and the seconds of a launch."""

    products: float = PRODUCTS
    float32: float = FLOAT32
    bandwidth: float = BANDWIDTH
    attention_forward: float = ATTENTION_FORWARD
    attention_backward: float = ATTENTION_BACKWARD
    own_kernels: float = OWN_KERNELS
    launch: float = LAUNCH


RATES = Rates()


def seconds(kernel: Kernel, hardware: Hardware, rates: Rates = RATES) -> float:
    """Model the seconds of one execution of a kernel."""
    chip = hardware.chip
    if chip.clock:
        return kernel.cycles / chip.clock
    bandwidth = rates.bandwidth * chip.bandwidth
    if kernel.collective:
        return rates.launch + _exchange(kernel.collective, hardware)
    attention = [product for product in kernel.products if product.attention in ("forward", "backward")]
    if attention:  # its workspace is written beside the products, and read after them
        workspaces = sum(product.workspace for product in attention) / bandwidth
        return rates.launch + workspaces + sum(_attention(product, chip, rates) for product in attention)
    products = sum(product.flops / _rate(product, rates) for product in kernel.products) / chip.flops
    return rates.launch + max(kernel.bytes / bandwidth, products)


def _rate(product: Product, rates: Rates) -> float:
    if product.attention == "pallas":
        return rates.own_kernels
    return rates.products * (rates.float32 if product.dtype == "f32" else 1)


def _attention(product: Product, chip: Chip, rates: Rates) -> float:
    if product.attention == "forward":
        return product.flops / (rates.attention_forward * chip.flops)
    return RECOMPUTED * product.flops / (rates.attention_backward * chip.flops)


def _exchange(collective: Collective, hardware: Hardware) -> float:
    """Model a collective by the links of its domain, or by the network if its devices are in several domains."""
    domains = {device // hardware.slice for device in collective.devices(hardware.chips)}
    rate = hardware.chip.links if len(domains) == 1 else hardware.chip.network
    return collective.sent(hardware.chips) / rate
