"""Add tokens to the vocabulary of a trained model: kintsugi add_tokens DIR --tokens '<sep>' --out DIR2"""

import argparse
import sys
from pathlib import Path

from scripts import command_line

EPILOG = """
what a new token is
  A text that contains it has its one id there, whatever precedes and follows it; the text around it is encoded by
  itself. Its row of the embedding, the head and the logits' bias is the mean of the pieces that spelled it until now.
  Rows above the tokenizer's last id, as T5 has them, are used first.

formats
  DIR is a Hugging Face directory of T5, mT5, BART, mBART or Marian, with its tokenizer. A run becomes one by kintsugi
  convert. DIR2 loads in every command here and in transformers, with equal ids. In an experiment its vocabulary is
  Extended(SentencePiece("DIR2/spiece.model"), tokens=("<sep>",)), or Extended around that of its family.

examples
  kintsugi add_tokens t5-small --tokens '<sep>' '<user>' '<system>' --out t5-small-chat

exit codes
  0 done   2 bad input, and nothing was written
"""


def main(arguments: list[str] | None = None) -> int:
    parser = command_line.parser("add_tokens", __doc__, EPILOG)
    parser.add_argument("directory", type=Path, metavar="DIR", help="a Hugging Face directory with its tokenizer")
    parser.add_argument("--tokens", required=True, nargs="+", metavar="TOKEN", help="new tokens, without white space")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR2", help="a new directory")
    return command_line.run(parser, add, arguments)


def add(options: argparse.Namespace) -> None:
    from research.pretrained.new_tokens import add_tokens
    from research.pretrained.rows import check_new

    check_new(options.out)
    for token, pieces in add_tokens(options.directory, options.out, options.tokens).items():
        print(f"{token}: the mean of {' '.join(map(repr, pieces))}")


if __name__ == "__main__":
    sys.exit(main())
