"""Python files below a directory as sources of documentation and functions."""

from pathlib import Path

from research.config.base import digest
from research.data.datasets.python_docs import Sources, tree
from research.storage import cache


def tree_sources(root: Path) -> Sources:
    """Return the Python files below a directory as sources that are identified by their contents."""
    files = sorted(tree(root))
    return Sources(digest([(file.name, cache.file_digest(file.path)) for file in files]), lambda: files)
