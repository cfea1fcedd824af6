"""The page of tasks: it has every task, what it shows can be typed; and the rates of T5's pretraining."""

import inspect
import json
import re
from pathlib import Path

import pytest

import research
from research import Mixing, Task
from research.config import override
from research.config.load import open_experiment

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


def test_the_rates_of_the_pretraining_are_t5_s() -> None:
    """Rates of the tasks that are trained on: all_proportional has half of each RTE, GLUE and SuperGLUE all of it."""
    file = open_experiment(str(ROOT / "experiments" / "t5" / "multitask.py"))
    tasks, rates = file.config.data.tasks, file.config.data.mixing.rates
    given = {type(task).__name__.lower(): rate for task, rate in zip(tasks, rates, strict=True) if rate is not None}
    assert given == by_task(MIXTURES["all_proportional"])
    twice = given | {"rte": 2 * given["rte"], "supergluerte": 2 * given["supergluerte"]}
    assert twice == by_task(MIXTURES["glue_v002_proportional"]) | by_task(MIXTURES["super_glue_v102_proportional"])
    others = [type(task).__name__ for task, rate in zip(tasks, rates, strict=True) if rate is None]
    assert others == ["QuestionAnswering", "Summarization", *["Translation"] * 3]


def by_task(mixture: dict[str, float]) -> dict[str, float]:
    names = {name: WITHOUT_NAMES.get(name) or re.sub(r"^(super_)?glue_|_v\d.*$", "", name) for name in mixture}
    return {names[name].lower(): rate for name, rate in mixture.items() if rate > 0}
