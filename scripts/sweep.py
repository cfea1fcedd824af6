"""Train the variants of an experiment: kintsugi sweep EXPERIMENT.py --dir sweeps/NAME --jobs 2"""

import argparse
import sys
from pathlib import Path

from research.config import Experiment, load, override, require
from research.parallel import hardware
from research.parallel.hardware import HELP
from scripts import command_line

EPILOG = """
a sweep
  is a function beside get_config() that returns dicts of overrides:
    def sweep():
        return product(grid({"optimizer.schedule.peak": (1e-3, 3e-3), "model.dropout": (0.0, 0.1)}), seeds(3))
  grid: every combination; together: first with first, second with second; chain: one sweep after another; product: each
  with each; seeds(n); widths(model, sizes); equal(sweep): the number of steps with which each costs the FLOPs of
  get_config(), or its tokens by equal(sweep, "tokens"). Conditions are Python: [one for one in grid(...) if ...].
  published() beside it returns a paper's numbers, which the report shows beside ours. columns() beside it returns the
  overrides of the variants that measure each column of such a table, for variants that are tasks.

what runs
  Every variant is a run of train in its own directory, named by the fields that differ, with its log beside it. Each
  of --jobs has its share of the cores and the GPUs. Corpora, vocabularies, tokens and compiled programs are made once.

  A variant that does not fit into the memory of a local GPU, or of this machine, is refused before anything runs. For
  other machines give the hardware of one variant: --hardware 8xH100.

from trained runs
  --from sweeps/NAME begins every variant from each run of that sweep that is done: its weights, architecture,
  vocabulary and seed. So fine-tuning compares the models of a pretraining sweep. EXPERIMENT.py needs no sweep().

stopping poor variants early
  --stop_below_median_after 0.3 stops a variant if, after 30 % of its steps, an evaluation (by evaluation.best) is worse
  than the median of at least three others at that share of their steps. Do not use it for losses of different targets.

resuming
  The same command continues: finished variants are kept, interrupted ones resume from their checkpoints. A variant that
  crashes or hangs is tried three times in one sweep; one that is refused (2) or not finite (44) is tried once. The
  others continue.

on a SLURM cluster
  --slurm makes every variant a task of an array job (needs pip install 'kintsugi[slurm]'):
    kintsugi sweep EXPERIMENT.py --dir sweeps/NAME --slurm --jobs 8 --partition gpu --time 12:00:00 --gpus 4 \\
        --slurm_option cpus-per-task=32 --slurm_option mem=128G --slurm_option qos=long
  A variant that is preempted or runs out of time saves, and continues in its next turn. Ctrl-C leaves the jobs running;
  the same command watches them again, and submits only what is neither done nor in the queue. The repository, DIR and
  $KINTSUGI_CACHE must be on a file system that all nodes share.

a search
  is a function search() beside get_config(), which --trials N runs (needs pip install 'kintsugi[search]'):
    def search():
        return Search(
            {"optimizer.schedule.peak": LogRange(1e-4, 1e-1), "model.dropout": Range(0.0, 0.3),
             "model.heads": Choice((2, 4, 8))},
            sampler=TPE(), pruning=Median(finished=5, warmup=1000), seed=0)
  evaluation.best chooses the best trial. pruning stops trials early: Median, SuccessiveHalving(first=1000) or
  Hyperband(first=1000); None stops none. Trials are DIR/trial-0000 and so on; DIR/sweep.json has the changes of each.
  The same command continues interrupted trials; a larger N adds trials. With --jobs 1 a search can be repeated.

exit codes
  0 all variants are done, all trials ended   1 some are not   2 bad input
"""


def main(arguments: list[str] | None = None) -> int:
    return command_line.run(parser(), start, arguments, (command_line.CONFIG,))


def start(options: argparse.Namespace, common: dict[str, str]) -> int:
    check(options)
    file = load.open_experiment(options.experiment)
    base = override.apply(file.config, common)
    return (train if options.trials is None else search)(options, file, base, common)


def parser() -> argparse.ArgumentParser:
    parser = command_line.parser("sweep", __doc__, EPILOG)
    parser.add_argument(
        "experiment",
        help="FILE.py or FILE.py:SIZE, with get_config() and sweep() or search(); it is run, so trust it",
    )
    parser.add_argument("--dir", required=True, type=Path, help="directory for the run directories of the variants")
    parser.add_argument("--jobs", type=int, help="variants at a time (1; with --slurm all)")
    parser.add_argument("--from", dest="begun", type=Path, metavar="SWEEP", help="begin from each run of this sweep")
    parser.add_argument(
        "--stop_below_median_after", type=float, metavar="SHARE",
        help="stop variants that are worse than the median of the others after this share of their steps",
    )  # fmt: skip
    parser.add_argument(  # its former name
        "--hopeless_after", dest="stop_below_median_after", type=float, help=argparse.SUPPRESS
    )
    parser.add_argument("--hardware", help=f"hardware of each variant, to refuse variants that cannot fit: {HELP}")
    parser.add_argument("--list", action="store_true", help="show the variants, train nothing")
    parser.add_argument("--trials", type=int, help="run search() until --dir has this many trials")
    slurm = parser.add_argument_group("SLURM")
    slurm.add_argument("--slurm", action="store_true", help="train the variants as jobs of a SLURM cluster")
    slurm.add_argument("--partition", help="partition for the jobs")
    slurm.add_argument("--account", help="account that is charged")
    slurm.add_argument("--time", help="time limit of each turn in SLURM's format: 12:00:00")
    slurm.add_argument(
        "--gpus", type=int, help="number of GPUs of each variant (of each of its nodes, if it has several)"
    )
    slurm.add_argument(
        "--slurm_option", action="append", default=[], metavar="KEY[=VALUE]",
        help="any other directive of sbatch, such as qos=long or exclusive; may be repeated",
    )  # fmt: skip
    return parser


def check(options: argparse.Namespace) -> None:
    share = options.stop_below_median_after
    require(options.jobs is None or options.jobs > 0, f"--jobs is {options.jobs}: it must be above 0.")
    require(share is None or 0 < share < 1, f"--stop_below_median_after is {share}: it must be between 0 and 1.")
    require(
        share is None or not options.slurm,
        "--stop_below_median_after cannot be used with --slurm, as jobs that nobody watches are not stopped.",
    )
    require(options.trials is None or options.trials > 0, f"--trials is {options.trials}: it must be above 0.")
    for name in ("slurm", "list", "begun", "stop_below_median_after"):
        message = (
            f"--trials and --{name.replace('begun', 'from')}: a search asks for its trials one after another, here."
        )
        require(options.trials is None or not getattr(options, name), message)
    for name in ("partition", "account", "time", "gpus", "slurm_option"):
        require(options.slurm or not getattr(options, name), f"--{name} is for jobs of a cluster: add --slurm.")


def train(options: argparse.Namespace, file: load.ExperimentFile, base: Experiment, common: dict[str, str]) -> int:
    swept = file.sweep if options.begun is None or file.has("sweep") else [{}]
    changes = [common | change for change in swept]
    published, columns = file.published, file.columns
    from research.storage.console import console, say
    from research.sweep import slurm  # after the config is known to be good: importing JAX takes seconds
    from research.sweep.local import Sweep, local_machine
    from research.sweep.variants import (
        check_fits,
        inherited,
        matched,
        remote_machine,
        source_runs,
        variants,
        with_columns,
    )

    sources, missing = ([], []) if options.begun is None else source_runs(options.begun, base)
    if missing:
        say(f"Left out, not done in {options.begun}: {', '.join(missing)}.")
    all_variants = variants(base, changes, sources)
    elsewhere = options.slurm or options.hardware is not None
    machine = None if elsewhere else local_machine(options.jobs or 1)
    if options.hardware is not None:
        machine = remote_machine(hardware.find(options.hardware))
    if machine is not None:
        check_fits(all_variants, machine)
    tables = matched(published, all_variants) + (
        [] if options.begun is None else inherited(options.begun, all_variants)
    )
    tables = with_columns(tables, columns, all_variants)
    common_arguments = (options.experiment, base, all_variants, options.dir)
    sweep: Sweep
    if options.slurm and not options.list:
        named = (options.partition, options.time, options.gpus, options.account)
        parameters = slurm.directives(*named, options.slurm_option)
        sweep = slurm.ClusterSweep(*common_arguments, parameters, published=tables)
    else:
        share = options.stop_below_median_after
        sweep = Sweep(*common_arguments, published=tables, stop_below_median_after=share)
    if options.list:
        console.print(sweep.listing(machine))
        return 0
    if not options.slurm:
        slurm.check_none(options.dir)
    with sweep.held():
        done = sweep.train(options.jobs if options.slurm else options.jobs or 1)
        sweep.write_page()
    sweep.print_failures()
    return 0 if done else 1


def search(options: argparse.Namespace, file: load.ExperimentFile, base: Experiment, common: dict[str, str]) -> int:
    declared = file.search
    from research.storage.console import console
    from research.sweep.trials import TrialSweep

    trials = TrialSweep(options.experiment, base, common, declared, options.dir, options.trials)
    with trials.held():
        done = trials.train(options.jobs or 1)
        trials.write_page()
        console.print(trials.best())
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
