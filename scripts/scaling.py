"""Fit how the loss falls with size: kintsugi scaling runs/small runs/base runs/large runs/xl --at 1e20"""

import argparse
import math
import sys
from pathlib import Path

from research.config import require
from scripts import command_line

EPILOG = """
what is fitted
  L = E + A * x ** -alpha to finished runs: the last held-out loss of each against its training FLOPs until then, which
  are exact (research/model/flops.py); or against its parameters, embeddings included, or the tokens of its rows.
  By FLOPs the curve describes the best loss at each cost: give only the runs that are best at their cost. All must have
  the same data, since losses on other data lie on other curves. At least 4 sizes; seeds of one size count separately.

how far to trust it
  The fit minimizes the Huber loss of log L, as Hoffmann et al. do (arXiv:2203.15556, appendix D.2). Intervals are from
  200 fits to resampled runs: they show the effect of leaving out runs, not whether the power law continues.

examples
  kintsugi scaling sweeps/sizes/*/ --at 1e20 --plot scaling.svg
  kintsugi scaling runs/a runs/b runs/c runs/d --by parameters --loss nll --at 3e9 11e9
"""


def main(arguments: list[str] | None = None) -> int:
    parser = command_line.parser("scaling", __doc__, EPILOG)
    parser.add_argument("run", nargs="+", type=Path, help="run directories")
    parser.add_argument("--by", choices=("flops", "parameters", "tokens"), default="flops", help="x (%(default)s)")
    parser.add_argument("--loss", default="held_out_loss", help="a number of metrics.jsonl (%(default)s)")
    parser.add_argument("--at", nargs="+", type=float, default=[], help="sizes at which to predict the loss")
    parser.add_argument("--plot", type=Path, help="draw runs and curve into this file, .png or .svg")
    return command_line.run(parser, show, arguments)


def show(options: argparse.Namespace) -> None:
    sizes = ", ".join(f"{size:g}" for size in options.at)
    require(all(0 < size < math.inf for size in options.at), f"--at is {sizes}: sizes must be above 0 and finite.")
    from research.report import (
        plot,
        scaling,  # after the options are checked: importing JAX takes seconds
    )

    plot.check_picture(options.plot)
    fitted = scaling.fit(scaling.read_points(options.run, options.by, options.loss))
    for table in scaling.tables(fitted, options.by, options.at):
        print(table.markdown())
    for remark in scaling.remarks(fitted, options.at):
        print(remark)
    if options.plot is not None:
        scaling.draw(options.plot, fitted, options.by, options.loss, options.at)


if __name__ == "__main__":
    sys.exit(main())
