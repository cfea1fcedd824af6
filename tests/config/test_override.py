"""Overrides are parsed by annotation, refused by name, and a config survives JSON."""

import dataclasses

import pytest

from research import (
    TFDS,
    Adafactor,
    AdamW,
    Bytes,
    Cosine,
    Denoising,
    Experiment,
    InverseSquareRoot,
    JSONLines,
    Model,
    PlainText,
    SentencePiece,
    Tied,
)
from research.config import ConfigError
from research.config.override import apply, diff, from_json, to_json

CONFIG = Experiment(
    model=Model(128, 16, 2, 8, 32, 2, 2),
    data=Denoising(corpora=(TFDS("python_docs"),)),
    optimizer=Adafactor(),
    steps=10,
    batch_size=8,
)


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("steps", "20", 20),
        ("steps", "1e4", 10_000),
        ("steps", "1_000", 1000),
        ("optimizer.schedule.peak", "3e-3", 3e-3),
        ("optimizer.schedule.peak", "1", 1.0),
        ("optimizer.clip_norm", "None", None),
        ("optimizer.clip_norm", "0.5", 0.5),
        ("optimizer.factored", "false", False),
        ("optimizer.frozen", "['embedding', 'norm']", ("embedding", "norm")),
        ("model.activation", "relu", "relu"),
        ("model.head", "Tied(scaled=False)", Tied(scaled=False)),
        ("model.head", "Tied", Tied()),
        ("data.corpora.0.name", "c4/en:3.0.1", "c4/en:3.0.1"),
        ("data.tokenizer", "Bytes()", Bytes()),
        ("data.tokenizer", "SentencePiece('docs.model')", SentencePiece("docs.model")),
        ("data.tokenizer", "SentencePiece('docs.model', sentinels=10)", SentencePiece("docs.model", 10)),
        ("data.corpora", "[PlainText(train='a b.txt', document='file'), JSONLines(train='c')]",
         (PlainText("a b.txt", document="file"), JSONLines("c"))),
        ("optimizer", "AdamW(schedule=Cosine(peak=1e-3), b2=0.98)", AdamW(schedule=Cosine(peak=1e-3), b2=0.98)),
        ("optimizer.schedule", "Cosine(peak=2.0, warmup=2e3)", Cosine(peak=2.0, warmup=2000)),
        ("optimizer.schedule.peak", "1e0", 1.0),
    ],
)  # fmt: skip
def test_override_is_parsed_by_annotation(path: str, text: str, expected: object) -> None:
    value: object = apply(CONFIG, {path: text})
    for name in path.split("."):
        value = value[int(name)] if isinstance(value, tuple) else getattr(value, name)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("stesp", "20", "stesp is no field: the config has model, data, optimizer, steps"),
        ("optimizer.peek", "1", "optimizer.peek is no field: optimizer has schedule, clip_norm"),
        ("optimizer.b1", "0.9", "optimizer.b1 is no field"),
        ("steps", "2.5", "steps is 2.5: allowed is an integer"),
        ("steps", "1e30", "steps is 1e+30: allowed is an integer"),
        ("steps", "1e-4", "steps is 0.0001: allowed is an integer"),
        ("steps", "True", "steps is True: allowed is an integer"),
        ("optimizer.factored", "maybe", "optimizer.factored is 'maybe': allowed is True or False"),
        ("model.activation", "swish", "allowed is 'relu' or 'gelu' or 'gelu_tanh' or 'silu'"),
        ("data.corpora.1.name", "x", "data.corpora.1 is no field: data.corpora has 0"),
        ("optimizer", "SGD()", "optimizer is SGD(...): allowed is Adafactor("),
        ("optimizer", "AdamW()", "optimizer needs schedule"),
        ("optimizer", "AdamW(schedule=Cosine(top=1))", "optimizer.schedule.top is no field: Cosine has peak"),
        ("steps", "0", "steps is 0: it must be above 0"),
        ("steps", "{[1]: 2}", "steps is '{[1]: 2}': allowed is an integer"),
        ("data.tokenizer", "Bytes(1, 2)", "data.tokenizer is 'Bytes(1, 2)': allowed is SentencePiece("),
        ("steps.x", "1", "steps.x is no field: steps has no fields"),
        ("stesp", "20", "; did you mean steps?"),
        ("optimizer.schedule.paek", "1", "; did you mean peak?"),
        ("optimizer", "AdamW(schedule=Cosine(paek=1))", "; did you mean peak?"),
        ("optimizer", "Adam_W(schedule=Cosine(peak=1))", "; did you mean AdamW?"),
        ("model.activation", "gelo", "; did you mean gelu?"),
    ],
)
def test_bad_override_is_one_sentence_that_says_what_is_allowed(path: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        apply(CONFIG, {path: text})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_overrides_are_validated_together() -> None:
    changed = apply(CONFIG, {"batch_size": "9", "microbatches": "3"})
    assert (changed.batch_size, changed.microbatches) == (9, 3)


def test_variant_and_its_fields_together() -> None:
    changed = apply(CONFIG, {"optimizer.schedule": "InverseSquareRoot()", "optimizer.schedule.timescale": "50"})
    assert changed.optimizer.schedule == InverseSquareRoot(timescale=50)


def test_json_round_trip() -> None:
    changed = apply(CONFIG, {"model.head": "Tied()", "data.corpora": "[PlainText(train='a'), TFDS(name='b')]"})
    for config in (CONFIG, changed):
        assert from_json(to_json(config)) == config


def test_json_of_another_shape_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"config\.stepz is no field"):
        from_json(to_json(CONFIG).replace('"steps"', '"stepz"'))
    with pytest.raises(ConfigError, match="not JSON"):
        from_json("{")


def test_diff_names_what_changed() -> None:
    changed = apply(CONFIG, {"steps": "20", "optimizer.schedule.peak": "1.0", "model.head": "Tied()"})
    assert diff(CONFIG, changed) == {
        "steps": (10, 20),
        "optimizer.schedule.peak": (0.01, 1.0),
        "model.head": (CONFIG.model.head, Tied()),
    }
    assert diff(CONFIG, dataclasses.replace(CONFIG)) == {}
