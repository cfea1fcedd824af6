"""Look at data before training on them: kintsugi data experiments/quickstart.py, or 'JSONLines("a.jsonl.zst")'"""

import argparse
import re
import sys
from pathlib import Path

from research.config import load, override, require
from scripts import command_line

QUICKSTART = Path(__file__).parents[1] / "experiments" / "quickstart.py"
EPILOG = """
what is shown
  text         documents, tokens, characters and bytes a token, unknown tokens, language and share of each corpus;
               rows, and how often an epoch reads them at the mixing rates; lengths of documents; the denoisers
  examples     of each task: how many there are, lengths of sources and targets, and how many are too long for a row
  rows         what the model gets: input and target as text, with sentinels. These are rows of the run itself, by its
               seed: row N is the N-th that training reads, in the batch N // batch_size

  Data are prepared as for training, and what is built stays in the cache: the run starts faster. Lengths of documents
  and what is counted per token are of a sample of each corpus, the first 2,048 documents of the order of training.

examples
  kintsugi data experiments/quickstart.py
  kintsugi data 'JSONLines("wiki/*.jsonl.zst")'                 a corpus, with the quickstart's objective and tokenizer
  kintsugi data experiments/quickstart.py --example 7                                  one row, whole
  kintsugi data experiments/quickstart.py --config.data.objective='BART()' --config.data.tokenizer='Bytes()'
  kintsugi data experiments/finetune/summarize.py --out page --json data.json          a page with charts, and figures
"""


def main(arguments: list[str] | None = None) -> int:
    parser = command_line.parser("data", __doc__, EPILOG)
    parser.add_argument("experiment", help=f"{command_line.EXPERIMENT_HELP}; or a corpus as in data.corpora")
    parser.add_argument("--example", type=int, action="append", default=[], metavar="N", help="show row N whole")
    parser.add_argument("--examples", type=int, default=2, help="rows of every denoiser or task (%(default)s)")
    parser.add_argument("--out", type=Path, help="write a page with charts: its path without .html")
    parser.add_argument("--json", type=Path, help="write all figures and the shown rows into this file")
    return command_line.run(parser, show, arguments, (command_line.CONFIG,))


def show(options: argparse.Namespace, overrides: dict[str, str]) -> None:
    require(options.examples >= 0, f"--examples is {options.examples}: it must not be below 0.")
    for name in ("out", "json"):
        path = getattr(options, name)
        require(path is None or path.absolute().parent.is_dir(), f"--{name} {path}: there is no such directory.")
    if re.fullmatch(r"\w+\(.*\)", options.experiment, re.DOTALL):
        options.experiment, overrides = QUICKSTART, {"data.corpora": f"[{options.experiment}]", **overrides}
    file = load.open_experiment(options.experiment)
    config = override.apply(file.config, overrides)
    from research.report import data_overview, data_page  # after the config is checked: importing JAX takes seconds
    from research.storage.files import write_json
    from research.train.run import prepare_data

    found = data_overview.overview(config, prepare_data(config), options.example, options.examples)
    print(data_page.terminal(found, None if options.example else data_page.LETTERS))
    if options.json:
        write_json(options.json, data_overview.as_json(found))
    if options.out:
        print(data_page.write(options.out, f"Data of {file.name}", found))


if __name__ == "__main__":
    sys.exit(main())
