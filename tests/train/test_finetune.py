"""Fine-tuning on pairs in memory: it learns them, leaves the model as it was, and repeats to the bit."""

import jax
import numpy as np
import pytest
from annotations import unchecked_annotations

from research import Adafactor, InverseSquareRoot, Mesh, finetune, load
from research.config import ConfigError
from research.data.tasks.in_memory import prepare_pairs, task_of
from research.decode.loaded_model import LoadedModel

PAIRS = [("one", "un"), ("two", "deux"), ("three", "trois"), ("four", "quatre")]
SOURCES, TARGETS = map(list, zip(*PAIRS, strict=True))


@pytest.fixture(scope="module")
def model(tiny_run, tmp_path_factory) -> LoadedModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KINTSUGI_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield load(tiny_run)


def test_it_learns_the_pairs_and_leaves_the_model_as_it_was(model):
    before, losses = model.score(SOURCES, TARGETS), []
    settings = dict(steps=60, learning_rate=2e-2, on_step=lambda step, metrics: losses.append((step, metrics.loss)))
    tuned = finetune(model, PAIRS, **settings)
    assert [step for step, _ in losses] == list(range(1, 61))
    after = tuned.score(SOURCES, TARGETS)
    assert after.nll.sum() < before.nll.sum() / 4
    np.testing.assert_array_equal(model.score(SOURCES, TARGETS).nll, before.nll)
    np.testing.assert_array_equal(after.tokens, before.tokens)
    again = finetune(model, PAIRS, steps=60, learning_rate=2e-2)
    assert jax.tree.all(jax.tree.map(np.array_equal, again.params, tuned.params))
    other = finetune(model, PAIRS, steps=1, learning_rate=2e-2, optimizer=Adafactor(schedule=InverseSquareRoot()))
    assert not jax.tree.all(jax.tree.map(np.array_equal, other.params, model.params))


def test_the_first_loss_is_that_of_the_pairs(model):
    """With every pair in a row once, the mean loss a token is that of `score`."""
    losses = []
    finetune(
        model, PAIRS * 2, steps=1, input_length=6, target_length=7,
        on_step=lambda step, metrics: losses.append(metrics),
    )  # fmt: skip
    nll, tokens = model.score(SOURCES, TARGETS)
    assert losses[0].target_tokens == 2 * tokens.sum()
    np.testing.assert_allclose(losses[0].nll, nll.sum() / tokens.sum(), rtol=1e-5)


@pytest.mark.slow
def test_a_mesh_changes_nothing_but_rounding(model, tiny_run):
    on_mesh = load(tiny_run, mesh=Mesh(data=2, fsdp=2, tensor=2))
    plain, split = (finetune(each, PAIRS, steps=3, learning_rate=1e-3) for each in (model, on_mesh))
    np.testing.assert_allclose(split.logits(SOURCES, TARGETS), plain.logits(SOURCES, TARGETS), rtol=1e-3, atol=1e-3)


def test_rows_are_as_long_as_the_longest_and_as_the_model_has_positions(model):
    def widths(**lengths):
        (rows,) = prepare_pairs(task_of(PAIRS, (None, None)), model.tokenizer, **lengths).train
        return rows.inputs, rows.targets

    assert widths() == (6, 7)  # "three" and "quatre", with EOS
    assert widths(input_length=20, target_length=3) == (20, 3)
    assert widths(input_length=20, longest=5) == (5, 5)


@pytest.mark.parametrize(
    ("pairs", "settings", "sentence"),
    [
        ([], {}, "pairs is empty: give at least one (source, target)."),
        (["ab"], {}, "Pair 1 is ab: it must be (source, target), two strings."),
        ([*PAIRS, ("a",)], {}, "Pair 5 is ('a',): it must be (source, target), two strings."),
        ([("a", 3)], {}, "Pair 1 is ('a', 3): it must be (source, target), two strings."),
        ([("a", " ")], {}, "Pair 1 has an empty side: give both sides of every pair."),
        (PAIRS, {"steps": 0}, "steps is 0: it must be above 0 and finite."),
        (PAIRS, {"batch_size": 3}, "batch_size / microbatches is 3 rows: it must be a multiple"),
        (PAIRS, {"input_length": 0}, "input_length is 0: it must be above 0."),
        (PAIRS, {"seed": -1}, "seed is -1: it must lie in [0, 2**32)"),
        (PAIRS, {"learning_rate": -1.0}, "peak is -1.0"),
        (PAIRS, {"target_language": "de_DE"}, "this tokenizer has no language codes"),
        (PAIRS, {"learning_rate": 1e38}, "The loss was not finite for 4 steps in a row: lower the learning rate."),
    ],
)
def test_bad_input_is_one_sentence(model, pairs, settings, sentence):
    with unchecked_annotations(), pytest.raises(ConfigError) as caught:
        finetune(model, pairs, **{"steps": 4, **settings})
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
