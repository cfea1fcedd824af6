"""Test whether systems differ by more than chance: kintsugi significance EVALUATION_A EVALUATION_B"""

import argparse
import json
import sys
from pathlib import Path

from research.config import Metric, override, score_names
from scripts import command_line

EPILOG = """
what is compared
  Directories that evaluate made, runs/NAME/evaluations/SPLIT-STEP or its --output, of the same examples and
  references. The first is the baseline; every other one is compared with it, by the metrics of its tasks or --metrics.

what is printed
  difference   the other's score less the baseline's
  95 % of it   between which 95 % of the differences over 1,000 bootstrap resamples of the examples lie
  p bootstrap  of as large a difference by chance, from the same resamples
  p random     the same, from 10,000 trials in which systems exchange the outputs of random examples

  Both p-values are two-sided. Of BLEU and chrF they are sacreBLEU's (--paired-bs, --paired-ar), of the same seed
  (SACREBLEU_SEED, or 12345), but 1 for outputs that score alike; the interval is of the difference, where sacreBLEU has
  that of each score. The others, means over examples, are resampled alike. They tell of other examples and not of other
  seeds of training, and are not corrected for several comparisons: with ten, ask for p below 0.005 instead of 0.05.

examples
  kintsugi significance runs/a/evaluations/test-9000 runs/b/evaluations/test-9000
  kintsugi significance a b c --metrics 'BLEU()' 'ChrF(word_order=2)' --json > differences.json
"""


def main(arguments: list[str] | None = None) -> int:
    parser = command_line.parser("significance", __doc__, EPILOG)
    parser.add_argument("evaluation", nargs="+", type=Path, help="directories that evaluate made")
    parser.add_argument("--metrics", nargs="+", default=[], help="what to compare by, instead of the tasks' own")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return command_line.run(parser, compare, arguments)


def compare(options: argparse.Namespace) -> None:
    asked: tuple[Metric, ...] = tuple(override.parse(Metric, text, "--metrics") for text in options.metrics)
    score_names(asked)
    from research.score import significance  # after the command is known to be good: importing takes seconds

    compared = significance.compare(significance.read_systems(options.evaluation), asked)
    if options.json:
        print(json.dumps(significance.as_data(compared), indent=2, ensure_ascii=False))
    else:
        significance.show(compared)


if __name__ == "__main__":
    sys.exit(main())
