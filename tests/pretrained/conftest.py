"""A small tokenizer of each family, and a small run."""

from tiny_run import tiny_run
from vocabularies import families, files

__all__ = ["families", "files", "tiny_run"]
