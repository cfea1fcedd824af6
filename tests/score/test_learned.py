"""Scores by models of other packages, with a tiny model of the test where the package is installed."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from research import BERTScore
from research.config import ConfigError
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
