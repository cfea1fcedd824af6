"""scripts.push: a run becomes a model of the hub with a card; what cannot be uploaded is one sentence."""

import json
import shutil

import jax
import numpy as np
import pytest
import yaml
from fake_hub import point_to, served
from huggingface_hub import ModelCard

from research.decode.loaded_model import load
from scripts.push import main


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with served(tmp_path / "hub", tmp_path / "cache", monkeypatch):
        yield tmp_path / "hub"


@pytest.fixture
def run(tiny_run, tmp_path):
    """The run, with the plot that a run of more than one evaluation has."""
    shutil.copytree(tiny_run, tmp_path / "run")
    (tmp_path / "run" / "loss.png").write_bytes(b"a plot")
    return tmp_path / "run"


def test_the_model_comes_back_from_the_hub(hub, run, capsys):
    assert main([str(run), "tester/mine", "--license=apache-2.0", "--language", "en", "de"]) == 0
    assert "/tester/mine/commit/" in capsys.readouterr().out
    back, here = load("hf://tester/mine"), load(run)
    assert jax.tree.all(jax.tree.map(np.array_equal, back.params, here.params))
    assert back.tokenizer.digest == here.tokenizer.digest
    assert (hub / "tester/mine/loss.png").read_bytes() == b"a plot"


def test_the_card_has_scores_curve_command_and_licence(hub, run, tmp_path, capsys):
    out = tmp_path / "card"
    assert main([str(run), "tester/mine", "--license=cc-by-4.0", "--language", "en", f"--out={out}"]) == 0
    assert not (hub / "tester").exists()
    text = (out / "README.md").read_text()
    fields = yaml.safe_load(text.split("---")[1])
    assert fields == {
        "library_name": "transformers",
        "tags": ["kintsugi", "encoder-decoder"],
        "license": "cc-by-4.0",
        "language": ["en"],
    }
    assert ModelCard(text).data.license == "cc-by-4.0"
    start = json.loads((run / "history.jsonl").read_text().splitlines()[-1])
    last = [
        line for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if "held_out_loss" in line
    ]
    assert start["command"] in text
    assert f"{min(line['held_out_loss'] for line in last):.4f}" in text
    assert "![Loss against the step](loss.png)" in text
    assert 'from_pretrained("tester/mine")' in text


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["RUN", "mine"], "mine is no name on the hub: give ORGANISATION/NAME or USER/NAME."),
        (
            ["RUN", "tester/mine", "--language", "english?"],
            "--language english?: give codes such as en, de or zh-Hant.",
        ),
        (["absent", "tester/mine"], "absent is no run directory, nor a checkpoint of one: only runs have a card."),
    ],
)
def test_what_cannot_be_uploaded(hub, tiny_run, capsys, arguments, part):
    assert main([str(tiny_run) if argument == "RUN" else argument for argument in arguments]) == 2
    assert part in capsys.readouterr().err


def test_a_wrong_token_is_found_before_anything_is_read(hub, tiny_run, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert main([str(tiny_run), "tester/mine"]) == 2
    assert "log in by `hf auth login`, or set HF_TOKEN" in capsys.readouterr().err
    assert not (hub / "tester").exists()


def test_a_hub_that_is_not_there(hub, tiny_run, monkeypatch, capsys):
    point_to("http://127.0.0.1:9", monkeypatch)
    assert main([str(tiny_run), "tester/mine"]) == 2
    assert "cannot be read from the hub" in capsys.readouterr().err
