"""Scores by models of other packages, with a tiny model of the test where the package is installed."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from research import COMET, BERTScore, JSONExamples, Translation
from research.config import ConfigError
from research.data.tasks.task import Example
from research.decode.evaluate import EvalTask
from research.score import metrics

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "a", "mat", "dog", "ran"]


@pytest.mark.skipif(find_spec("bert_score") is not None, reason="the package is installed")
def test_without_the_package_one_sentence_says_what_to_install() -> None:
    with pytest.raises(
        ConfigError, match=r"BERTScore needs the package bert-score: pip install 'kintsugi\[bertscore\]'"
    ):
        metrics.check([BERTScore()])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory with a BERT of random weights."""
    pytest.importorskip("bert_score")
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=64, **sizes)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizer(str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    return str(folder)


def test_scores_are_the_package_s_and_the_best_reference_counts(model: str) -> None:
    from bert_score import score

    predictions, references = ["the cat sat", "a dog ran"], [("the cat sat on a mat",), ("the dog ran", "a dog ran")]
    _, _, expected = score(predictions, list(map(list, references)), model_type=model, num_layers=2, device="cpu")
    found = metrics.score([BERTScore(model, 2)], predictions, references)["bertscore"]
    assert found.value == pytest.approx(100 * expected.mean().item(), rel=1e-6)
    each = metrics.score_each([BERTScore(model, 2)], predictions, references)
    assert [row["bertscore"] for row in each] == pytest.approx([100 * value for value in expected.tolist()], rel=1e-5)
    assert each[1]["bertscore"] == pytest.approx(100.0, abs=1e-3)
    assert "_L2_" in found.signature
    metrics.check([BERTScore(model, 2)])  # with an empty output


def test_a_model_that_cannot_be_had_is_one_sentence(model: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^.*BERTScore knows no layer of .*: give one, such as layer=9\.$"):
        metrics.check([BERTScore(model)])
    with pytest.raises(ConfigError, match=r"BERTScore cannot load .*/none \(.*\): give a directory, or a model of"):
        metrics.check([BERTScore(str(tmp_path / "none"), 2)])


# --- COMET: its package cannot be installed beside ours, so a program takes its place that is called like its own -----

PROGRAM = """#!{python}
import argparse, json, sys
parser = argparse.ArgumentParser()
for option in ("-s", "-t", "-r", "--model", "--to_json", "--gpus"):
    parser.add_argument(option, required=True)
parser.add_argument("--quiet", action="store_true")
given = parser.parse_args()
if given.model != "known":
    sys.exit(f"KeyError: model {{given.model}} is not supported by COMET")
columns = [[line.strip() for line in open(path)] for path in (given.s, given.t, given.r)]
scores = [dict(zip(("src", "mt", "ref"), row), COMET=len(row[1]) / 100) for row in zip(*columns, strict=True)]
open("{folder}/seen.json", "w").write(json.dumps(columns))
open(given.to_json, "w").write(json.dumps({{given.t: scores}}))
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "comet-score"
    path.write_text(PROGRAM.format(python=sys.executable, folder=tmp_path))
    path.chmod(0o755)
    return str(path)


def test_comet_reads_sources_outputs_and_first_references(program: str, tmp_path: Path) -> None:
    task = Translation(examples=JSONExamples("none.jsonl"), prefix="translate English to German: ")
    examples = [
        Example("translate English to German: a cat\nsat", "eine Katze", ("eine Katze", "die Katze")),
        Example("translate English to German: a dog", "ein Hund", ("ein Hund",)),
    ]
    tasks = EvalTask("", "made up", task, examples)
    found = metrics.score([COMET("known", program)], ["Katze\u2028hier", ""], tasks.references, tasks.more)["comet"]
    seen = [["a cat sat", "a dog"], ["Katze hier", ""], ["eine Katze", "ein Hund"]]
    assert json.loads((tmp_path / "seen.json").read_text()) == seen
    assert found == (pytest.approx(5.0), "nrefs:var|first reference|comet-score --model known")
    metrics.check([COMET("known", program)])


def test_comet_that_cannot_be_had_is_one_sentence(program: str, tmp_path: Path) -> None:
    where = r'into an environment of its own, and give COMET\(program="ENVIRONMENT/bin/comet-score"\)\.$'
    with pytest.raises(
        ConfigError, match=rf"COMET cannot start {tmp_path}/none \(No such file or directory\).* {where}"
    ):
        metrics.check([COMET("known", str(tmp_path / "none"))])
    reason = "KeyError: model other is not supported by COMET"
    with pytest.raises(
        ConfigError, match=rf"comet-score cannot score with other \({reason}\): give a model of the Hub"
    ):
        metrics.check([COMET("other", program)])
    Path(program).write_text("#!/bin/sh\n")
    with pytest.raises(ConfigError, match=r"comet-score ended without its scores: is it COMET's\?$"):
        metrics.check([COMET("known", program)])
