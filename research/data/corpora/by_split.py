"""Corpora with another source for each split."""

from dataclasses import dataclass
from typing import Literal

from research.config import Corpus
from research.data.corpora.documents import Documents, open_documents


@dataclass(frozen=True, kw_only=True)
class CorpusBySplit(Corpus):
    """A corpus with a source for each split, such as held-out text of another format or under another name.

        CorpusBySplit(
            train=Parquet("wiki/*.parquet", held_out="wiki/*.parquet", text="article"),
            held_out=JSONLines("news.jsonl", held_out="news.jsonl", text="body"),
        )

    Of each source, the split of the same kind is read; it is whole if the source names the same files for both.
    """

    train: Corpus
    held_out: Corpus

    def documents(self, split: Literal["train", "held_out"]) -> Documents:
        return open_documents(self.train if split == "train" else self.held_out, split)
