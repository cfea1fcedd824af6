"""A compiled step by parts of the model: traffic, kernels, products and modelled time of each, forward and backward.

The part of a kernel follows from the named scopes of its operation. Where XLA has forgotten them, as in fusions that it
made from several operations, the operations inside decide.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from research.parallel.hardware import Hardware
from research.plan import time_model
from research.plan.traffic import Kernel

STACKS = ("encoder", "decoder")
# Parts by the first of these words that is in the name of an operation.
SCOPES = {
    "optimizer": "optimizer",
    "loss": "loss",
    "logits": "logits",
    "norm": "norms",
    "relative_bias": "self-attention",
    "embedding": "embedding",
    "self_attention": "self-attention",
    "cross_attention": "cross-attention",
    "feed_forward": "feed-forward",
}
EXCHANGE, SCAN, OTHER = "exchange", "scan", "other"
ORDER = (*dict.fromkeys(SCOPES.values()), SCAN, OTHER, EXCHANGE)
DIRECTIONS = ("forward", "backward", "")
# What a scan does around its body: slices of its inputs, and updates of the arrays that it keeps for the backward pass.
SCANNED = re.compile(r"/while(/body)?(/(jit\()?dynamic_(update_)?(index_in_dim|slice)|$)")


class ModelPart(NamedTuple):
    """A part of the step."""

    stack: str  # "encoder", "decoder" or ""
    name: str  # one of ORDER
    direction: str  # "forward", "backward", or "" for what is outside of the differentiated function

    def __str__(self) -> str:
        return " ".join(filter(None, self))


@dataclass
class Cost:
    """The cost of a part a step."""

    kernels: int = 0
    read: int = 0  # bytes
    written: int = 0
    seconds: float = 0.0  # modelled
    cycles: int = 0  # as XLA estimates for TPUs
    flops: Counter[str] = field(default_factory=Counter)  # of products, by dtype of the operands

    @property
    def bytes(self) -> int:
        return self.read + self.written


def part_of(kernel: Kernel) -> ModelPart:
    """Find the part that a kernel belongs to."""
    if kernel.collective and not kernel.products:
        return ModelPart("", EXCHANGE, "")
    inner = [name for name, _ in Counter(kernel.inner_names).most_common()]
    parts = [_named(name) for name in (kernel.op_name, *inner) if name]
    specific = [part for part in parts if part.name != OTHER]
    part = next(iter(specific or parts), ModelPart("", OTHER, ""))
    if part.name == OTHER and kernel.read == 0 and "broadcast" in kernel.name:
        return part._replace(name=SCAN)  # zeros for the arrays that a scan will keep
    return part


def _named(op_name: str) -> ModelPart:
    """Find the part that an operation belongs to by its name, such as jit(train_step)/jvp(encoder)/.../norm/mul."""
    words = set(re.findall(r"\w+", op_name))
    differentiated = "jvp" in words
    direction = "backward" if "transpose" in words and differentiated else "forward" if differentiated else ""
    stack = next((stack for stack in STACKS if stack in words), "")
    for scope, name in SCOPES.items():
        if scope in words:
            return ModelPart(stack, name, "" if name == "optimizer" else direction)
    if SCANNED.search(op_name):
        return ModelPart(stack, SCAN, direction)
    if op_name.startswith("jit(") and not differentiated and not stack:
        return ModelPart("", "optimizer", "")  # casts, sums and norms of gradients, and the choice of a skipped step
    return ModelPart(stack, OTHER, direction)


def by_part(kernels: Iterable[Kernel], hardware: Hardware) -> dict[ModelPart, Cost]:
    """Add up the kernels of each part, in the order of the model."""
    costs: dict[ModelPart, Cost] = defaultdict(Cost)
    for kernel in kernels:
        add(costs[part_of(kernel)], kernel, hardware)
    return {part: costs[part] for part in sorted(costs, key=_order)}


def _order(part: ModelPart) -> tuple[int, int, int]:
    stack = STACKS.index(part.stack) if part.stack in STACKS else len(STACKS)
    return stack, ORDER.index(part.name), DIRECTIONS.index(part.direction)


def add(cost: Cost, kernel: Kernel, hardware: Hardware) -> None:
    """Add the executions of a kernel to a cost."""
    cost.kernels += kernel.times
    cost.read += kernel.times * kernel.read
    cost.written += kernel.times * kernel.written
    cost.seconds += kernel.times * time_model.seconds(kernel, hardware)
    cost.cycles += kernel.times * kernel.cycles
    for product in kernel.products:
        cost.flops[product.dtype] += kernel.times * product.flops


def to_json(part: ModelPart, cost: Cost) -> dict[str, Any]:
    return {**part._asdict(), **vars(cost), "flops": dict(cost.flops)}
