"""Checkpoints that are damaged, or of another model."""

import shutil
from pathlib import Path

import pytest
from real_runs import STEPS, assert_as_if_nothing_had_happened, log, run

pytestmark = pytest.mark.slow


def test_a_damaged_newest_checkpoint_is_set_aside_and_the_one_before_taken(folder: Path) -> None:
    shutil.copytree(folder / "whole", folder / "damaged")
    checkpoints = folder / "damaged" / "checkpoints"
    biggest = max((checkpoints / str(STEPS) / "state").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(biggest.read_bytes())
    content[len(content) // 2] ^= 4
    biggest.write_bytes(content)
    assert run(folder, "damaged") == 0
    assert f"Checkpoint {STEPS} does not verify" in log(folder, "damaged")
    assert f"Resuming from the checkpoint of step {STEPS - 4}." in log(folder, "damaged")
    assert (folder / "damaged" / "set_aside" / str(STEPS)).is_dir()
    assert_as_if_nothing_had_happened(folder, "damaged")


def test_a_checkpoint_of_another_model_is_refused_by_field(folder: Path) -> None:
    """Where it was put under a config.json that is not its own."""
    shutil.copytree(folder / "whole", folder / "grafted")
    config = folder / "grafted" / "config.json"
    config.write_text(config.read_text().replace('"width": 16', '"width": 32'))
    assert run(folder, "grafted", f"--config.steps={STEPS + 1}", "--config.model.width=32") == 2
    assert "model.width was 16 and is now 32" in log(folder, "grafted").splitlines()[-1]
