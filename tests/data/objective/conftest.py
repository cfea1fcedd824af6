"""A small tokenizer of each family."""

from vocabularies import families, files

__all__ = ["families", "files"]
