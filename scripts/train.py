"""Train an experiment: kintsugi train experiments/quickstart.py --run_dir runs/quickstart"""

import argparse
import os
import sys
import traceback
from typing import TYPE_CHECKING

from research.config import ConfigError, load, override, require
from research.storage import output, stop
from scripts import command_line

if TYPE_CHECKING:
    from research.parallel.hosts import Cluster

EPILOG = """
overrides
  Any field of the experiment, by its dotted name (see research/config/):
    --config.steps=2000 --config.optimizer.schedule.peak=3e-3 --config.model.remat=full
  A class is chosen by its constructor:
    --config.data.corpora='[PlainText(train="notes/*.txt")]' --config.data.tokenizer='Bytes()'
    --config.optimizer='AdamW(schedule=Cosine(peak=1e-3, warmup=1000), weight_decay=0.1)'

resuming
  The same command continues where the run stopped, bit for bit; --config.steps=MORE trains further.

exit codes
  0 done   1 failed   2 bad input   42 preempted, saved   43 hung   44 loss, gradient or update not finite
  45 another host was lost
  RESULT.json in the run directory has the reason.
"""


def main(arguments: list[str] | None = None) -> int:
    parser = command_line.parser("train", __doc__, EPILOG)
    parser.add_argument("experiment", help=command_line.EXPERIMENT_HELP)
    parser.add_argument(
        "--run_dir",
        required=True,
        help="directory for all files of the run, new or the run's own; or gs://BUCKET/NAME",
    )
    for name, kind, text in (
        ("--coordinator", str, "address:port of the first host, if the cluster's environment does not name the hosts"),
        ("--num_hosts", int, "number of hosts"),
        ("--host_id", int, "number of this host, from 0"),
    ):
        parser.add_argument(name, type=kind, help=text)
    parser.add_argument(
        "--accept_changed_code",
        action="store_true",
        help="continue a run although the code of your own parts has changed since its checkpoint",
    )
    parser.add_argument("--dry_run", action="store_true", help="compile, print the launch summary, train nothing")
    with output.guarded(fatal=False):  # a run goes on when its terminal goes away
        return command_line.run(parser, train_experiment, arguments, (command_line.CONFIG,))


def train_experiment(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    with stop.listening():  # before anything slow: importing JAX takes seconds
        return _train(options, overrides)


def _train(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    file = load.open_experiment(options.experiment)
    config = override.apply(file.config, overrides)
    from research.storage.bucket import any_path  # after the config is checked: importing JAX takes seconds
    from research.train.loop import train
    from research.train.startup import Startup, process_began

    startup = Startup(process_began())
    cluster = cluster_of(options.coordinator, options.num_hosts, options.host_id)
    return train(
        config,
        any_path(options.run_dir),
        file=file,
        accept_changed_code=options.accept_changed_code,
        dry_run=options.dry_run,
        cluster=cluster,
        startup=startup,
    )


def cluster_of(coordinator: str | None, count: int | None, number: int | None) -> "Cluster | None":
    """Return the cluster that the options describe, None without them. Raises ConfigError for one or two of three."""
    from research.parallel.hosts import Cluster

    if coordinator is None and count is None and number is None:
        return None
    if coordinator is None or count is None or number is None:
        raise ConfigError("--coordinator, --num_hosts and --host_id belong together: give all three, or none.")
    require(0 <= number < count, f"--host_id is {number}: with {count} hosts it must be from 0 to {count - 1}.")
    require(":" in coordinator, f"--coordinator is {coordinator}: it must be address:port, such as 10.0.0.1:8476.")
    return Cluster(coordinator, count, number)


if __name__ == "__main__":
    try:
        code = main()
    except Exception:
        traceback.print_exc()
        code = 1
    if code == 2 and "jax" in sys.modules:
        from research.parallel.hosts import await_hosts

        await_hosts(seconds=10)  # other hosts with this error need the first host to print theirs
    if code not in (0, 42, 44):
        # Exit at once, without waiting for the threads of a failed save or for hosts that have not failed.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
