"""An objective of a user's own: trained, resumed to the bit, overridden, evaluated; what is wrong in it is named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from research.config import ConfigError
from research.config.load import open_experiment
from research.data.corpora.denoising import check_tokenizer
from research.data.tokenizer import open_tokenizer
from scripts import evaluate, train

pytestmark = pytest.mark.slow  # trains

FILE = Path(__file__).resolve().parents[2] / "experiments" / "extend" / "own_objective.py"
SMALL = (
    *("batch_size=8", "model.width=16", "model.head_width=8", "model.feed_forward=32", "report.every=1"),
    *("evaluation.every=2", "evaluation.rows=8", "evaluation.samples=1", "checkpoint.every=2"),
    'data.corpora=[PlainText("text.txt")]',
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is no checkout, with the user's file and a text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "cache"))
    shutil.copy(FILE, "mine.py")
    Path("text.txt").write_text("\n\n".join(f"The {n}th document counts: {n}, {n + 1}, {n + 2}." for n in range(3000)))
    return tmp_path


def trained(run: str, steps: int, *changes: str) -> int:
    overrides = [f"--config.{change}" for change in (*SMALL, f"steps={steps}", *changes)]
    return train.main(["mine.py", "--run_dir", run, *overrides])


def losses(run: str) -> dict[int, float]:
    lines = map(json.loads, Path(run, "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["nll"] for line in lines if "nll" in line}


def refused(change: tuple[str, str]) -> str:
    """The error of the file with a change in it, before any corpus is read."""
    text = Path("mine.py").read_text()
    assert text.count(change[0]) == 1
    Path("mine.py").write_text(text.replace(*change))
    with pytest.raises(ConfigError) as caught:
        check_file()
    return str(caught.value)


def check_file() -> None:
    data = open_experiment("mine.py").config.data
    check_tokenizer(data, open_tokenizer(data.tokenizer))


def line_of(text: str) -> int:
    return Path("mine.py").read_text().partition(text)[0].count("\n") + 1


def test_it_trains_resumes_to_the_bit_and_is_evaluated(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = "data.objective=NGramMasking(0.3)"
    assert trained("stopped", 2, other) == 0
    assert trained("stopped", 4, other) == 0
    assert trained("whole", 4, other) == 0
    assert losses("stopped") == losses("whole")
    objective = json.loads(Path("stopped/config.json").read_text())["data"]["objective"]
    assert objective == {"type": "NGramMasking", "noise_density": 0.3, "n": 4}
    assert evaluate.main(["stopped"]) == 0
    (scores,) = Path("stopped").glob("evaluations/*/scores.json")
    assert "held_out_loss" in capsys.readouterr().out or json.loads(scores.read_text())


def test_the_target_lists_the_ngrams_that_the_input_hides(here: Path) -> None:
    data = open_experiment("mine.py").config.data
    tokenizer, objective = open_tokenizer(data.tokenizer), data.objective
    lengths = objective.lengths(64)
    rng = np.random.default_rng(0)
    tokens = rng.choice(tokenizer.text_ids, (50, lengths.raw)).astype(np.uint16)
    batch = objective.corrupt(tokens, lengths, tokenizer, rng)
    sentinels = tokenizer.sentinel_ids.tolist()
    for raw, inputs, targets in zip(
        tokens.tolist(), batch.encoder_input_tokens.tolist(), batch.decoder_target_tokens.tolist(), strict=True
    ):
        grams = {targets[at]: targets[at + 1 : at + 5] for at in range(0, len(targets) - 1, 5)}
        assert list(grams) == sentinels[: lengths.spans]
        assert [token for shown in inputs[:-1] for token in grams.get(shown, [shown])] == raw


END = "return batch_of(len(tokens), *sides, lengths, tokenizer, language)"
CHANGED = "batch = batch_of(len(tokens), *sides, lengths, tokenizer, language)\n        return batch"


@pytest.mark.parametrize(
    ("change", "at", "message"),
    [
        (("def corrupt", "def corupt"), "class NGram", "NGramMasking lacks corrupt(): Objective needs it."),
        (("return Lengths(", "return print("), "return print(", "NGramMasking.lengths raised TypeError: "),
        (("return Lengths(", "return 3 or Lengths("), "def lengths", "NGramMasking.lengths returned int, not Lengths."),
        (
            ("+ hidden + num_special_tokens", "+ 64 + num_special_tokens"),
            "def lengths",
            "NGramMasking.lengths returned 117 inputs a row: there is room for 64.",
        ),
        (("lengths.spans\n", "lengths.span\n"), "order < lengths.span", "NGramMasking.corrupt raised AttributeError: "),
        (
            ("len(tokenizer.sent", "len(tokenizer.sept"),
            "len(tokenizer.sept",
            "NGramMasking.check raised AttributeError",
        ),
        ((END, "pass"), "def corrupt", "NGramMasking.corrupt returned NoneType, not a Batch."),
        (
            (END, f"{CHANGED}._replace(encoder_input_tokens=batch.encoder_input_tokens[:, :-4])"),
            "def corrupt",
            "NGramMasking.corrupt returned encoder_input_tokens of shape (8, 51): lengths() promised (8, 55).",
        ),
        (
            (END, f"{CHANGED}._replace(decoder_target_tokens=batch.decoder_target_tokens.astype(np.int64))"),
            "def corrupt",
            "NGramMasking.corrupt returned decoder_target_tokens of int64: it must be int32.",
        ),
        (
            (END, f"{CHANGED}._replace(decoder_target_tokens=batch.decoder_target_tokens + np.int32(200))"),
            "def corrupt",
            "NGramMasking.corrupt returned decoder_target_tokens with ids from 201 to",
        ),
        (
            ("rng.permuted(", "np.random.default_rng().permuted("),
            "def corrupt",
            "NGramMasking.corrupt returned two different batches for the same rows and the same rng",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_line(here: Path, change: tuple[str, str], at: str, message: str) -> None:
    found = refused(change)
    assert found.startswith(f"mine.py:{line_of(at)}: {message}")
    assert "\n" not in found


def test_a_broken_objective_ends_before_anything_is_made(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused((END, "pass"))
    assert trained("run", 2) == 2
    message = f"mine.py:{line_of('def corrupt')}: NGramMasking.corrupt returned NoneType, not a Batch."
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {message}"
    assert not list(Path("run/checkpoints").iterdir())
    assert not (here / "cache" / "tokens").exists()
