"""What saving costs is worked out as it says, and what was saved for it is gone afterwards."""

import json

import pytest

from scripts.benchmark.checkpoint import main

pytestmark = pytest.mark.slow

TINY = {"vocab_size": 64, "width": 32, "heads": 8, "head_width": 4, "feed_forward": 48, "encoder_layers": 1}
ARGUMENTS = [
    *("--batch_size", "8", "--input_length", "16", "--target_length", "6", "--mesh", "data=2,fsdp=2,tensor=2"),
    *("--steps", "2", "--rounds", "2", "--warmup", "1", "--every", "500"),
    *(f"--config.model.{name}={value}" for name, value in TINY.items()),
]


def test_shares_are_of_the_interval_and_nothing_is_left(tmp_path, capsys):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    assert main([*ARGUMENTS, "--json", str(tmp_path / "result.json"), "--directory", str(folder)]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    for i, seconds in enumerate(result["step_seconds"]):
        assert result["blocked_share"][i] == pytest.approx(result["blocked_seconds"][i] / (500 * seconds))
        assert result["slower_share"][i] == pytest.approx(result["slower_seconds"][i] / (500 * seconds))
        assert result["whole_seconds"][i] > result["hash_seconds"][i] > 0
    assert result["state_bytes"] >= 4 * result["parameters"]
    assert result["checkpoint_bytes"] > 0
    assert not list(folder.iterdir())
    assert "blocked of 500" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["--every", "0"], "--every is 0"),
        (["--directory", "absent/checkpoints"], "there is no directory"),
        (["--rounds", "0"], "--rounds is 0"),
        (["--mesh", "data=3"], "there are 8"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(change, sentence, capsys):
    assert main([*ARGUMENTS, *change]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error
    assert error.count("\n") == 1
