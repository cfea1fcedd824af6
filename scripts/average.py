"""Average a run's last checkpoints: kintsugi average RUN TARGET --last 10"""

import argparse
import sys
from pathlib import Path

from research.storage.bucket import any_path
from scripts import command_line

EPILOG = """
  TARGET can then be used like a run directory: by generate, evaluate and convert, and by
  --config.init. The run must still have the checkpoints: train it with --config.checkpoint.keep=10.

example
  kintsugi average runs/multi30k runs/multi30k_average --last 10
  kintsugi evaluate runs/multi30k_average --split test
"""


def main(arguments: list[str] | None = None) -> int:
    parser = command_line.parser("average", __doc__, EPILOG)
    parser.add_argument("run", type=any_path, help="a run directory")
    parser.add_argument("target", type=Path, help="a new directory")
    parser.add_argument("--last", type=int, default=10, help="number of newest checkpoints to average (10)")
    return command_line.run(parser, write, arguments)


def write(options: argparse.Namespace) -> None:
    from research.pretrained.average import average  # after the arguments: importing JAX takes seconds

    steps = average(options.run, options.target, options.last)
    print(f"{options.target}: the mean of the checkpoints of steps {', '.join(map(str, steps[::-1]))}")


if __name__ == "__main__":
    sys.exit(main())
