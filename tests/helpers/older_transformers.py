"""Another Python with transformers 4 and CTranslate2, which cannot be installed beside transformers 5."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

VARIABLE = "KINTSUGI_OLDER_PYTHON"
PACKAGES = ("transformers==4.57.6", "huggingface_hub<1", "tokenizers>=0.22,<0.23", "ctranslate2==4.8.5")


@pytest.fixture(scope="session")
def older_python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter that the variable names; with --nightly, make an environment that shares our PyTorch."""
    if VARIABLE in os.environ:
        return Path(os.environ[VARIABLE])
    if not request.config.getoption("--nightly"):
        pytest.skip(f"{VARIABLE} names no Python with {', '.join(PACKAGES)}")
    home = tmp_path_factory.mktemp("older") / "venv"
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    python = home / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", *PACKAGES], check=True)
    libraries = home / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    (libraries / "zz_others.pth").write_text(sysconfig.get_path("purelib") + "\n")  # after its own packages
    return python


def answer(python: Path, code: str, question: Any, folder: Path) -> Any:
    """Run code in another Python; it reads `question` and writes `answer`."""
    lines = [
        "import json, sys",
        "question = json.load(open(sys.argv[1]))",
        code,
        "json.dump(answer, open(sys.argv[2], 'w'))",
    ]
    paths = [folder / name for name in ("question.json", "answer.json", "code.py")]
    paths[0].write_text(json.dumps(question))
    paths[2].write_text("\n".join(lines))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([python, paths[2], *paths[:2]], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(paths[1].read_text())
