"""Instructions: tasks in several phrasings, as FLAN trains on (arXiv:2109.01652, arXiv:2301.13688)."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import ascii_uppercase
from typing import Literal

from research.config import ConfigError, Examples, Metric, Task, require
from research.config.examples import Names, TextRecord
from research.data.tasks.few_shot import FewShot, shot_name
from research.data.tasks.text_to_text import fill, names_of_template
from research.score.answers import Accuracy
from research.storage.lines import Line, json_objects, read_text_lines

OPTIONS, LISTED = "options", "options_"  # the list in a record, and its text in templates

Templates = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Instructions(Task):
    """Examples in several phrasings: templates of a source and a target, with the {names} of a record.

    They are given as pairs, or as the path of JSON lines with a "source" and a "target". {options_} is the list
    "options" of a record as FLAN writes it: "OPTIONS:\\n- yes\\n- no" or, as letters, "OPTIONS:\\n(A) yes\\n(B) no".
    A hash of the record chooses its template; with chosen="each" it makes an example of training for each of them.
    If the examples are `FewShot`, exemplars in the same phrasing precede a source.

    A target that is one {name} has all texts of that name as references.
    """

    examples: Examples
    templates: Templates | str
    chosen: Literal["one", "each"] = "one"
    options: Literal["dashes", "letters"] = "dashes"
    metrics: tuple[Metric, ...] = (Accuracy(),)

    @property
    def pairs(self) -> Templates:
        """The templates. Raises ConfigError if there is none, or they cannot be read."""
        return read_templates(self.templates) if isinstance(self.templates, str) else self.templates

    @property
    def own_names(self) -> Names:
        """The names that templates have, for the source and for the target."""
        return names_of(self.pairs, f" in {self.templates}" if isinstance(self.templates, str) else "")

    @property
    def names(self) -> Names:
        own = self.own_names
        shots = self.examples.shot_names(own.all) if isinstance(self.examples, FewShot) else ()
        return Names((*own.source, *shots), own.target)

    def example(self, record: TextRecord) -> tuple[str, tuple[str, ...]]:
        texts = [record[name] for name in self.own_names.all]
        number = int.from_bytes(hashlib.sha256(json.dumps(texts).encode()).digest()[:8])
        return self._in_form(record, self.pairs[number % len(self.pairs)])

    def training_examples(self, record: TextRecord) -> Sequence[tuple[str, tuple[str, ...]]]:
        if self.chosen == "one":
            return (self.example(record),)
        return [self._in_form(record, template) for template in self.pairs]

    def _in_form(self, record: TextRecord, template: tuple[str, str]) -> tuple[str, tuple[str, ...]]:
        source, targets = self._filled(record, template)
        if isinstance(self.examples, FewShot):
            shots = range(self.examples.shots)
            shown = [{name: record[shot_name(shot, name)] for name in self.own_names.all} for shot in shots]
            made = [self._filled(exemplar, template) for exemplar in shown]
            source = self.examples.text([(one, found[0]) for one, found in made], source)
        return source, targets

    def _filled(self, record: TextRecord, template: tuple[str, str]) -> tuple[str, tuple[str, ...]]:
        source, target = template
        if f"{{{LISTED}}}" in source + target:
            record = {**record, LISTED: (self._listed(record[OPTIONS], template),)}
        (filled,) = fill(source, record) if names_of_template(source) else (source.format(),)
        names = names_of_template(target)
        return filled, record[names[0]] if target == f"{{{names[0]}}}" else fill(target, record)

    def _listed(self, options: tuple[str, ...], template: tuple[str, str]) -> str:
        """Return the text of a record's options. Raises ConfigError if it has none, or more than there are letters."""
        filled = len(options) > 0 and all(map(str.strip, options))
        require(filled, f"A record has the options {list(options)}, but {template} lists them: each must be a text.")
        if self.options == "dashes":
            return "OPTIONS:\n- " + "\n- ".join(options)
        count, most = len(options), len(ascii_uppercase)
        require(count <= most, f"A record has {count} options: only {most} have letters.")
        lettered = zip(ascii_uppercase[:count], options, strict=True)
        return "OPTIONS:" + "".join(f"\n({letter}) {option}" for letter, option in lettered)

    @property
    def identity(self) -> tuple[str, ...] | None:
        form = self.examples.form if isinstance(self.examples, FewShot) else ""
        return type(self).__name__, repr(self.pairs), self.chosen, self.options, form


@cache
def names_of(templates: Templates, where: str) -> Names:
    """Return the names that templates have. Raises ConfigError if there is no template, or a target without a name."""
    require(len(templates) > 0, f"Instructions has no template{where}: give at least one (source, target).")
    for source, target in templates:
        both = source.strip() and names_of_template(target)
        require(bool(both), f"A template{where} is {(source, target)}: the target must have a name in braces.")
    sources, targets = (names_in_templates(side) for side in zip(*templates, strict=True))
    return Names(sources or targets, targets)  # a hash of the first may decide whether a record is held out


def names_in_templates(templates: Sequence[str]) -> tuple[str, ...]:
    """Return the distinct names of a record that templates have."""
    found = (name for template in templates for name in names_of_template(template))
    return tuple(dict.fromkeys(OPTIONS if name == LISTED else name for name in found))


def read_templates(path: str) -> Templates:
    """Read templates from JSON lines. Raises ConfigError for a line that has no source or no target."""
    file = Path(path)
    try:
        state = file.stat()
    except OSError:
        raise ConfigError(f"{path}: there is no such file.") from None
    return _read(path, file.absolute(), state.st_mtime_ns, state.st_size)


@cache
def _read(called: str, file: Path, changed: int, size: int) -> Templates:
    """Read a file of templates once in each of its versions."""
    return tuple(_templates(called, read_text_lines(file)))


def _templates(path: str, lines: Iterable[Line]) -> Iterator[tuple[str, str]]:
    for _, where, value in json_objects(path, lines):
        match value:
            case {"source": str(source), "target": str(target)}:
                yield source, target
            case _:
                raise ConfigError(f'{where} is no template: it must have a text as "source" and as "target".')
