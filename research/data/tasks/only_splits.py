"""Examples of which only some splits are read, such as those of languages that are evaluated and not trained on."""

from dataclasses import dataclass

from research.config import ConfigError, Examples, require
from research.config.examples import SPLITS, Names, Records, Split


@dataclass(frozen=True)
class OnlySplits(Examples):
    """Some splits of examples, under a name of their own in the metrics.

    Among several tasks, one without "train" is evaluated only, and one without "held_out" trained on only:

        OnlySplits(TFDSExamples("xquad/de"), ("test",), "xquad/de")
    """

    examples: Examples
    only: tuple[Split, ...]
    name: str = ""  # none: that of the examples

    def __post_init__(self) -> None:
        require(len(self.only) > 0, f"OnlySplits.only is empty: name one or two of {', '.join(SPLITS)}.")

    @property
    def label(self) -> str:
        return self.name or self.examples.label

    @property
    def splits(self) -> tuple[Split, ...]:
        return tuple(split for split in self.only if split in self.examples.splits)

    def open(self, split: Split, names: Names, manual_dir: str | None) -> Records:
        if split not in self.splits:
            raise ConfigError(f"{self.label} has no split {split} here: OnlySplits has {', '.join(self.only)}.")
        return self.examples.open(split, names, manual_dir)
