"""DialogSum (arXiv:2105.06762): everyday dialogues with summaries, one per training dialogue and three per test
dialogue.

Splits: train, validation ("dev") and test, if their files exist. The authors have corrected the files since their first
release, so no checksum is required and nothing is downloaded: the files come from `manual_dir`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from research.config import ConfigError, require
from research.data.datasets.published import FilesBuilder, PublishedFile, find, open_files
from research.storage.lines import json_objects, read_text_lines

FORMAT = 1  # increment when the same files would give other examples
URL = "https://github.com/cylnlp/dialogsum/tree/main/DialogSum_Data"
SPLITS = {"train": "train", "validation": "dev", "test": "test"}
FILES = [PublishedFile(f"dialogsum.{name}.jsonl") for name in SPLITS.values()]
SUMMARIES = ("summary", "summary1", "summary2", "summary3")


class DialogSum(FilesBuilder):
    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        features = tfds.features.FeaturesDict({"dialogue": text, "summary": tfds.features.Sequence(text)})
        return tfds.core.DatasetInfo(builder=self, description=__doc__, features=features, homepage=URL)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        paths = {split: self.files.get(f"dialogsum.{name}.jsonl") for split, name in SPLITS.items()}
        return {split: self._generate_examples(path) for split, path in paths.items() if path}

    def _generate_examples(self, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        for line, _, row in json_objects(path.name, read_text_lines(path)):
            try:
                summaries = [row[name] for name in SUMMARIES if name in row]
                yield row["fname"], {"dialogue": row["dialogue"], "summary": summaries}
            except (KeyError, TypeError) as error:
                raise ConfigError(
                    f"Line {line.number} of a file of DialogSum is malformed ({type(error).__name__}: {error}): it must"
                    " be a JSON object with fname, dialogue, and summary or summary1, summary2, summary3."
                ) from None


def open_builder(manual_dir: str | None) -> FilesBuilder:
    local = find("dialogsum", FILES, manual_dir)
    require(
        len(local.paths) > 0,
        f"There is no file of DialogSum in data.manual_dir, which is {manual_dir}: put"
        f" {', '.join(file.name for file in FILES)} from {URL} into a directory, and give"
        " --config.data.manual_dir=PATH.",
    )
    return open_files("dialogsum", DialogSum, FILES, local, FORMAT)
