"""Trains the variants of an experiment: python -m scripts.sweep EXPERIMENT.py --dir sweeps/NAME --jobs 2"""

import argparse
import sys
from pathlib import Path

from research import override
from research.config import ConfigError, require

EPILOG = """
a sweep
  is a function beside get_config(), which gives dicts of overrides:
    def sweep():
        return product(grid({"optimizer.schedule.peak": (1e-3, 3e-3), "model.dropout": (0.0, 0.1)}), seeds(3))
  grid: every combination; together: first with first, second with second; chain: one sweep after another; product: each
  with each; seeds(n). What is conditional is Python: [variant for variant in grid(...) if ...].

what runs
  Every variant is a run of scripts.train in a directory of its own, named by what differs, with its log beside it. Each
  of --jobs has its share of the cores and the GPUs. Corpora, vocabularies, tokens and compiled programs are made once.

again
  The same command goes on: what is done is kept, what was broken off goes on from its checkpoint. A variant that
  crashes or hangs is tried three times in one sweep; one that is refused (2) or not finite (44) once. The others go on.

exit codes
  0 all variants are done   1 some are not   2 bad input
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.sweep", description=__doc__, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument(
        "experiment", help="a Python file with get_config() and sweep(); it is run, so use only files you trust"
    )
    parser.add_argument("--dir", required=True, type=Path, help="where the variants' run directories go")
    parser.add_argument("--jobs", type=int, default=1, help="variants at a time (%(default)s)")
    parser.add_argument("--list", action="store_true", help="show the variants, train nothing")
    options, rest = parser.parse_known_args(arguments)
    try:
        require(options.jobs > 0, f"--jobs is {options.jobs}: it must be above 0.")
        common = override.from_arguments(rest)
        base = override.apply(override.load_experiment(options.experiment), common)
        changes = [common | change for change in override.load_sweep(options.experiment)]
        from research.console import console  # after the config is known to be good: importing JAX takes seconds
        from research.sweep import Sweep, variants

        sweep = Sweep(options.experiment, base, variants(base, changes), options.dir)
        if options.list:
            console.print(sweep.listing())
            return 0
        with sweep.held():
            done = sweep.train(options.jobs)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
