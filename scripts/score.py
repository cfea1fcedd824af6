"""Score given targets by their log-likelihood under any trained model: kintsugi score MODEL --input pairs.tsv"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from research.config import require
from research.storage.progress import Progress
from scripts import command_line
from scripts.generate import (
    add_language_options,
    add_model_options,
    lines_of,
    open_generator,
    open_journal,
    texts_of,
)

EPILOG = """
models
  A run directory, its newest checkpoint (or runs/NAME/checkpoints/STEP or /best), a Hugging Face directory, a T5X
  checkpoint, Marian's .npz, fairseq's .pt. T5X and fairseq need --tokenizer; Marian's vocabularies lie beside its .npz.

input
  Lines of SOURCE, a tab and TARGET; or, if the name ends in .jsonl, JSON objects with "text" and "target". - is
  standard input, as lines.

output
  One line a pair, in order: the log-probability of the whole target in nats, EOS included, and its number of tokens.
  If the name ends in .jsonl, the object with "score", "tokens" and "token_scores" added.

examples
  kintsugi score opus-mt-en-de --input=pairs.tsv
  paste source.txt hypotheses.txt | kintsugi score mbart-50 --input=- --source_language=en_XX \\
      --target_language=de_DE
"""


def main(arguments: list[str] | None = None) -> int:
    made = command_line.parser("score", __doc__, EPILOG)
    add_model_options(made)
    add_language_options(made)
    made.add_argument("--input", required=True, help="a file of pairs; - for standard input")
    command_line.add_bad_bytes(made)
    made.add_argument("--output", type=Path, help="a new file for the scores (standard output)")
    return command_line.run(made, run, arguments, (command_line.GENERATION,))


def run(options: argparse.Namespace, overrides: dict[str, str]) -> None:
    from research.storage.journal import check_new  # after the arguments: its imports take seconds

    check_new(options.output)
    rows = list(read(options))
    require(bool(rows), f"--input {options.input} has no pairs.")
    pairs = [(row["text"], row["target"]) for row in rows]
    for number, pair in enumerate(pairs, 1):
        for side, text in zip(("source", "target"), pair, strict=True):
            require(
                bool(text.strip()),
                f"{options.input}, pair {number} has an empty {side}: give both sides of every pair.",
            )
    options.batch_size = min(options.batch_size, len(pairs))
    generator = open_generator(options, overrides)
    progress = Progress("Scoring", len(pairs), "pairs")
    with open_journal(options.output, generator, pairs) as journal, progress:
        progress.advance(len(journal.done))
        for scores in generator.score_pairs(pairs, frozenset(journal.done)):
            journal.add(scores)
            progress.advance(len(scores))
        as_json = (options.output or Path("-")).suffix == ".jsonl"
        journal.finish(line(row, journal.done[number], as_json) for number, row in enumerate(rows))


def read(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    if options.input.endswith(".jsonl"):
        yield from texts_of(options, "text", "target")
        return
    for line in lines_of(options):
        source, tab, target = line.content.partition("\t")
        require(bool(tab), f"{options.input}, line {line.number} has no tab between a source and a target.")
        yield {"text": source, "target": target}


def line(row: dict[str, Any], scores: list[float], as_json: bool) -> str:
    from research.storage.files import json_text

    if not as_json:
        return f"{sum(scores):.4f}\t{len(scores)}"
    added = {"score": sum(scores), "tokens": len(scores), "token_scores": scores}
    return json_text({**row, **added})


if __name__ == "__main__":
    sys.exit(main())
