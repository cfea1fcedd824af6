"""scripts.benchmark.formats: every engine reads the same text, and rates are compared within a round."""

import json
from pathlib import Path

import numpy as np
import pytest

from scripts.benchmark import formats
from scripts.benchmark.format_files import FormatFiles, repeated, write_files
from scripts.benchmark.formats import FORMATS, STREAMED


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> FormatFiles:
    from research.config import TrainedSentencePiece
    from research.data.tokenizer import open_tokenizer, train_sentencepiece
    from research.pretrained.tokenizer_files import write_tokenizer

    folder = tmp_path_factory.mktemp("formats")
    words = Path(json.__file__).read_text().split()
    texts = [" ".join(words[start : start + 50]) for start in range(0, 900, 3)]
    size = write_files(repeated(texts), folder, 0.4)
    train_sentencepiece(texts, TrainedSentencePiece(350), folder / "unigram.model")
    made = FormatFiles(folder, size, seconds=0.01)
    write_tokenizer(open_tokenizer(made.vocabulary), folder / "fast")
    return made


@pytest.fixture(autouse=True)
def own(own_cache: Path) -> None:
    """The engines set another cache, which is forgotten after each test."""


@pytest.mark.parametrize("suffix", FORMATS)
def test_our_reader_reads_every_byte_of_every_format(settings: FormatFiles, suffix: str) -> None:
    rates = formats.measure_engine(f"ours {suffix}", settings)
    assert rates.keys() == {"first read", "again"}
    assert min(rates.values()) > 0


@pytest.mark.parametrize("suffix", STREAMED)
def test_datasets_reads_every_byte(settings: FormatFiles, suffix: str) -> None:
    pytest.importorskip("datasets")
    assert formats.measure_engine(f"datasets {suffix}", settings)["again"] > 0


def test_the_collator_and_our_pipeline_make_rows_of_the_same_text(settings: FormatFiles) -> None:
    """One after another, all rows: as many tokens, but for the EOS that the usual scripts put after each text."""
    pytest.importorskip("datasets")
    pytest.importorskip("transformers")
    theirs = sum(formats.collated(settings, "parquet"))
    assert theirs == pytest.approx(sum(formats.collated(settings, "jsonl")), abs=1)
    from research.data.pipeline import prepare

    ours = prepare(settings.data, 0, 1).train_rows
    assert 0.9 < ours / theirs < 1.1
    assert formats.measure_engine("prepared", settings)["rows/s"] > 0
    assert formats.measure_engine("pipeline", settings)["rows/s"] > 0


def test_a_table_compares_within_a_round() -> None:
    engines = {
        "ours jsonl": {"first read": [10.0, 20.0, 40.0], "again": [10.0, 10.0, 10.0]},
        "ours parquet": {"first read": [9.0, 10.0, 20.0], "again": [8.0, 9.0, 5.0]},
        "datasets parquet": {"again": [1.0, 2.0, 3.0]},
        "pipeline": {"rows/s": [160.0, 80.0, 90.0]},
        "collator jsonl": {"rows/s": [20.0, 10.0, 9.0]},
    }
    result = {
        **{"engines": engines, "bytes": 5e6, "rounds": 3, "load averages": [0.1, 0.2]},
        **{"hardware": {"cpu": "C", "cores": 2}, "environment": {"commit": "c"}},
        "files": {"jsonl": 1_000_000, "parquet": 500_000, "arrow": 1},
    }
    lines = formats.tables(result).splitlines()
    assert "| parquet | 0.5 | 10.0 [9.0 - 20.0] | 8.0 [5.0 - 9.0] | 2.0 [1.0 - 3.0] | 0.50 | 0.80 |" in lines
    assert "| pipeline | 90.0 [80.0 - 160.0] | 8.00 |" in lines
    assert not any(line.startswith("| arrow") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds=0"], "--rounds is 0: it must be above 0."),
        (["--megabytes=-1"], "--megabytes is -1.0: it must be above 0."),
        (["--text=absent/*.txt"], "No file matches the pattern absent/*.txt."),
        (["--json=absent/a.json"], "there is no directory"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert formats.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_numbered_documents_differ() -> None:
    texts = repeated(["a", "b"])
    assert [next(texts) for _ in range(5)] == ["0 a", "0 b", "1 a", "1 b", "2 a"]
    assert np.unique([next(texts) for _ in range(50)]).size == 50
