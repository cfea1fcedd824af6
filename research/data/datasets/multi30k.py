"""Multi30k's captions, task 1 (arXiv:1605.00459): English, German, French and Czech, aligned line by line.

Splits: train, validation ("val") and test ("test_2016_flickr"). Features: one text per language.
"""

from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from research.config import require
from research.data.datasets.published import FilesBuilder, PublishedFile, find, open_files
from research.storage.lines import read_text_lines

FORMAT = 1  # increment when the same files would give other examples
URL = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"
SPLITS = {"train": "train", "validation": "val", "test": "test_2016_flickr"}
DIGESTS = {  # SHA-256 of the decompressed texts
    "train.en": "460a15fbd157e34a7a9957ee388c1ca247fe47af3ef25fb50442af6c274e0fc6",
    "train.de": "2c2b73fd2b548fbcde3a875e0a78d6ee94d498bfdee6bd3eae3945779e9ddf72",
    "train.fr": "5925a3c18f1587b6b54b87743106e6e8ab93618edb6f65d19eac0621f853a10d",
    "train.cs": "2be68b38c8d586ff4f54eb13cc6e1baaaa053695b3f070d3038303a47f2268da",
    "val.en": "1f2a23d992769b5b3d209b0a10dd0b77c08cceb1f20dfb97ed0aafa49d107227",
    "val.de": "660e09eb7e1da2f856ea13ee5ad3cf6d36b3d5b0b733c857e94c5747a3dfc660",
    "val.fr": "5304e444d842e962b2dda4d816b70b22a1765b15401642b7ca37a67477e708dc",
    "val.cs": "d53827e469b0a1ca8d57e9e26b2b64c4bc4b33f5479c7b03ae87ae5c882c3e33",
    "test_2016_flickr.en": "399a4382932c1aadd3ceb9bef1008d388a64c76d4ae4e9d4728c6f4301cac182",
    "test_2016_flickr.de": "4be6b5b3236b79c25475c6bb829800a7ce559e9ba7a1f6c2394fe4d40be46d16",
    "test_2016_flickr.fr": "cb3160d69b002bb638e66cc7612fcd56cb0af82eadc9c142dedc438afb885ef6",
    "test_2016_flickr.cs": "45adb85f688de8407fddcbe1b36dca15d12aab868149b337e2576f2d6d2ff8d8",
}


class Multi30k(FilesBuilder):
    def _info(self) -> tfds.core.DatasetInfo:
        languages = sorted({name.split(".")[1] for name in self.files})
        features = tfds.features.Translation(languages=languages)
        return tfds.core.DatasetInfo(builder=self, description=__doc__, features=features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(name) for split, name in SPLITS.items()}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, str]]]:
        texts = {name.split(".")[1]: path for name, path in self.files.items() if name.startswith(f"{split}.")}
        lines = [[line.content for line in read_text_lines(path)] for path in texts.values()]
        for number, line in enumerate(zip(*lines, strict=True)):
            yield number, dict(zip(texts, line, strict=True))


def files() -> list[PublishedFile]:
    return [PublishedFile(f"{name}.gz", f"{URL}/{name}.gz", digest) for name, digest in DIGESTS.items()]


def open_builder(manual_dir: str | None) -> FilesBuilder:
    local = find("multi30k", files(), manual_dir)
    missing = sorted({f"{name}.gz" for name in DIGESTS} - {f"{name}.gz" for name in local.paths})
    require(not local.paths or not missing, f"{manual_dir} lacks {', '.join(missing)} of multi30k: put them there too.")
    return open_files("multi30k", Multi30k, files(), local, FORMAT)
