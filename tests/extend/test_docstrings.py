"""The example in the docstring of every base class works as it is written."""

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from docstring_examples import example

from research import Corpus, JSONExamples, Logger, Metric, Model, Objective, Optimizer, Schedule, Task
from research.config.optimizer import Parameter
from research.model.family import t5
from research.model.parameters import parameters
from research.model.transformer import abstract_params
from research.parallel.rules import flatten


def test_objective(families) -> None:
    backwards = example(Objective)["Backwards"](1.0)
    tokens = np.arange(16, dtype=np.uint16).reshape(2, 8) + 10
    batch = backwards.corrupt(tokens, backwards.lengths(9), families["t5"], np.random.default_rng(0))
    np.testing.assert_array_equal(batch.encoder_input_tokens[:, :-1], tokens[:, ::-1])
    np.testing.assert_array_equal(batch.decoder_target_tokens[:, :-1], tokens)


def test_task() -> None:
    task = example(Task)["Reversal"](examples=JSONExamples("train.jsonl"), column="text")
    assert task.names.source == task.names.target == ("text",)
    assert task.example({"text": ("one two three",)}) == ("reverse: one two three", "three two one")


def test_metric() -> None:
    recall = example(Metric)["WordRecall"]()
    assert recall.score(["a house", ""], [["A red house"], ["x"]]) == {"word_recall": pytest.approx(100 / 3)}


def test_schedule() -> None:
    staircase = example(Schedule)["Staircase"](peak=1.0)
    assert [float(staircase.curve(jnp.float32(step), 9000)) for step in (0, 999, 2500)] == pytest.approx([1, 1, 0.01])


@pytest.mark.parametrize("number", [0, 1])
def test_optimizer(number: int) -> None:
    staircase = example(Schedule)["Staircase"](peak=1.0)
    lion = example(Optimizer, number)["Lion"](schedule=staircase)
    params = {"x": jnp.array([1.0, -2.0])}
    transformation = lion.transformation(jnp.float32(0.5), {"x": Parameter("w", "", growth=2.0)})
    updates, _ = transformation.update(params, transformation.init(params), params)
    step = 0.5 / (1 if number == 0 else 2)
    np.testing.assert_array_equal(optax.apply_updates(params, updates)["x"], [1.0 - step, step - 2.0])


def test_corpus(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("".join(f"line {number}\n" for number in range(20)))
    lines = example(Corpus)["Lines"](str(tmp_path / "notes.txt"))
    held_out, train = lines.documents("held_out"), lines.documents("train")
    assert (held_out[0], len(held_out), len(train)) == ("line 0", 2, 18)


def test_logger(tmp_path: Path) -> None:
    writer = example(Logger)["CSV"]().open(tmp_path, None, 0)
    writer.write(3, {"loss": 1.5})
    writer.close()
    assert (tmp_path / "numbers.csv").read_text() == "3,loss,1.5\n"


def test_model() -> None:
    model = example(Model)["QKNorm"].like(replace(t5("small", vocab_size=64), width=8, head_width=4, heads=2))
    params, specs = abstract_params(model), parameters(abstract_params(model), model)
    assert flatten(params)["encoder/layers/self_attention/query_scale"].shape == (model.encoder_layers, 4)
    assert specs["encoder/layers/self_attention/query_scale"].axes == "lk"
