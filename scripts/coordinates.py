"""Check whether a learning rate suits wider models: kintsugi coordinates EXPERIMENT.py --widths 64 128 256 512"""

import argparse
import sys
from pathlib import Path

from research.config import load, override
from scripts import command_line

EPILOG = """
what is done
  The experiment's model is trained at each width, with heads and feed-forward in proportion, for a few steps of its
  data at the peak of its learning rate, from the first step on. For every product of the model, its scores, residual
  streams and logits, the table has how far these steps moved it, and the slope of that by the width on logarithmic
  scales.
  Slopes above 0 mean that wider models need a lower rate. For one rate to suit all widths, all slopes must be near 0;
  that is necessary and not sufficient, so confirm it by a sweep.

  Both parametrizations are checked: the standard one, and muP (arXiv:2203.03466, model.parametrization=MaximalUpdate).
  The base of muP, which sets the proportions of all widths, is the experiment's own; without one, its model's sizes.

how to use it
  Set model.parametrization to MaximalUpdate(width, heads, head_width, feed_forward), the sizes of a small model; sweep
  optimizer.schedule.peak there (research.config.widths gives the overrides of other widths); train the wide model with
  the best rate. kintsugi rates reads such a sweep.

examples
  kintsugi coordinates experiments/quickstart.py --widths 64 128 256 512 --plot coordinates.svg
  kintsugi coordinates my_experiment.py --widths 128 256 512 --steps 8 --config.optimizer.schedule.peak=3e-3
"""


def main(arguments: list[str] | None = None) -> int:
    parser = command_line.parser("coordinates", __doc__, EPILOG)
    parser.add_argument("experiment", help=command_line.EXPERIMENT_HELP)
    parser.add_argument("--widths", nargs="+", type=int, required=True, help="at least three, far apart")
    parser.add_argument("--steps", type=int, default=4, help="training steps of each model (%(default)s)")
    parser.add_argument("--seeds", type=int, default=2, help="number of seeds to average (%(default)s)")
    parser.add_argument("--plot", type=Path, help="draw the movements into this file, .png, .svg or .pdf")
    return command_line.run(parser, check, arguments, (command_line.CONFIG,))


def check(options: argparse.Namespace, overrides: dict[str, str]) -> None:
    config = override.apply(load.open_experiment(options.experiment).config, overrides)
    from research.report import plot  # after the command is known to be good: importing JAX takes seconds
    from research.storage.progress import Progress
    from research.sweep import coordinates

    plot.check_picture(options.plot)
    sizes = sorted(set(options.widths))
    with Progress("Training", 2 * len(sizes) * options.seeds, "models") as progress:
        results = coordinates.check(config, sizes, options.steps, options.seeds, progress.advance)
    for table in coordinates.tables(results, sizes, options.steps):
        print(table.markdown())
    for name, movements in results.items():
        print(coordinates.verdict(name, movements))
    if options.plot is not None:
        coordinates.draw(options.plot, results, sizes)


if __name__ == "__main__":
    sys.exit(main())
