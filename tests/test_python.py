"""Python in pages runs as it is shown: docs/python.md, the notebooks, and the API pages."""

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


def notebook(name: str) -> dict:
    return json.loads((DOCS / name).read_text())


@pytest.mark.parametrize("name", ["notebook.ipynb", "sweeps.ipynb"])
def test_a_notebook_is_short_and_has_no_outputs(name):
    content = notebook(name)
    cells = content["cells"]
    assert (content["nbformat"], len(cells)) == (4, 10)
    assert len({cell["id"] for cell in cells}) == 10
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if "outputs" in cell)


def run(name: str) -> dict:
    """Run a notebook's code in the working directory; return its names."""
    names: dict = {}
    for cell in notebook(name)["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    return names


@pytest.mark.slow
def test_the_notebook_of_a_model_runs(elsewhere, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names = run("notebook.ipynb")
    assert len(names["losses"]) == 50
    assert names["losses"][-1] < names["losses"][0] / 2
    assert names["after"] != names["before"]


CHECKS = """
assert table["state"].tolist() == ["done"] * 6
assert table["seed"].tolist() == [0, 1, 2] * 2
assert table["test chrf"].notna().sum() == 2
assert losses.columns.tolist() == [better, other]
assert sorted(losses.stack()) == sorted(table["held_out_loss"])
assert 0 < paired.pvalue < 1
assert len(points) == 6 * 6
(measure,) = compared[FILES["test"]].values()
assert measure.score == table[table["directory"] == pair[0]]["test chrf"].item()
print("checked")
"""


@pytest.mark.slow
def test_the_notebook_of_a_sweep_runs(elsewhere):
    """In a process of its own, on one device: it trains six times."""
    code = ["".join(cell["source"]) for cell in notebook("sweeps.ipynb")["cells"] if cell["cell_type"] == "code"]
    (elsewhere / "notebook.py").write_text("\n".join([*code, CHECKS]))
    environment = os.environ | {"MPLBACKEND": "Agg", "XLA_FLAGS": "", "PYTHONPATH": str(DOCS.parent)}
    ran = subprocess.run([sys.executable, "notebook.py"], env=environment, capture_output=True, text=True)
    assert ran.stdout.endswith("checked\n"), ran.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("pdoc") is None, reason="needs the extra docs")
def test_api_pages_are_built_without_warnings(tmp_path):
    environment = os.environ | {"python": sys.executable}
    command = [DOCS.parent / "scripts" / "docs", tmp_path]
    built = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    modules = [path for path in (DOCS.parent / "research").rglob("*.py") if path.name != "__init__.py"]
    assert all((tmp_path / path.relative_to(DOCS.parent).with_suffix(".html")).is_file() for path in modules)
