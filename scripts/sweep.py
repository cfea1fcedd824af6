"""Trains the variants of an experiment: python -m scripts.sweep EXPERIMENT.py --dir sweeps/NAME --jobs 2"""

import argparse
import sys
from pathlib import Path

from research import hardware, override
from research.config import ConfigError, require
from research.hardware import HELP

EPILOG = """
a sweep
  is a function beside get_config(), which gives dicts of overrides:
    def sweep():
        return product(grid({"optimizer.schedule.peak": (1e-3, 3e-3), "model.dropout": (0.0, 0.1)}), seeds(3))
  grid: every combination; together: first with first, second with second; chain: one sweep after another; product: each
  with each; seeds(n); equal(sweep): as many steps for each as make it cost the FLOPs, or equal(sweep, "tokens") the
  tokens, of get_config(). What is conditional is Python: [variant for variant in grid(...) if ...].
  published() beside it gives a paper's numbers, which the report shows beside ours.

what runs
  Every variant is a run of scripts.train in a directory of its own, named by what differs, with its log beside it. Each
  of --jobs has its share of the cores and the GPUs. Corpora, vocabularies, tokens and compiled programs are made once.

  A variant that does not fit what a GPU here has, or this machine's memory, is refused before anything runs; elsewhere
  say what each has: --hardware 8xH100.

from trained runs
  --from sweeps/NAME begins every variant from each run of that sweep that is done: its weights, architecture,
  vocabulary and seed. So a pretraining sweep is judged by what its models learn next. EXPERIMENT.py needs no sweep().

hopeless variants
  --hopeless_after 0.3 stops a variant when, 30 % of its steps done, an evaluation of it (by evaluation.best) is worse
  than the median of at least three others at that share of their steps. Not for losses of unlike targets.

again
  The same command goes on: what is done is kept, what was broken off goes on from its checkpoint. A variant that
  crashes or hangs is tried three times in one sweep; one that is refused (2) or not finite (44) once. The others go on.

exit codes
  0 all variants are done   1 some are not   2 bad input
"""


def check(options: argparse.Namespace) -> None:
    share, local = options.hopeless_after, not str(options.dir).startswith("gs:")
    require(local, f"--dir {options.dir} is in a bucket: a sweep needs a directory of this machine, or a shared one.")
    require(options.jobs > 0, f"--jobs is {options.jobs}: it must be above 0.")
    require(share is None or 0 < share < 1, f"--hopeless_after is {share}: a share of the steps, between 0 and 1.")


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
    parser.add_argument("--from", dest="begun", type=Path, metavar="SWEEP", help="begin from each run of this sweep")
    parser.add_argument("--hopeless_after", type=float, metavar="SHARE", help="stop what is worse than most by then")
    parser.add_argument("--hardware", help=f"what each variant runs on, for what can never fit: {HELP}")
    parser.add_argument("--list", action="store_true", help="show the variants, train nothing")
    options, rest = parser.parse_known_args(arguments)
    try:
        check(options)
        common = override.from_arguments(rest)
        base = override.apply(override.load_experiment(options.experiment), common)
        changes = [
            common | change for change in override.load_sweep(options.experiment, optional=options.begun is not None)
        ]
        published = override.load_published(options.experiment)
        from research.console import console, say  # after the config is known to be good: importing JAX takes seconds
        from research.sweep import Sweep, here
        from research.variants import begun_from, check_fits, inherited, matched, place_of, variants

        begun, missing = ([], []) if options.begun is None else begun_from(options.begun, base)
        if missing:
            say(f"Left out, not done in {options.begun}: {', '.join(missing)}.")
        found = variants(base, changes, begun)
        place = here(options.jobs) if options.hardware is None else place_of(hardware.find(options.hardware))
        if place is not None:
            check_fits(found, place)
        known = [] if options.begun is None else inherited(options.begun, found)
        tables = matched(published, found) + known
        sweep = Sweep(
            options.experiment, base, found, options.dir, published=tables, hopeless_after=options.hopeless_after
        )
        if options.list:
            console.print(sweep.listing(place))
            return 0
        with sweep.held():
            done = sweep.train(options.jobs)
            sweep.write_page()
        sweep.say_what_is_not_done()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
