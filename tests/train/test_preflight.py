"""A backend of attention asked for by name is refused before anything slow if it cannot serve the run."""

from dataclasses import replace

import jax
import pytest

from research import AdamW, Constant, Denoising, Experiment, Mesh, Model, PlainText
from research.config import ConfigError
from research.model import attention_backends
from research.parallel.mesh import abstract_mesh, make_mesh
from research.train.preflight import check, check_attention

MODEL = Model(64, 32, 8, 8, 48, 1, 1)
EXPERIMENT = Experiment(
    model=MODEL,
    data=Denoising((PlainText(train="unread"),), input_length=64),
    optimizer=AdamW(schedule=Constant(peak=1e-3)),
    steps=10,
    batch_size=8,
)


def asking(attention: str, **changes) -> Experiment:
    return replace(EXPERIMENT, model=replace(MODEL, attention=attention, **changes))


def test_cudnn_is_refused_on_a_cpu_and_every_other_backend_is_not() -> None:
    mesh = make_mesh(Mesh())
    for attention in ("auto", "reference", "blocked"):
        check(asking(attention), mesh)
    message = "model.attention is 'cudnn': cudnn does not serve a cpu .in the encoder attention.; set it to 'auto'"
    with pytest.raises(ConfigError, match=message):
        check(asking("cudnn"), mesh)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"compute": "float32"}, "float32"),
        ({"attention_dropout": 0.1, "shared_dropout": False}, "attention dropout of each query"),
        ({"head_width": 12}, "heads of 12 features"),
    ],
)
def test_what_cudnn_cannot_do_is_named(changes, reason, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_backends, "platform", lambda: "gpu")
    with pytest.raises(ConfigError, match=f"model.attention is 'cudnn': cudnn does not serve {reason} .in the encoder"):
        check_attention(asking("cudnn", **changes), make_mesh(Mesh()))


def test_devices_that_nothing_is_known_about_refuse_nothing() -> None:
    """The variants of a sweep are checked where they are launched, not where they run."""
    check(asking("cudnn"), abstract_mesh(Mesh(), len(jax.devices())))
