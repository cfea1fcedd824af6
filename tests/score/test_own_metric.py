"""A metric of one's own: what it must give, and one sentence with file and line for each mistake."""

import json
from pathlib import Path

import pytest
from own_parts import docstring_example, load_own

from research import ROUGE, ChrF, Metric
from research.config import ConfigError
from research.score import metrics, significance

# The class is in line 9 of the file, its method in line 12.
START = """@dataclass(frozen=True)
class Own(Metric):
    names = ("own",)

"""
CORPUS = START + "    def score(self, predictions, references):\n        return {'own': len(set(predictions))}\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def own(tmp_path: Path, text: str) -> Metric:
    return load_own(tmp_path, text).Own()


def test_the_example_of_the_docstring(tmp_path: Path) -> None:
    metric = load_own(tmp_path, docstring_example(Metric)).WordRecall()
    metrics.check([metric, ChrF()])
    predictions, references = ["a b", "C", ""], [["A b c d"], ["x", "c"], ["y"]]
    found = metrics.score([metric, ROUGE()], predictions, references)
    assert found["word_recall"].value == pytest.approx((50 + 100 + 0) / 3)
    assert found["word_recall"].signature == "nrefs:var|WordRecall(lowercase=True)"
    each = metrics.score_each([metric], predictions, references)
    assert [row["word_recall"] for row in each] == [50, 100, 0]


def test_a_metric_of_all_examples_together(tmp_path: Path) -> None:
    metric = own(tmp_path, CORPUS)
    metrics.check([metric])
    assert metrics.score([metric], ["a", "b", "a"], [["x"]] * 3)["own"].value == 2.0
    assert metrics.score_each([metric], ["a", "b"], [["x"]] * 2) == [{}, {}]


def write(folder: Path, predictions: list[str]) -> Path:
    folder.mkdir()
    rows = [
        {"task": "t", "source": f"{number}", "prediction": one, "references": ["a b c d"]}
        for number, one in enumerate(predictions)
    ]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_significance_needs_numbers_of_examples(tmp_path: Path) -> None:
    folders = [write(tmp_path / "one", ["a b c d"] * 8), write(tmp_path / "two", ["a"] * 8)]
    systems = significance.read_systems(folders)
    recall = load_own(tmp_path, docstring_example(Metric)).WordRecall()
    ((other,),) = [one.others for one in significance.compare(systems, (recall,))["t"].values()]
    assert (other.difference, other.p_bootstrap < 0.01) == (-75.0, True)
    with pytest.raises(ConfigError) as error:
        significance.compare(systems, (own(tmp_path, CORPUS),))
    sentence = "has no scores of single examples, which a paired test needs: define score_example()"
    assert str(error.value).startswith(f"own.py:9: Own() {sentence}")


EXAMPLE = START + "    def score_example(self, prediction, references):\n        "


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (EXAMPLE + "return {'own': 1 / len(prediction)}", ":13: Own.score_example raised ZeroDivisionError: division"),
        (EXAMPLE + "return {'other': 1.0}", "returned {'other': 1.0}: it must be a dictionary"),
        (EXAMPLE + "return 1.0", "returned 1.0: it must be a dictionary of numbers by the names own"),
        (EXAMPLE + "return {'own': float('nan')}", "gave nan as own: it must be a finite number"),
        (EXAMPLE + "return {'own': '1'}", "gave '1' as own: it must be a finite number"),
        (START + "    def score(self, texts):\n        return {}", ":12: Own.score raised TypeError: Own.score() "),
        (CORPUS.replace("{'own':", "{'a':"), ":12: Own.score returned {'a': 2}: it must be a dictionary"),
        (CORPUS.replace("len(set(predictions))", "float('inf')"), ":12: Own.score gave inf as own"),
        (START + "    lowercase: bool = True", ":9: Own.score_example and score() are both missing"),
        (START.replace('("own",)', '"own"'), ":9: Own.names returned 'own': it must be a tuple of one or more names."),
        (START.replace('("own",)', "()"), ":9: Own.names returned (): it must be a tuple of one or more names."),
    ],
)  # fmt: skip
def test_a_broken_metric_is_named_before_there_is_anything_to_score(tmp_path: Path, text: str, sentence: str) -> None:
    metric = own(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        metrics.check([metric])
    where = "own.py" if sentence[0] == ":" else "own.py:12: Own.score_example "
    assert str(error.value).startswith(where + sentence)
    assert "\n" not in str(error.value)


def test_a_metric_without_names_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^own\.py:\d+: Own lacks names\(\): Metric needs it\.$"):
        own(tmp_path, START.replace('    names = ("own",)\n', "    lowercase: bool = True\n"))
