"""Losses that are not finite, or far above the others."""

import json
import re
from pathlib import Path

import pytest
from real_runs import log, metrics, run

from research.storage.manifest import verify

pytestmark = pytest.mark.slow


def test_losses_that_stay_not_finite_stop_the_run_with_44(folder: Path) -> None:
    arguments = ["--config.optimizer=AdamW(schedule=Constant(peak=1e37, warmup=6))", "--config.checkpoint.every=1"]
    assert run(folder, "nan", *arguments) == 44, log(folder, "nan")
    result = json.loads((folder / "nan" / "RESULT.json").read_text())
    assert result["status"] == "not finite"
    assert "3 updates in a row were not finite" in result["reason"]
    # Nothing was saved over what stood before the first bad step, though a save was due at every step.
    (first,) = re.findall(r"the first at step (\d+)", result["reason"])
    assert f"go back to the checkpoint of step {int(first) - 1};" in result["reason"]
    assert verify(folder / "nan" / "checkpoints" / str(int(first) - 1)) == ""
    assert max(int(path.name) for path in (folder / "nan" / "checkpoints").iterdir()) == int(first) - 1
    assert [line["skipped"] for line in metrics(folder, "nan") if line["step"] >= int(first)] == [1, 1, 1]
