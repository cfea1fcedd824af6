"""scripts.benchmark.decode: nothing is timed that differs or is degenerate, and figures are summed up rightly."""

import json

import numpy as np
import pytest

from research.config import ConfigError
from research.model import flops
from scripts.benchmark import decode as benchmark
from scripts.benchmark import engines

pytestmark = pytest.mark.slow

LIVELY = np.arange(32).reshape(2, 16)


def test_other_greedy_tokens_stop_the_benchmark_and_other_beams_are_counted():
    other = LIVELY.copy()
    other[0, :8] = 99
    assert benchmark.check({"ours": LIVELY, "transformers": LIVELY}, 1, "case") == {"ours": 1.0, "transformers": 1.0}
    with pytest.raises(ConfigError, match="transformers gives other greedy tokens"):
        benchmark.check({"ours": LIVELY, "transformers": other}, 1, "case")
    assert benchmark.check({"ours": LIVELY, "transformers": other}, 4, "case")["transformers"] == 0.75
    assert benchmark.check({"ours": LIVELY, "ctranslate2 int8": other}, 1, "case")["ctranslate2 int8"] == 0.75
    with pytest.raises(ConfigError, match=r"transformers gives \(2, 15\) tokens"):
        benchmark.check({"ours": LIVELY, "transformers": LIVELY[:, :15]}, 4, "case")


@pytest.mark.parametrize("tokens", [np.full((1, 16), 7), np.tile(np.arange(16), (2, 1))], ids=["one token", "one row"])
def test_degenerate_outputs_measure_nothing(tokens):
    with pytest.raises(ConfigError, match="the outputs hardly depend on the inputs"):
        benchmark.check({"ours": tokens}, 4, "case")


def test_ratios_are_made_within_a_round():
    seconds = {1: {"ours": [1.0, 2.0, 4.0], "peer": [2.0, 2.0, 4.0]}, 4: {"ours": [3.0, 4.0, 4.0], "peer": [6.0] * 3}}
    greedy, beam = (benchmark.summary(seconds, beams, 8) for beams in (1, 4))
    assert greedy["ours"] == {"tokens/s": [4.0, 2.0, 8.0]}
    assert greedy["peer"]["ours / theirs"] == [1.0, 1.0, 2.0]
    assert beam["peer"]["ours / theirs"] == [1.5, 1.5, 2.0]
    assert beam["ours"]["x greedy"] == [2.0, 1.0, 3.0]


@pytest.mark.parametrize("name", ["t5_v1_1/small", "marian/tiny"])
def test_weights_are_lively_and_the_table_tells_what_was_measured(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None if name == "ctranslate2" else True)
    sizes = ["--input_length", "12", "--output_length", "8", "--batch_sizes", "2", "--rounds", "2", "--beams", "1"]
    arguments = [*sizes, "--models", name, "--engines", "ours", "ctranslate2 int8", "--out", str(tmp_path / "out.json")]
    assert benchmark.main(arguments) == 0
    result = json.loads((tmp_path / "out.json").read_text())
    (case,) = result["cases"]
    model, _ = benchmark.model_of(name)
    assert case["flops"] == 2 * flops.decode_flops(model, 12, 8, 1)
    assert len(case["seconds"]["ours"]) == len(case["load averages"]) == 2
    assert result["left out"] == {"ctranslate2 int8": "ctranslate2 not installed"}
    shown = capsys.readouterr().out
    assert "ctranslate2 int8 is left out: ctranslate2 not installed" in shown
    assert result["environment"]["commit"] in shown


def test_with_random_weights_nothing_is_compared_and_fields_of_the_model_change(tmp_path, capsys):
    sizes = ["--input_length", "12", "--output_length", "8", "--batch_sizes", "2", "--rounds", "2", "--beams", "1"]
    arguments = [*sizes, "--models", "bart/base", "--random", "--engines", "ours", "ctranslate2 int8"]
    arguments += ["--model.width=32", "--model.heads=2", "--model.head_width=16", "--model.vocab_size=96"]
    arguments += ["--compute", "bfloat16", "--out", str(tmp_path / "out.json")]
    assert benchmark.main(arguments) == 0
    result = json.loads((tmp_path / "out.json").read_text())
    (case,) = result["cases"]
    model, _ = benchmark.model_of("bart/base", {"width": "32", "heads": "2", "head_width": "16", "vocab_size": "96"})
    assert case["flops"] == 2 * flops.decode_flops(model, 12, 8, 1)
    assert case["tokens as ours"] == {}
    assert result["left out"] == {"ctranslate2 int8": "it needs written weights"}
    assert "bfloat16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--rounds", "0"], "--rounds is 0"),
        (["--beams", "1", "0"], "--beams has 0"),
        (["--models", "t5/huge"], "There is no preset 't5/huge'"),
        (["--model.depth=3"], "depth"),
        (["--random", "--models", "marian/tiny"], "--random does not serve marian/tiny"),
        (["--out", "no/such/place.json"], "there is no directory"),
    ],
)
def test_bad_arguments_are_one_sentence_before_anything_is_measured(capsys, arguments, sentence):
    assert benchmark.main(arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
