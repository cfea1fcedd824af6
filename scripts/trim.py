"""Keep the rows of a vocabulary that a corpus uses: kintsugi trim DIR --corpus notes.txt --out DIR2"""

import argparse
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from scripts import command_line

EPILOG = """
what is kept
  Every id that the corpus uses, special tokens, sentinels, language codes, bytes, every single character of the kept
  pieces, and for BPE the pieces that a kept one is merged from. Text of kept pieces has the ids that it had, up to the
  new numbers, and the logits of kept ids are the same. Other text is spelled by smaller pieces.

  Rows above the tokenizer's last id, which pad T5's tables, go. The weights keep their type.

what the corpus should hold
  Text like all that the model will read and write: sources and targets, in every language, and a task's prefix, which
  --also takes. Too little text costs a longer spelling of what it lacks; it makes nothing unreadable but characters
  that occur nowhere in it.

formats
  DIR is a Hugging Face directory of T5, mT5, BART, mBART, M2M-100 or Marian, with its tokenizer. A run becomes one by
  kintsugi convert. M2M-100 keeps all of its languages. DIR2 loads in every command here and in transformers.

examples
  kintsugi trim mt5-base --corpus 'news/*.txt.gz' --out mt5-base-de
  kintsugi trim mt5-base --corpus train.jsonl --key source target --also 'summarize: ' --out mt5-base-de
  kintsugi trim opus-mt-en-roa --corpus en.txt fr.txt --languages '>>fra<<' --out opus-mt-en-fr

exit codes
  0 done   2 bad input, and nothing was written
"""


def main(arguments: list[str] | None = None) -> int:
    parser = command_line.parser("trim", __doc__, EPILOG)
    parser.add_argument("directory", type=Path, metavar="DIR", help="a Hugging Face directory with its tokenizer")
    parser.add_argument(
        "--corpus",
        required=True,
        nargs="+",
        metavar="FILE_OR_GLOB",
        help="UTF-8 text, plain or compressed",
    )
    parser.add_argument("--key", nargs="+", help="keys of the texts, if the files are JSON lines")
    parser.add_argument("--also", nargs="+", default=[], metavar="TEXT", help="texts to keep beside the corpus")
    parser.add_argument("--languages", nargs="+", default=[], metavar="CODE", help="drop all other language codes")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR2", help="a new directory")
    return command_line.run(parser, trim, arguments)


def trim(options: argparse.Namespace) -> None:
    from research.pretrained.rows import check_new
    from research.pretrained.trim_directory import trim_directory
    from scripts.train_tokenizer import documents, open_text

    directory, out = options.directory, options.out
    check_new(out)
    corpora = [open_text(pattern, key) for pattern in options.corpus for key in options.key or [None]]
    count = sum(map(len, corpora)) + len(options.also)

    def texts() -> Iterator[str]:
        return chain(options.also, documents(corpora))

    savings = trim_directory(directory, out, texts, count, tuple(options.languages))
    print("\n".join(savings))


if __name__ == "__main__":
    sys.exit(main())
