"""An experiment's data before it trains: what is counted, and rows that are those of training."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from research.config import load
from research.data.pipeline import prepare
from research.report.data_page import bars
from research.report.table import Cell, Table
from scripts import data

TEXT = """
from research import *

def get_config():
    corpora = (
        JSONLines("a.jsonl", "a_held_out.jsonl"),
        PlainText("b.txt", "b_held_out.txt"),
    )
    return Experiment(
        model=Model(512, 16, 2, 8, 32, 2, 2),
        data=Denoising(corpora, Bytes(sentinels=200), UL2(), input_length=96, mixing=Mixing(2.0)),
        optimizer=Adafactor(),
        steps=1,
        batch_size=8,
        seed=5,
    )
"""
TASKS = """
from research import *

def get_config():
    task = TextToText(examples=JSONExamples("a.jsonl", "a_held_out.jsonl"), prefix="fix: ")
    return Experiment(
        model=Model(512, 16, 2, 8, 32, 2, 2),
        data=Supervised((task,), Bytes(), input_length=32, target_length=16),
        optimizer=Adafactor(),
        steps=1,
        batch_size=2,
    )
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_lines(path: str, rows: list[dict[str, str]]) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def text(here: Path) -> Path:
    """Documents of 100, 101, ... letters; and twice as many of 40 letters with an umlaut."""
    write_lines("a.jsonl", [{"text": f"{number} ".ljust(100 + number, "a")} for number in range(50)])
    write_lines("a_held_out.jsonl", [{"text": f"held out {number} " * 20} for number in range(20)])
    Path("b.txt").write_text("\n\n".join(f"{number} ".ljust(40, "ü") for number in range(100)))
    Path("b_held_out.txt").write_text("\n\n".join(f"{number} <b>&amp;</b> ".ljust(60, "v") for number in range(30)))
    (here / "mine.py").write_text(TEXT)
    return here / "mine.py"


@pytest.fixture
def tasks(here: Path) -> Path:
    rows = [{"source": "s" * 3, "target": f"t{number}"} for number in range(8)]
    write_lines("a.jsonl", [*rows, {"source": "long" * 20, "target": "short"}, {"source": "short", "target": "x" * 40}])
    write_lines("a_held_out.jsonl", rows)
    (here / "mine.py").write_text(TASKS)
    return here / "mine.py"


def figures(file: Path, *arguments: str) -> dict[str, Any]:
    assert data.main([str(file), "--json=found.json", *arguments]) == 0
    return json.loads(Path("found.json").read_text())


def test_a_corpus_alone(text: Path) -> None:
    arguments = ["--json=found.json", "--config.data.tokenizer=Bytes()", "--config.model.vocab_size=512"]
    assert data.main(['JSONLines("a.jsonl", "a_held_out.jsonl")', *arguments]) == 0
    found = json.loads(Path("found.json").read_text())
    assert [(split["name"], split["documents"]) for split in found["texts"]] == [
        ("a.jsonl", 50),
        ("a_held_out.jsonl", 20),
    ]
    assert data.main(["JSONLines(5)"]) == 2


# --- Text -------------------------------------------------------------------------------------------------------------


def test_text_is_counted_by_corpus_and_split(text: Path) -> None:
    found = figures(text, "--examples=0")
    splits = {(split["name"], split["split"]): split for split in found["texts"]}
    a, b = splits["a.jsonl", "train"], splits["b.txt", "train"]
    assert (a["documents"], a["tokens"]) == (50, sum(range(100, 150)))
    assert (a["lengths"]["shortest"], a["lengths"]["median"], a["lengths"]["longest"]) == (100, 124, 149)
    assert sum(a["lengths"]["counts"]) == 50
    assert (b["documents"], b["characters"], b["bytes"]) == (100, 4000, 4000 + 90 * 37 + 10 * 38)
    assert b["tokens"] == b["bytes"]  # a token is a byte
    assert splits["b_held_out.txt", "held_out"]["documents"] == 30
    assert [split["epoch"] is None for split in found["texts"]] == [False, False, True, True]
    epochs = [split["epoch"] for split in found["texts"][:2]]
    assert sum(epochs) == pytest.approx(found["train_rows"])
    rows = [split["rows"] for split in found["texts"][:2]]
    assert epochs[0] / epochs[1] == pytest.approx((rows[0] / rows[1]) ** 0.5, rel=0.05)  # the temperature is 2


def test_the_rows_shown_are_those_of_training(text: Path) -> None:
    """By every denoiser; and the spans of a target fill the gaps of its input to the text."""
    config = load.open_experiment(str(text)).config
    pipeline = prepare(config.data, config.seed, config.batch_size)
    batches = [next(pipeline.train(start)) for start in range(0, 64, 8)]
    inputs = np.concatenate([batch.encoder_input_tokens for batch in batches])
    shown = figures(text, "--examples=2")["rows"]
    assert len(shown) == 14
    assert len({row["objective"] for row in shown}) == 7
    whole = 0
    for row in shown:
        (given,), (wanted,) = row["inputs"], row["targets"]
        assert given == pipeline.tokenizer.decode(inputs[row["row"]])
        prefix, body = given[:3], given[3:]
        assert prefix in ("[R]", "[X]", "[S]")
        if "\ufffd" in body + wanted:
            continue  # a gap parts the bytes of a letter
        whole += 1
        spans, pieces = (re.split(r"<extra_id_\d+>", text) for text in (wanted, body))
        spans = [wanted] if len(spans) == 1 else [*spans[1:], ""][: len(pieces)]
        assert "".join(piece + span for piece, span in zip(pieces, spans, strict=True)) == row["raw"]
    assert whole > 5


def test_a_row_is_shown_whole_by_its_number(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = figures(text, "--example=40")["rows"]
    assert row["row"] == 40
    assert row["inputs"][0] in capsys.readouterr().out
    assert figures(text, "--example=40", "--config.seed=6")["rows"] != [row]


def test_the_terminal_has_a_line_for_every_split(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data.main([str(text), "--examples=1"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "a.jsonl train - 50 6,225 44.7 % 1.00 1.00 0.0 %" in lines
    assert "total train - 150 13,935 100.0 % - - -" in lines
    assert any(re.fullmatch(r"a\.jsonl, train 50 100 102 124 147 149 .*[▁-█]", line) for line in lines)


def test_what_is_left_out_is_counted(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": "held out 3 " * 20}, *({"text": f"{number} " * 40} for number in (1, 2, 3, 2, 1))]
    write_lines("a.jsonl", rows)
    found = figures(text, "--config.data.duplicates=leave_out", "--examples=0")
    assert found["texts"][0]["documents"] == 3
    assert found["texts"][0]["left_out"] == {"within": 2, "between": 0, "held_out": 1}
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "a.jsonl 6 2 0 1" in lines
    assert any(line.startswith("3 of 6 documents of a.jsonl repeat others and are left out: 2 of") for line in lines)


def test_a_page_has_charts_and_no_markup_of_the_text(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data.main([str(text), "--out=page", "--examples=1"]) == 0
    page = Path("page.html").read_text()
    assert page.count("<figure>") == 4
    assert "<b>" not in page
    assert Path("page.md").exists()
    assert not set("▁▂▃▄▅▆▇█") & set(Path("page.tex").read_text())


# --- Tasks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batching", ["Packed()", "Buckets((16, 32))"])
def test_examples_are_counted_and_those_that_are_too_long(tasks: Path, batching: str) -> None:
    found = figures(tasks, f"--config.data.batching={batching}")
    train, held_out = found["tasks"]
    assert (train["sources"]["of"], train["long"]) == (10, [1, 1, 2])
    assert (train["sources"]["shortest"], train["sources"]["longest"]) == (len("fix: sss") + 1, len("fix: ") + 81)
    assert held_out["long"] == [0, 0, 0]
    assert found["notes"]
    assert found["rows"]


def test_examples_that_share_a_row_are_shown_apart(tasks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load.open_experiment(str(tasks)).config
    rows = prepare(config.data, config.seed, config.batch_size).train_rows
    shown = figures(tasks, *(f"--example={row}" for row in range(rows)))["rows"]
    assert sorted(map(len, (row["inputs"] for row in shown)))[-1] == 3
    pairs = {pair for row in shown for pair in zip(row["inputs"], row["targets"], strict=True)}
    assert {("fix: sss", f"t{number}") for number in range(8)} < pairs
    assert ("fix: " + "long" * 6 + "lo", "short") in pairs  # cut, with EOS, to 32
    assert "  input 1   fix: sss\n  target 1  t" in capsys.readouterr().out


# --- Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--example=100000"], "--example is 100000: an epoch has the rows from 0 to"),
        (["--example=-1"], "--example is -1"),
        (["--examples=-1"], "--examples is -1: it must not be below 0."),
        (["--out=absent/page"], "--out absent/page: there is no such directory."),
        (["--json=absent/page"], "--json absent/page: there is no such directory."),
        (["--config.data.corpora=[JSONLines('absent.jsonl')]"], "There is no file absent.jsonl."),
        (["--config.data.corpora=[JSONLines('a.jsonl', text='body')]"], 'has no key "body": its keys are'),
    ],
)
def test_bad_input_is_one_sentence(text: Path, arguments: list[str], message: str, capsys) -> None:
    assert data.main([str(text), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_bars_show_what_is_not_empty() -> None:
    assert bars([0, 1, 500, 1000]) == " ▁▄█"
    assert bars([0, 0]) == "  "


def test_a_table_for_a_terminal_is_aligned() -> None:
    table = Table("T", ("name", "n"), [[Cell("a"), Cell("1,000")], [Cell("bcdef"), Cell("2")]], "note")
    assert table.text().splitlines() == [
        "T",
        "  name       n",
        "  ------------",
        "  a      1,000",
        "  bcdef      2",
        "  note",
    ]
