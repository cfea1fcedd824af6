"""XQuAD (arXiv:1910.11856): 1,190 questions on 240 paragraphs of SQuAD's development set, in twelve languages.

It was published as one evaluation set, which is "train+validation+test" here. To allow fine-tuning, its 48 articles are
split identically in every language: of each ten, the ninth is validation and the tenth is test.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow_datasets as tfds

from research.config import require
from research.data.datasets.published import FilesBuilder, PublishedFile, find, open_files
from research.data.tasks.squad import Question, questions

FORMAT = 1  # increment when the same file would give other examples
URL = "https://raw.githubusercontent.com/google-deepmind/xquad/master"
DIGESTS = {
    "ar": "abdabd7afed5c635d99cca0f3f0d0c9d9ed0bc77451e963c2e4e0638c29e486d",
    "de": "990b5d746746ed65ed4702ea5f35f99ffa4e2f1c390c07d003642acd937916f9",
    "el": "821cf0f88e73fa258fd2f548b19b6ec39f7025059e16f6f9fc8cd797c9c3663e",
    "en": "e4c57d1c9143aaa1c5d265ba5987a65f4e69528d2a98f29d6e75019b10344f29",
    "es": "dcbae93ec3a9f4b9e78fd834a171d6f96c1a875e10e15b7530b7e4ef4971e37e",
    "hi": "df2cce3532b37e9beb8979704b5c9a4bf874358f105395a298b89427b43b9d24",
    "ro": "94f8d54e93ad2b7dd2e76dd921a666b5b8eff2d4379df9f179c42b445f09643f",
    "ru": "208d5b1aa154c52b1b5c5eda16281e455e8fd198cdb9af3f469f0d6037d973bf",
    "th": "5cdda11d0e1e075f7872abf4e6ae830388ce7f617964d542308e9ae4257e0f43",
    "tr": "92179a564774b7696100d144c1e10870d0a966b6fccbdd254a65b9d2ab1971cc",
    "vi": "f619a1eb11fb42d3ab0834259e488a65f585447ef6154437bfb7199d85161a04",
    "zh": "691d0b3359bc6b8faa8de931dfdfe21d50a65861ae348e32a0d1a0190b0c8835",
}


class XQuAD(FilesBuilder):
    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        answers = tfds.features.Sequence({"text": text})
        features = {"id": text, "title": text, "context": text, "question": text, "answers": answers}
        return tfds.core.DatasetInfo(
            builder=self, description=__doc__, features=tfds.features.FeaturesDict(features), homepage=URL
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        (path,) = self.files.values()
        splits: dict[str, list[Question]] = {"train": [], "validation": [], "test": []}
        for question in questions(path):
            splits[{8: "validation", 9: "test"}.get(question.article % 10, "train")].append(question)
        return {split: self._generate_examples(members) for split, members in splits.items() if members}

    def _generate_examples(self, members: Sequence[Question]) -> Iterator[tuple[str, dict[str, Any]]]:
        for question in members:
            fields = question._asdict()
            del fields["article"]
            yield question.id, fields


def open_builder(language: str, manual_dir: str | None) -> FilesBuilder:
    require(
        language in DIGESTS,
        f"There is no TFDS data set xquad/{language}: its languages are {', '.join(DIGESTS)}, as in xquad/en.",
    )
    name = f"xquad.{language}.json"
    files = [PublishedFile(name, f"{URL}/{name}", DIGESTS[language])]
    return open_files(f"xquad/{language}", XQuAD, files, find("xquad", files, manual_dir), FORMAT)
