"""Find the learning rates that suit each width: kintsugi rates sweeps/widths --plot rates.svg"""

import argparse
import sys
from pathlib import Path

from research.config import require
from scripts import command_line

EPILOG = """
what is read
  Runs that have ended, or the directories of sweeps, of one experiment at several widths and learning rates:
    def sweep():
        rates = {"optimizer.schedule.peak": (1e-3, 2e-3, 4e-3, 8e-3)}
        return product(widths(get_config().model, (64, 128, 256)), grid(rates), seeds(2))
  Seeds are averaged. They may differ in model.parametrization too: in muP (MaximalUpdate) the best rate should stay.

what is printed
  The last held-out loss of each run, the best in bold; the minimum of a parabola through the best rate and its two
  neighbours; the rates around it with a loss within --within of the best; and how the best rate changes with the width.

examples
  kintsugi sweep experiments/learning_rate_by_width.py --dir sweeps/widths --jobs 2
  kintsugi rates sweeps/widths --plot rates.svg
"""


def main(arguments: list[str] | None = None) -> int:
    parser = command_line.parser("rates", __doc__, EPILOG)
    parser.add_argument("directory", nargs="+", type=Path, help="run directories, or sweeps")
    parser.add_argument("--loss", default="held_out_loss", help="a number of metrics.jsonl (%(default)s)")
    parser.add_argument("--within", type=float, default=0.05, help="nats above the best loss (%(default)s)")
    parser.add_argument("--plot", type=Path, help="draw losses by rate into this file, .png, .svg or .pdf")
    return command_line.run(parser, show, arguments)


def show(options: argparse.Namespace) -> None:
    require(options.within >= 0, f"--within is {options.within}: it must not be below 0.")
    from research.report import (
        plot,
        rates,
        sweep_page,  # after the arguments: importing JAX takes seconds
    )

    plot.check_picture(options.plot)
    runs: list[Path] = []
    for directory in options.directory:
        if (directory / "sweep.json").is_file():
            begun, waiting, _ = sweep_page.runs_of(directory)
            require(not waiting, f"{directory} has {len(waiting)} variants without results: finish the sweep.")
            runs += begun
        else:
            runs.append(directory)
    ranges = rates.read_ranges(runs, options.loss)
    print(rates.table(ranges, options.loss, options.within).markdown())
    for remark in rates.remarks(ranges):
        print(remark)
    if options.plot is not None:
        rates.draw(options.plot, ranges, options.loss)


if __name__ == "__main__":
    sys.exit(main())
