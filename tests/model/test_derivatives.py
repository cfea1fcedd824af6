"""Derivative rules of our own equal plain differentiation, and keep only what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from research.model import derivatives as rules
from research.parallel.layout import AXES

ROWS, LENGTH, WIDTH, VOCABULARY = 4, 6, 24, 40


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng((seed, *shape)).normal(size=shape), jnp.float32)


X, OTHER = 2 * normal(ROWS, LENGTH, WIDTH) + 1, normal(ROWS, LENGTH, WIDTH, seed=1)
SCALE, BIAS, HEAD = normal(WIDTH), normal(WIDTH, seed=1), normal(WIDTH, VOCABULARY)
LOGITS = 4 * normal(ROWS, LENGTH, VOCABULARY)


def plain_rms_norm(x, scale):
    return x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * scale


def plain_layer_norm(x, scale, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5) * scale + bias


def terms(logits):
    return jnp.stack(rules.logit_terms(logits, targets_of(logits)), axis=-1)


def plain_terms(logits):
    lookup = jnp.take_along_axis(logits, targets_of(logits)[..., None], axis=-1)[..., 0]
    return jnp.stack([jax.nn.logsumexp(logits, axis=-1), lookup, logits.sum(-1)], axis=-1)


def targets_of(logits):
    """Targets that follow from the logits, so that a scan or a map over rows finds those of its row."""
    return jnp.argsort(logits, axis=-1)[..., VOCABULARY // 2]


RULES = {
    "rms_norm": (lambda x, scale: rules.rms_norm(x, scale, 1e-6), plain_rms_norm, (X, SCALE)),
    "layer_norm": (lambda x, scale, bias: rules.layer_norm(x, scale, bias, 1e-5), plain_layer_norm, (X, SCALE, BIAS)),
    "head": (
        lambda x, head: rules.product("btd,dv->btv" if x.ndim == 3 else "td,dv->tv", x, head, "float32"),
        lambda x, head: jnp.tensordot(x, head, 1, precision="highest"),
        (X, HEAD),
    ),
    "logit_terms": (terms, plain_terms, (LOGITS,)),
    "softmax": (
        lambda x: rules.softmax(x, "float32"),
        lambda x: jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True),
        (LOGITS,),
    ),
}
for name, function in rules.ACTIVATIONS.items():
    RULES[name] = (lambda x, name=name: rules.activate(name, x), function, (X,))
    RULES[f"gated {name}"] = (
        lambda x, y, name=name: rules.gate(name, x, y),
        lambda x, y, function=function: function(x) * y,
        (X, OTHER),
    )


def gradients(function, arguments):
    """The results, and the gradients of a weighted sum of them."""
    y, backward = jax.vjp(function, *arguments)
    return y, backward(normal(*y.shape, seed=7).astype(y.dtype))


def assert_close(got, expected, message: str = "") -> None:
    """Equal to 1e-6 of the largest entry."""
    for left, right in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-6 * np.abs(right).max(), err_msg=message)


def checkpointed(function):
    return jax.checkpoint(function)


def scanned(function):
    """Row by row, so that gradients of weights are sums of a scan."""

    def whole(first, *others):
        along = [first, *(other for other in others if other.ndim == 3 and other.shape[0] == ROWS)]
        weights = others[len(along) - 1 :]
        return jax.lax.scan(lambda _, rows: (None, function(*rows, *weights)), None, tuple(along))[1]

    return whole


def mapped(function):
    def whole(first, *others):
        axes = [0 if other.ndim == 3 and other.shape[0] == ROWS else None for other in others]
        return jax.vmap(function, (0, *axes))(first, *others)

    return whole


WAYS = {"plain": lambda function: function, "checkpoint": checkpointed, "scan": scanned, "vmap": mapped}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_equals_plain_differentiation(name: str) -> None:
    ours, plain, arguments = RULES[name]

    @jax.jit  # one program, because compiling takes longest
    def compute(*arguments):
        return gradients(plain, arguments), [gradients(way(ours), arguments) for way in WAYS.values()]

    expected, every = compute(*arguments)
    for way, got in zip(WAYS, every, strict=True):
        assert_close(got, expected, way)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_holds_over_devices(name: str) -> None:
    """Rows over two devices and the last axis over four."""
    ours, plain, arguments = RULES[name]
    mesh = jax.make_mesh((2, 1, 1, 4), AXES, axis_types=(jax.sharding.AxisType.Auto,) * 4)
    specs = [
        P("data", None, "tensor") if each.ndim == 3 else P(*[None] * (each.ndim - 1), "tensor") for each in arguments
    ]
    with jax.set_mesh(mesh):
        placed = [
            jax.device_put(each, jax.NamedSharding(mesh, spec)) for each, spec in zip(arguments, specs, strict=True)
        ]
        got = jax.jit(lambda *arguments: gradients(ours, arguments))(*placed)
    assert_close(got, jax.jit(lambda *arguments: gradients(plain, arguments))(*arguments))


KEPT = {  # float32 values and bytes of everything, with bfloat16 inputs
    "rms_norm": (WIDTH, 2 * X.size),
    "layer_norm": (WIDTH, 2 * X.size),
    "gelu_tanh": (0, 2 * X.size),
    "gated gelu_tanh": (0, 4 * X.size),
    "head": (0, 2 * (X.size + HEAD.size)),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_the_backward_pass_keeps(name: str) -> None:
    """Inputs in their own dtype; of float32 only scales."""
    ours, _, arguments = RULES[name]
    cast = [each if each.ndim == 1 else each.astype(jnp.bfloat16) for each in arguments]
    kept = jax.tree.leaves(jax.eval_shape(lambda *arguments: jax.vjp(ours, *arguments)[1], *cast))
    wide = sum(leaf.size for leaf in kept if leaf.dtype == jnp.float32)
    half = sum(leaf.size * leaf.dtype.itemsize for leaf in kept if leaf.dtype == jnp.bfloat16)
    most, narrow = KEPT[name]
    assert wide <= most
    assert half <= narrow


@pytest.mark.parametrize("name", ["rms_norm", "layer_norm", "logit_terms"])
def test_half_precision_rounds_once(name: str) -> None:
    """Gradients of bfloat16 inputs are those of the same values in float32, rounded."""
    ours, plain, arguments = RULES[name]
    half = [each if each.ndim == 1 else each.astype(jnp.bfloat16) for each in arguments]

    @jax.jit
    def compute(*half):
        y, got = gradients(ours, half)
        wide = [each.astype(jnp.float32) for each in half]
        weights = normal(*y.shape, seed=7).astype(y.dtype).astype(jnp.float32)
        return got, jax.vjp(plain, *wide)[1](weights)

    for left, right in zip(*compute(*half), strict=True):
        np.testing.assert_allclose(left.astype(jnp.float32), right, rtol=5e-3, atol=1e-5)


def test_both_products_of_the_head_have_narrow_operands() -> None:
    x, head = X.astype(jnp.bfloat16), HEAD.astype(jnp.bfloat16)
    jaxpr = jax.make_jaxpr(lambda x, head, g: jax.vjp(RULES["head"][0], x, head)[1](g))(x, head, LOGITS)
    products = [equation for equation in jaxpr.jaxpr.eqns if equation.primitive.name == "dot_general"]
    assert len(products) >= 2
    assert all(operand.aval.dtype == jnp.bfloat16 for product in products for operand in product.invars)


@pytest.mark.parametrize("equation", ["btd,df->btf", "btf,fd->btd", "btd,dhk->bthk", "bthk,hkd->btd", "btd,dv->btv"])
def test_over_fsdp_the_gradient_of_a_weight_is_scattered_and_equal(equation):
    sizes = {"b": 8, "t": 3, "d": 16, "f": 12, "h": 4, "k": 6, "v": 24}
    reads, axes, writes = ([sizes[letter] for letter in part] for part in equation.replace("->", ",").split(","))
    x, weight, direction = normal(*reads), normal(*axes), normal(*writes, seed=1)

    def gradient(x, weight):
        return jax.grad(lambda weight: jnp.sum(rules.product(equation, x, weight) * direction))(weight)

    plain = gradient(x, weight)
    mesh = jax.make_mesh((1, 4, 1, 2), AXES, axis_types=(jax.sharding.AxisType.Auto,) * 4)
    with jax.set_mesh(mesh):
        found = jax.jit(gradient)(jax.device_put(x, jax.NamedSharding(mesh, P("fsdp"))), weight)
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-5)
    width = equation.partition(",")[2].partition("->")[0].index("d")
    assert (found.sharding.shard_shape(found.shape)[width] == 4) == ("v" not in equation)
