"""Examples with exemplars: for each record others of the training split, for prompts that show a few before it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from research.config import ConfigError, Examples, require, require_positive
from research.config.base import digest
from research.config.examples import SPLITS, Names, Records, Split, TextRecord
from research.data.corpora.overlap import pieces_of
from research.data.shuffle import Permutation
from research.data.tasks.records import open_records, read_checked

FORMAT = 1  # increment when the same records would get other exemplars
KEY = (0, 3)  # of the orders in which exemplars are drawn
SOURCE, TARGET = "{source}", "{target}"


@dataclass(frozen=True)
class FewShot(Examples):
    """Examples for `Instructions`, each with `shots` others of the training split before it.

    Which ones is decided by the place of the record, the same in every run. They are never the record itself, nor one
    with the same texts, nor held out. `form` is that of an exemplar; the record itself ends where its target begins,
    without the white space before it:

        FewShot(JSONExamples("train.jsonl"), shots=2, form="Q: {source}\nA: {target}\n\n")

    The default is that of FLAN 2022 (arXiv:2301.13688).
    """

    examples: Examples
    shots: int = 5
    form: str = "{source}\n\n{target}\n\n\n"

    def __post_init__(self) -> None:
        require_positive("FewShot.", self, "shots")
        source, target = self.form.find(SOURCE), self.form.find(TARGET)
        once = self.form.count(SOURCE) == self.form.count(TARGET) == 1
        require(once and source < target, f"FewShot.form is {self.form!r}: it must have {{source}}, then {{target}}.")

    @property
    def label(self) -> str:
        return self.examples.label

    @property
    def splits(self) -> tuple[Split, ...]:
        return self.examples.splits

    def shot_names(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the names under which a record has the texts of its exemplars."""
        return tuple(shot_name(shot, name) for shot in range(self.shots) for name in names)

    def open(self, split: Split, names: Names, manual_dir: str | None) -> Records:
        return FewShotRecords(self, split, names, manual_dir)

    def text(self, exemplars: Sequence[tuple[str, str]], source: str) -> str:
        """Return the exemplars, given as (source, target), and the source that follows them."""
        before, rest = self.form.split(SOURCE)
        between, after = rest.split(TARGET)
        shown = "".join(f"{before}{one}{between}{target}{after}" for one, target in exemplars)
        # FLAN removes all white space before a target's own prefix, but only spaces where it has none.
        last = between.rstrip() if between.strip() else between
        return f"{shown}{before}{source}{last}".rstrip(" ")


def shot_name(shot: int, name: str) -> str:
    return f"exemplar {shot + 1}/{name}"


class FewShotRecords:
    """The records of a split, each with its exemplars."""

    def __init__(self, few_shot: FewShot, split: Split, names: Names, manual_dir: str | None) -> None:
        shots = range(few_shot.shots)
        of_shots = {shot_name(shot, name) for shot in shots for name in names.all}
        self._names = Names(*(tuple(name for name in side if name not in of_shots) for side in names))
        self._shots, self._split = few_shot.shots, split
        self._records = open_records(few_shot.examples, split, self._names, manual_dir)
        train = split == "train"
        self._train = self._records if train else open_records(few_shot.examples, "train", self._names, manual_dir)
        self.name = self._records.name
        self.pieces = pieces_of([self._records])
        self.identity = digest([FORMAT, self._records.identity, self._train.identity, self._shots, split])

    def __len__(self) -> int:
        return len(self._records)

    def read(self, indices: Sequence[int]) -> list[TextRecord]:
        records = read_checked(self._records, self._names, indices)
        return [self._with_exemplars(index, record) for index, record in zip(indices, records, strict=True)]

    def _with_exemplars(self, index: int, record: TextRecord) -> TextRecord:
        found = dict(record)
        others = self._others(index, record)
        for shot in range(self._shots):
            exemplar = next(others, None)
            if exemplar is None:
                raise ConfigError(
                    f"Record {index + 1} of {self.name} has only {shot} others in the training split: FewShot.shots"
                    f" is {self._shots}."
                )
            found |= {shot_name(shot, name): texts for name, texts in exemplar.items()}
        return found

    def _others(self, index: int, record: TextRecord) -> Iterator[TextRecord]:
        """Yield records of the training split with other texts, in an order of the record's own."""
        size = len(self._train)
        order = Permutation(size, KEY, (SPLITS.index(self._split), index))
        for start in range(0, size, self._shots):
            rows = order(np.arange(start, min(start + self._shots, size))).tolist()
            yield from (other for other in read_checked(self._train, self._names, rows) if other != record)
