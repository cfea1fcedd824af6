"""A corpus of a user's own: prepared, cached by its content, trained, resumed, evaluated; what is wrong is named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from research.config import ConfigError
from research.config.load import open_experiment
from research.data.corpora.documents import open_documents
from scripts import evaluate, prepare, train

pytestmark = pytest.mark.slow  # trains

FILE = Path(__file__).resolve().parents[2] / "experiments" / "extend" / "own_corpus.py"
SMALL = (
    *("batch_size=8", "model.width=16", "model.head_width=8", "model.feed_forward=32", "report.every=1"),
    *("evaluation.every=2", "evaluation.rows=8", "evaluation.samples=1", "checkpoint.every=2"),
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is no checkout, with the user's file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "cache"))
    shutil.copy(FILE, "mine.py")
    return tmp_path


def trained(run: str, steps: int, *changes: str) -> int:
    overrides = [f"--config.{change}" for change in (*SMALL, f"steps={steps}", *changes)]
    return train.main(["mine.py", "--run_dir", run, *overrides])


def losses(run: str) -> dict[int, float]:
    lines = map(json.loads, Path(run, "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["nll"] for line in lines if "nll" in line}


def test_it_is_prepared_trained_resumed_to_the_bit_and_evaluated(here: Path) -> None:
    other = 'data.corpora=[Docstrings("json")]'
    assert prepare.main(["mine.py", f"--config.{other}", "--jobs=1"]) == 0
    made = sorted((here / "cache" / "tokens").rglob("*"))
    assert trained("stopped", 2, other) == 0
    assert trained("stopped", 4, other) == 0
    assert trained("whole", 4, other) == 0
    assert sorted((here / "cache" / "tokens").rglob("*")) == made
    assert losses("stopped") == losses("whole")
    corpora = json.loads(Path("stopped/config.json").read_text())["data"]["corpora"]
    assert corpora == [{"type": "Docstrings", "language": None, "package": "json"}]
    assert evaluate.main(["stopped"]) == 0


def test_both_splits_have_documents_of_their_own(here: Path) -> None:
    (corpus,) = open_experiment("mine.py").config.data.corpora
    train_split, held_out = open_documents(corpus, "train"), open_documents(corpus, "held_out")
    assert train_split.name == "email (train)"
    texts = train_split.read(np.arange(len(train_split)))
    assert len(texts) > 5 * len(held_out) > 0
    assert train_split.identity != held_out.identity
    assert train_split.identity == open_documents(corpus, "train").identity


def test_an_identity_follows_from_the_documents(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (corpus,) = open_experiment("mine.py").config.data.corpora
    before = open_documents(corpus, "held_out").identity
    text = Path("mine.py").read_text().replace("yield text", "yield text + '!'")
    Path("mine.py").write_text(text)
    (corpus,) = open_experiment("mine.py").config.data.corpora
    assert open_documents(corpus, "held_out").identity != before


END = 'return DocumentsInMemory(f"{self.package} ({split})", [text for path in chosen for text in docstrings(path)])'


@pytest.mark.parametrize(
    ("change", "at", "message"),
    [
        (("def documents", "def document"), "class Docstrings", "Docstrings lacks documents(): Corpus needs it."),
        (("ast.parse(path", "ast.parse(pat"), "ast.parse(pat", "Docstrings.documents raised NameError: name 'pat' is"),
        (
            (END, "return []"),
            "def documents",
            "Docstrings.documents returned list, not Documents.",
        ),
        (
            (END, 'return DocumentsInMemory("own", ["\\ud800"])'),
            "def documents",
            "Docstrings.documents gives document 0 of own as text with half of a surrogate pair.",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_line(here: Path, change: tuple[str, str], at: str, message: str) -> None:
    text = Path("mine.py").read_text()
    assert text.count(change[0]) == 1
    text = text.replace(*change)
    Path("mine.py").write_text(text)
    line = text.partition(at)[0].count("\n") + 1
    with pytest.raises(ConfigError) as caught:
        open_documents(open_experiment("mine.py").config.data.corpora[0], "train")
    assert str(caught.value).startswith(f"mine.py:{line}: {message}")


def test_an_empty_corpus_is_named(here: Path) -> None:
    Path("mine.py").write_text(Path("mine.py").read_text().replace(END, 'return DocumentsInMemory("own", [])'))
    with pytest.raises(ConfigError, match=r"The corpus own is empty: its train split holds no documents\."):
        open_documents(open_experiment("mine.py").config.data.corpora[0], "train")


BY_INDEX = """
from research import Documents
class Numbers(Documents):
    name = "numbers"
    def __len__(self):
        return 3000
    def __getitem__(self, index):
        return str(6 // (index - 2000))
"""


def test_documents_read_by_index_are_named_by_their_own_line(here: Path) -> None:
    Path("mine.py").write_text(Path("mine.py").read_text().replace(END, "return Numbers()") + BY_INDEX)
    documents = open_documents(open_experiment("mine.py").config.data.corpora[0], "train")
    assert documents.read(np.array([1999, 2001])) == ["-6", "6"]
    line = Path("mine.py").read_text().partition("return str(6")[0].count("\n") + 1
    with pytest.raises(ConfigError) as caught:
        documents.identity  # noqa: B018
    assert str(caught.value).startswith(f"mine.py:{line}: Numbers.identity raised ZeroDivisionError")


def test_documents_that_are_no_texts_are_named_by_the_method(here: Path) -> None:
    numbers = BY_INDEX + "    def read(self, indices):\n        return indices.tolist()\n"
    Path("mine.py").write_text(Path("mine.py").read_text().replace(END, "return Numbers()") + numbers)
    line = Path("mine.py").read_text().partition("def read")[0].count("\n") + 1
    with pytest.raises(ConfigError) as caught:
        open_documents(open_experiment("mine.py").config.data.corpora[0], "train")
    assert str(caught.value) == f"mine.py:{line}: Numbers.read gives document 0 of numbers as int, not text."
