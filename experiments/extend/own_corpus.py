"""A new corpus: the docstrings of an installed package, read with Python's own parser.

Command: python -m scripts.train experiments/extend/own_corpus.py --run_dir runs/docstrings
    Another package: --config.data.corpora='[Docstrings("numpy")]'
Hardware, time: 2 CPU cores, half a minute, most of it compiling.
Result: not run yet, as it is an example; tests/extend/test_own_corpus.py trains a few steps of it.
"""

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from research import (
    AdamW,
    Bytes,
    Checkpoint,
    Constant,
    Corpus,
    Denoising,
    Documents,
    DocumentsInMemory,
    Evaluation,
    Experiment,
    Model,
    Report,
)
from research.config import require


@dataclass(frozen=True)
class Docstrings(Corpus):
    """The docstrings of a package's modules, classes and functions, one document each.

    Every tenth file is held out.
    """

    package: str = "email"

    def documents(self, split: Literal["train", "held_out"]) -> Documents:
        spec = importlib.util.find_spec(self.package)
        folders = spec.submodule_search_locations if spec else None
        require(bool(folders), f"Docstrings.package is {self.package!r}: it must be an installed package.")
        files = sorted(path for folder in folders or [] for path in Path(folder).rglob("*.py"))
        chosen = [path for number, path in enumerate(files) if (number % 10 == 0) == (split == "held_out")]
        return DocumentsInMemory(f"{self.package} ({split})", [text for path in chosen for text in docstrings(path)])


def docstrings(path: Path) -> Iterator[str]:
    """Yield every docstring of a Python file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            yield text


def get_config() -> Experiment:
    return Experiment(
        model=Model(400, 64, 2, 32, 128, 1, 1, compute="float32"),
        data=Denoising((Docstrings(),), Bytes(), input_length=64),
        optimizer=AdamW(schedule=Constant(peak=3e-3, warmup=10)),
        steps=200,
        batch_size=16,
        evaluation=Evaluation(every=100, rows=64),
        checkpoint=Checkpoint(every=100),
        report=Report(every=20),
    )
