"""Which backend an attention gets, and why; the check of cuDNN; models with their own attention."""

import json
import re
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import DecoderOnly, Mesh, Model
from research.config.override import from_json, to_json
from research.data.batch import Batch
from research.model import attention_backends, cudnn_attention, kernel_check, pallas_attention
from research.model.attention import SelfAttention
from research.model.attention_backends import AttentionFacts, BackendChoice, backends_text, choose, recorded
from research.model.mask import AttentionMask
from research.model.transformer import DecoderLayer, EncoderDecoder, EncoderLayer, abstract_params, bind
from research.parallel.layout import platform
from research.parallel.mesh import make_mesh

MODEL = Model(61, 24, 2, 8, 40, 2, 2, compute="float32")
FACTS = AttentionFacts("gpu", 1, {}, jnp.bfloat16, 32, (114, 512), 12, 64, AttentionMask("encoder"), 1, False)
PACKED = AttentionMask("encoder", packed=True)
ODD = "cudnn does not serve an odd length, of 113 queries and 512 keys"
ON_MESH = {"data": 2, "fsdp": 2, "sequence": 1, "tensor": 2}


@pytest.mark.parametrize(
    ("asked", "change", "choice"),
    [
        ("auto", {}, BackendChoice("cudnn", "on a gpu")),
        ("auto", {"platform": "tpu"}, BackendChoice("blocked", "on a tpu")),
        ("auto", {"platform": "cpu"}, BackendChoice("reference", "on a cpu")),
        ("auto", {"platform": "METAL"}, BackendChoice("reference", "on a METAL")),
        ("auto", {"dtype": jnp.float32}, BackendChoice("reference", "cudnn does not serve float32")),
        ("auto", {"dropped": True}, BackendChoice("reference", "cudnn does not serve attention dropout of each query")),
        ("auto", {"dropped": True, "platform": "tpu"}, BackendChoice("blocked", "on a tpu")),
        ("auto", {"mask": PACKED}, BackendChoice("reference", "cudnn does not serve packed rows")),
        ("auto", {"mask": PACKED, "platform": "tpu"}, BackendChoice("blocked", "on a tpu")),
        ("auto", {"mask": AttentionMask("decoder", structured=False), "mesh": ON_MESH, "biases": 4},
         BackendChoice("reference", "cudnn does not serve the mask of a decoder-only model's targets")),
        ("auto", {"lengths": (113, 512)}, BackendChoice("reference", ODD)),
        ("auto", {"lengths": (113, 512), "biases": 0}, BackendChoice("reference", ODD)),
        ("auto", {"biases": 32}, BackendChoice("reference", "cudnn does not serve a bias for each row")),
        ("auto", {"head_width": 36}, BackendChoice("reference", "cudnn does not serve heads of 36 features")),
        ("auto", {"mesh": ON_MESH, "biases": 4}, BackendChoice("cudnn", "on a gpu")),
        ("auto", {"mesh": ON_MESH, "biases": 0, "rows": 30},
         BackendChoice("reference", "cudnn does not serve 30 rows in 4 parts")),
        ("auto", {"mesh": ON_MESH | {"sequence": 2}, "biases": 4},
         BackendChoice("reference", "cudnn does not serve a mesh with a sequence axis")),
        ("auto", {"mesh": ON_MESH, "biases": 0, "rows": 598, "platform": "tpu"},
         BackendChoice("reference", "blocked does not serve 598 rows in 4 parts")),
        ("auto", {"lengths": (114, 114), "platform": "tpu"},
         BackendChoice("reference", "its scores fit in fast memory as a whole")),
        ("blocked", {"lengths": (114, 114), "platform": "tpu"}, BackendChoice("blocked", "as configured")),
        ("auto", {"devices": 8}, BackendChoice("reference", "8 devices and no mesh")),
        ("auto", {"devices": 8, "platform": "tpu"}, BackendChoice("reference", "8 devices and no mesh")),
        ("reference", {}, BackendChoice("reference", "as configured")),
        ("blocked", {}, BackendChoice("blocked", "as configured")),
        ("cudnn", {}, BackendChoice("cudnn", "as configured")),
        ("pallas", {}, BackendChoice("pallas", "as configured")),
        ("pallas", {"mask": PACKED, "lengths": (113, 511)}, BackendChoice("pallas", "as configured")),
        ("pallas", {"dropped": True}, BackendChoice("pallas", "as configured")),
        ("pallas", {"head_width": 48}, BackendChoice("cudnn", "pallas does not serve heads of 48 features")),
        ("pallas", {"biases": 32}, BackendChoice("reference", "pallas does not serve a bias for each row;"
         " cudnn does not serve a bias for each row")),
        ("pallas", {"platform": "tpu"}, BackendChoice("blocked", "pallas does not serve a tpu")),
        ("cudnn", {"platform": "cpu"}, BackendChoice("reference", "cudnn does not serve a cpu")),
        ("cudnn", {"platform": "tpu"}, BackendChoice("blocked", "cudnn does not serve a tpu")),
    ],
)  # fmt: skip
def test_the_choice_and_its_reason(asked: str, change: dict[str, Any], choice: BackendChoice) -> None:
    assert choose(asked, FACTS._replace(**change)) == choice


def test_a_gpu_on_which_the_check_fails_gets_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_backends, "kernel_failure", lambda _, width: f"heads of {width} are wrong")
    assert choose("auto", FACTS) == BackendChoice("reference", "cudnn does not serve this GPU: heads of 64 are wrong")


def test_the_platform_is_that_of_the_meshs_devices() -> None:
    assert platform() == "cpu"
    device = jax.sharding.AbstractDevice(device_kind="NVIDIA H200", num_cores=132, platform="cuda")
    mesh = jax.sharding.AbstractMesh((2,), ("data",), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        assert platform() == "gpu"
    with jax.set_mesh(make_mesh(Mesh())):
        assert platform() == "cpu"


# --- The check of kernels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernels", ["cudnn", "pallas"])
def test_the_check_passes_for_right_kernels_and_runs_inside_a_trace(
    kernels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(cudnn_attention, "IMPLEMENTATION", "xla")
    monkeypatch.setattr(pallas_attention, "INTERPRET", True)
    kernel_check._failure.cache_clear()

    @jax.jit
    def traced(x: jax.Array) -> jax.Array:
        assert kernel_check.kernel_failure(kernels, 16) is None
        return x

    traced(jnp.ones(()))
    kernel_check._failure.cache_clear()


def test_the_check_finds_wrong_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_causality(query: Any, key: Any, value: Any, mask: AttentionMask, bias: Any) -> jax.Array:
        return cudnn_attention.cudnn_attention(query, key, value, replace(mask, causal=False), bias)

    monkeypatch.setattr(cudnn_attention, "IMPLEMENTATION", "xla")
    monkeypatch.setitem(kernel_check.KERNELS, "cudnn", without_causality)
    assert "differs by 1 of the largest value in a check (decoder attention)" in str(
        kernel_check.difference("cudnn", 16)
    )


def test_the_check_names_an_error_of_the_library() -> None:
    assert re.search(r"cuDNN (is not detected|not found)", str(kernel_check.difference("cudnn", 16)))
    assert "Only interpret mode is supported" in str(kernel_check.difference("pallas", 16))
    assert kernel_check.kernel_failure("cudnn", 16) is None  # without a GPU here


@pytest.mark.parametrize(
    ("name", "wrong", "sentence"),
    [
        ("bias", np.zeros_like, "the gradient of its bias differs by 1 "),
        ("query", lambda array: array * np.nan, "the gradient of its query differs by nan "),
        ("output", lambda array: array * 1.05, "its output differs by 0.05 "),
    ],
)
def test_the_check_names_the_first_array_that_differs(name: str, wrong: Any, sentence: str) -> None:
    arrays = {each: np.linspace(-2, 2, 9, dtype=np.float32) for each in ("output", "query", "key", "value", "bias")}
    expected = {"encoder": arrays, "decoder": dict(arrays)}
    assert kernel_check.compare(expected, expected) is None
    found = kernel_check.compare(expected | {"decoder": arrays | {name: wrong(arrays[name])}}, expected)
    assert found is not None
    assert found.startswith(sentence)
    assert "(decoder attention)" in found


# --- Models -----------------------------------------------------------------------------------------------------------


class OwnFormula(SelfAttention):
    def attend(self, x, key, value, mask=None, bias=None, dropout_key=None):
        assert mask is None or mask.dtype == bool  # an array, as it was before there were backends
        return super().attend(x, key, value, mask, bias, dropout_key)


class OwnEncoderLayer(EncoderLayer):
    self_attention_class = OwnFormula


class OwnScale(SelfAttention):
    def queries(self, x):
        return 2 * super().queries(x)


class OwnDecoderLayer(DecoderLayer):
    self_attention_class = OwnScale


class OwnNetwork(EncoderDecoder):
    encoder_layer, decoder_layer = OwnEncoderLayer, OwnDecoderLayer


class OwnModel(Model):
    def build(self, key):
        return OwnNetwork(self, key)


def traced(model: Model, **fields: jax.Array) -> dict[str, list[BackendChoice]]:
    tokens = jnp.zeros((8, 6), jnp.int32)
    batch = Batch(tokens, tokens, tokens)._replace(**fields)
    with recorded() as record:
        jax.eval_shape(lambda params: bind(model, params)(batch), abstract_params(model))
    return record


def test_a_class_with_its_own_formula_gets_arrays_and_one_with_its_own_queries_any_backend() -> None:
    own = OwnModel.like(MODEL, attention="blocked")
    record = traced(own, encoder_segment_ids=jnp.ones((8, 6), jnp.int32))
    assert record == {
        "encoder": [BackendChoice("reference", "OwnFormula has its own formula")],
        "decoder": [BackendChoice("blocked", "as configured")],
        "cross": [BackendChoice("blocked", "as configured")],
    }
    assert backends_text(record) == (
        "encoder reference (OwnFormula has its own formula), decoder blocked (as configured),"
        " cross blocked (as configured)"
    )


def test_every_model_records_its_attentions() -> None:
    for model in (MODEL, replace(MODEL, stacks=DecoderOnly()), replace(MODEL, remat="full")):
        parts = ["encoder", "decoder"] if model.stacks == DecoderOnly() else ["encoder", "decoder", "cross"]
        assert traced(model) == {part: [BackendChoice("reference", "on a cpu")] for part in parts}
    assert backends_text(traced(MODEL)) == "reference (on a cpu)"
    assert backends_text({}) == "by the model's own layers"


def test_json_from_before_there_were_backends_loads() -> None:
    stored = json.loads(to_json(MODEL))
    assert stored.pop("attention") == "auto"
    assert from_json(json.dumps(stored), Model) == MODEL
