"""scripts.benchmark.data: the yardstick does the same work as the objective, and figures are summed up rightly."""

from itertools import pairwise

import numpy as np
import pytest

from research import TFDS, Bytes, Denoising, SpanCorruption
from research.data.tokenizer import open_tokenizer
from scripts.benchmark import data as benchmark

BYTES = open_tokenizer(Bytes(sentinels=259))


def test_the_yardstick_corrupts_as_the_objective_does():
    lengths = SpanCorruption().lengths(512)
    tokens = np.random.default_rng(0).integers(3, BYTES.pieces, (8, lengths.raw), np.uint16)
    ours = SpanCorruption().corrupt(tokens, lengths, BYTES, np.random.default_rng(1))
    theirs = benchmark.collate(tokens.astype(np.int64), lengths, BYTES, np.random.default_rng(1))
    for left, right in zip(ours[:3], theirs[:3], strict=True):
        assert (left.shape, left.dtype) == (right.shape, right.dtype)
    for raw, inputs, targets in zip(tokens, theirs.encoder_input_tokens, theirs.decoder_target_tokens, strict=True):
        assert merge(inputs[:-1], targets[:-1]) == raw.tolist()


def merge(inputs: np.ndarray, targets: np.ndarray) -> list[int]:
    """The raw tokens of a row without its EOS: a sentinel of the inputs gives way to its span in the targets."""
    at = [*np.flatnonzero(targets >= BYTES.pieces), len(targets)]
    spans = {int(targets[start]): targets[start + 1 : stop].tolist() for start, stop in pairwise(at)}
    return [token for shown in inputs.tolist() for token in spans.get(shown, [shown])]


def test_rates_are_rows_over_seconds():
    assert benchmark.rows_per_second(iter([10] * 10**6), 0.01) > 0
    rates = {"collator": [10.0, 20.0, 10.0], "objective": [100.0, 220.0, 90.0]}
    result = benchmark.summary(rates, {"collator": 5, "objective": 5})
    assert result["objective"]["rows/s"] == [100.0, 90.0, 220.0]
    assert result["objective"]["raw tokens/s"] == [500.0, 450.0, 1100.0]
    assert result["objective"]["x collator"] == [10.0, 9.0, 11.0]


@pytest.mark.parametrize("engine", [*benchmark.OBJECTIVES, "ul2"])
def test_every_objective_makes_rows(engine):
    settings = benchmark.Settings(Denoising((TFDS("none"),)), block_rows=8, batch_size=8, seconds=0.1)
    steps = benchmark.steps_of(engine, settings)
    assert [next(steps) for _ in range(8)] == [8] * 8
    assert 500 < benchmark.raw_length(engine, settings.data) < 1000


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--rounds", "0"], "--rounds is 0"),
        (["--density", "0.9", "--mean_span", "1"], "lower noise_density"),
        (["--experiment", "none.py"], "none.py is not an experiment"),
        (["--json", "no/such/place.json"], "there is no directory"),
    ],
)
def test_bad_arguments_are_one_sentence_before_anything_is_measured(capsys, arguments, sentence):
    assert benchmark.main(arguments) == 2
    assert sentence in capsys.readouterr().err
