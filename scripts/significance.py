"""Test whether systems differ by more than chance: kintsugi significance EVALUATION_A EVALUATION_B"""

import argparse
import json
import sys
from pathlib import Path

from research.config import Metric, override, score_names
from scripts import command_line

EPILOG = """
what is compared
  Directories that evaluate wrote, runs/NAME/evaluations/SPLIT-STEP or its --output, for the same examples and
  references. The first is the baseline; every other one is compared with it, by the metrics of its tasks or --metrics.

what is printed
  difference   the other's score minus the baseline's
  95 % of it   the interval with 95 % of the differences over 1,000 bootstrap resamples of the examples
  p bootstrap  the probability of as large a difference by chance, from the same resamples
  p random     this probability from 10,000 trials in which systems exchange the outputs of random examples

  Both p-values are two-sided. For BLEU and chrF they are sacreBLEU's (--paired-bs, --paired-ar), with its seed
  (SACREBLEU_SEED, or 12345), but 1 for outputs with equal scores; the interval is that of the difference, while
  sacreBLEU gives one for each score. Other metrics, means over examples, are resampled in the same way. The p-values
  are about other examples, not about other seeds of training, and are not corrected for several comparisons: with ten
  comparisons, require p below 0.005 instead of 0.05.

examples
  kintsugi significance runs/a/evaluations/test-9000 runs/b/evaluations/test-9000
  kintsugi significance a b c --metrics 'BLEU()' 'ChrF(word_order=2)' --json > differences.json
"""


def main(arguments: list[str] | None = None) -> int:
    parser = command_line.parser("significance", __doc__, EPILOG)
    parser.add_argument("evaluation", nargs="+", type=Path, help="directories that evaluate wrote")
    parser.add_argument("--metrics", nargs="+", default=[], help="metrics to compare by, instead of those of the tasks")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return command_line.run(parser, compare, arguments)


def compare(options: argparse.Namespace) -> None:
    metrics: tuple[Metric, ...] = tuple(override.parse(Metric, text, "--metrics") for text in options.metrics)
    score_names(metrics)
    from research.score import significance  # after the options are checked: importing takes seconds

    compared = significance.compare(significance.read_systems(options.evaluation), metrics)
    if options.json:
        print(json.dumps(significance.as_data(compared), indent=2, ensure_ascii=False))
    else:
        significance.show(compared)


if __name__ == "__main__":
    sys.exit(main())
