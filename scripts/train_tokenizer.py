"""Train a SentencePiece vocabulary on text: kintsugi train_tokenizer --text 'notes/*.txt' --output my.model

The model is a unigram model with byte fallback and T5's controls (<pad> 0, </s> 1, <unk> 2). The same text gives the
same file.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from research import JSONLines, PlainText
from research.config import SentencePiece, TrainedSentencePiece, require
from scripts import command_line

if TYPE_CHECKING:
    from research.data.corpora.text_files import TextFiles

EPILOG = """
examples
  kintsugi train_tokenizer --text README.md docs/*.txt.gz --pieces 4000 --output docs.model
  kintsugi train_tokenizer --text 'wiki/part-*.jsonl.gz' --key text --pieces 32000 --output wiki.model

use
  In an experiment:  Denoising(tokenizer=SentencePiece("docs.model", sentinels=100), ...)
  As an override:    kintsugi train EXPERIMENT.py --config.data.tokenizer='SentencePiece("docs.model")' ...
  The model's vocab_size must be at least pieces + sentinels; T5 rounds it up to a multiple of 128.
  An experiment with TrainedSentencePiece(pieces=...) trains its own vocabulary and needs none of this.

how many pieces
  With more pieces, rows of the same length hold more text, and the embedding is larger. 4,000 to 8,000 suit a few
  megabytes of text, 32,000 English in general (as T5), 250,000 a hundred languages (as mT5). All the text is read; 25
  lines a piece are sampled for training.

exit codes
  0 done   2 bad input, and nothing was written
"""
SHOWN_DOCUMENTS = 1000  # documents over which the reported characters a piece are averaged


def main(arguments: list[str] | None = None) -> int:
    parser = command_line.parser("train_tokenizer", __doc__, EPILOG)
    parser.add_argument(
        "--text",
        required=True,
        nargs="+",
        metavar="FILE_OR_GLOB",
        help="UTF-8 text, plain or compressed",
    )
    parser.add_argument("--key", help="key of the text, if the files are JSON lines")
    parser.add_argument("--pieces", type=int, default=8000, help="ids before the sentinels (default: %(default)s)")
    parser.add_argument("--algorithm", choices=("unigram", "bpe"), default="unigram", help="default: %(default)s")
    parser.add_argument("--output", required=True, type=Path, help="a new file")
    return command_line.run(parser, train, arguments)


def train(options: argparse.Namespace) -> None:
    config = TrainedSentencePiece(options.pieces, options.algorithm, sentinels=0)
    train_tokenizer(options.text, options.key, config, options.output)


def train_tokenizer(patterns: Sequence[str], key: str | None, config: TrainedSentencePiece, output: Path) -> None:
    """Train a vocabulary and write it. Raises ConfigError for a bad output or text, before the training."""
    require(not output.exists(), f"--output {output} exists: nothing is overwritten, so name a new file.")
    folder = output.absolute().parent
    require(folder.is_dir(), f"--output {output}: there is no directory {folder}.")
    require(
        os.access(folder, os.W_OK),
        f"--output {output}: the directory {folder} cannot be written: name another.",
    )
    from research.data.tokenizer import open_tokenizer, train_sentencepiece  # after the output is checked

    corpora = [open_text(pattern, key) for pattern in patterns]
    started = time.monotonic()
    train_sentencepiece(documents(corpora), config, output)
    seconds = time.monotonic() - started
    print(f"{output}: {config.pieces:,} pieces from {sum(map(len, corpora)):,} documents in {seconds:.0f} s")
    shown = [text for text, _ in zip(documents(corpora), range(SHOWN_DOCUMENTS), strict=False)]
    ids = open_tokenizer(SentencePiece(str(output), sentinels=0)).encode_batch(shown)
    print(f"{sum(map(len, shown)) / sum(map(len, ids)):.2f} characters a piece, on its first documents")
    print(f"use: SentencePiece({str(output)!r}, sentinels=100)")


def open_text(pattern: str, key: str | None) -> "TextFiles":
    """Open every document of the files. They are held_out too, since otherwise some would be held out by a hash."""
    from research.data.corpora.text_files import TextFiles

    if key is None:
        return TextFiles(PlainText(train=pattern, held_out=pattern), "train")
    return TextFiles(JSONLines(train=pattern, held_out=pattern, text=key), "train")


def documents(corpora: "Sequence[TextFiles]") -> Iterator[str]:
    return (corpus[index] for corpus in corpora for index in range(len(corpus)))


if __name__ == "__main__":
    sys.exit(main())
