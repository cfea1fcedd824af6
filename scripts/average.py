"""The mean of a run's last checkpoints: python -m scripts.average RUN TARGET --last 10"""

import argparse
import sys
from pathlib import Path

from research.config import ConfigError
from research.storage.bucket import any_path

EPILOG = """
  TARGET is then read wherever a run directory is: by scripts.generate, scripts.evaluate, scripts.convert, and by
  --config.init. The run must still have the checkpoints: train it with --config.checkpoint.keep=10.

example
  python -m scripts.average runs/multi30k runs/multi30k_average --last 10
  python -m scripts.evaluate runs/multi30k_average --split test
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.average", description=__doc__, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("run", type=any_path, help="a run directory")
    parser.add_argument("target", type=Path, help="a new directory")
    parser.add_argument("--last", type=int, default=10, help="newest checkpoints, of which the mean is taken (10)")
    options = parser.parse_args(arguments)
    try:
        from research.pretrained.average import average  # after the arguments: importing JAX takes seconds

        steps = average(options.run, options.target, options.last)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.target}: the mean of the checkpoints of steps {', '.join(map(str, steps[::-1]))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
