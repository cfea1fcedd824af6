"""The page of tasks: it has every task, what it shows can be typed, and its rates are T5's."""

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

import research
from research import Mixing, Task
from research.config import override

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "tasks.md").read_text()
SHOWN = [text for text in re.findall(r"`([^`\n]+)`", PAGE) if re.fullmatch(r"[A-Z]\w+\(.*\)", text)]
TASKS = {
    name for name in research.__all__ if inspect.isclass(found := getattr(research, name)) and issubclass(found, Task)
}
BASES = {"Task", "Classification"}
MIXTURES: dict[str, dict[str, float]] = json.loads((ROOT / "tests" / "goldens" / "more_tasks.json").read_text())[
    "mixtures"
]
WITHOUT_NAMES = {"dpr_v001_simple": "PronounResolution", "super_glue_rte_v102": "SuperGLUERTE"}


def test_every_task_is_in_the_table() -> None:
    rows = "\n".join(line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`(\w+)`", rows)) >= TASKS - BASES


@pytest.mark.parametrize("text", [text for text in SHOWN if text.split("(")[0] in TASKS])
def test_tasks_on_the_page_can_be_typed(text: str) -> None:
    task = override.parse(Task, text, "--task")
    assert override.from_json(override.to_json(task), type(task)) == task


@pytest.mark.parametrize("text", [text for text in SHOWN if text.startswith("Mixing(")])
def test_mixtures_on_the_page_can_be_typed(text: str) -> None:
    override.parse(Mixing, text, "data.mixing")


def test_the_rates_on_the_page_are_t5_s() -> None:
    """Of the tasks that are trained on."""
    found: dict[str, Any] = {}
    (block,) = [block for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S) if "super_glue =" in block]
    exec(block, found)
    for name, mixture in (("glue", "glue_v002_proportional"), ("super_glue", "super_glue_v102_proportional")):
        assert by_task(MIXTURES[mixture]) == {task.__name__.lower(): rate for task, rate in found[name].items()}
    assert by_task(MIXTURES["all_proportional"]) == {
        task.__name__.lower(): rate for task, rate in found["rates"].items()
    }
    assert found["data"].mixing.rates == tuple(found["rates"].values())


def by_task(mixture: dict[str, float]) -> dict[str, float]:
    names = {name: WITHOUT_NAMES.get(name) or re.sub(r"^(super_)?glue_|_v\d.*$", "", name) for name in mixture}
    return {names[name].lower(): rate for name, rate in mixture.items() if rate > 0}
