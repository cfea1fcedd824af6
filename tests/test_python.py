"""What pages show of Python runs as it is shown: docs/python.md, the notebook, and the API pages."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.slow
def test_the_page_on_python_can_be_typed(elsewhere, tiny_run):
    (elsewhere / "runs").mkdir()
    (elsewhere / "runs" / "quickstart").symlink_to(tiny_run)
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", (DOCS / "python.md").read_text(), re.MULTILINE | re.DOTALL):
        exec(compile(block, "docs/python.md", "exec"), names)
    assert len(names["losses"]) == 10
    assert names["losses"][-1] < names["losses"][0]
    assert (elsewhere / "my_model" / "config.json").is_file()


def cells() -> list[dict]:
    return json.loads((DOCS / "notebook.ipynb").read_text())["cells"]


def test_the_notebook_is_short_and_has_no_outputs():
    content = json.loads((DOCS / "notebook.ipynb").read_text())
    assert (content["nbformat"], len(cells())) == (4, 10)
    assert len({cell["id"] for cell in cells()}) == 10
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells() if "outputs" in cell)


@pytest.mark.slow
def test_the_notebook_runs(elsewhere, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names: dict = {}
    for cell in cells():
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    assert len(names["losses"]) == 50
    assert names["losses"][-1] < names["losses"][0] / 2
    assert names["after"] != names["before"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("pdoc") is None, reason="needs the extra docs")
def test_api_pages_are_built_without_warnings(tmp_path):
    environment = os.environ | {"python": sys.executable}
    command = [DOCS.parent / "scripts" / "docs", tmp_path]
    built = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    modules = [path for path in (DOCS.parent / "research").rglob("*.py") if path.name != "__init__.py"]
    assert all((tmp_path / path.relative_to(DOCS.parent).with_suffix(".html")).is_file() for path in modules)
