"""What a run takes on hardware that is not here: python -m scripts.plan EXPERIMENT.py --hardware v5p-64"""

import argparse
import sys

from research import override
from research.config import ConfigError

EPILOG = """
hardware
  v4, v5e, v5p and v6e slices by their names (v5p-64: v4 and v5p count cores, two a chip) or their torus (v5p:2x4x4),
  several slices as 2xv5e-256; A100, H100, H200 and B200 as 8xH100, in hosts of 8.

what is printed
  FLOPs are exact. The step's time is a bound (research/roofline.py): products at 0.8 of the data sheet's rate, the
  memory's traffic after them, sums over the tensor axis, and what of the exchange of weights and gradients takes longer
  than all that. Good implementations take 1.3 to 1.7 times as long. Memory is an estimate, unless
    --compile    compiles the very step for that TPU topology, on this machine, without a TPU: bytes a chip, and what
                 chips exchange. Needs libtpu (pip install --requirement requirements-tpu.txt) and a minute or so.
    --search     tries meshes, remat and micro-batches, and prints the fastest that fit.

examples
  python -m scripts.plan experiments/t5/v1_1_large_c4.py --hardware v5e-256 --config.mesh.fsdp=8 --compile
  python -m scripts.plan experiments/bart/large.py --hardware 64xH100 --search
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.plan", description=__doc__, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("experiment", help="a Python file with get_config(); it is run, so use only files you trust")
    parser.add_argument("--hardware", required=True, help="v5p-64, 8xH100 ...")
    parser.add_argument("--compile", action="store_true", help="compile the step for that TPU, without one")
    parser.add_argument("--search", action="store_true", help="try meshes, remat and micro-batches")
    options, rest = parser.parse_known_args(arguments)
    try:
        experiment = override.apply(override.load_experiment(options.experiment), override.from_arguments(rest))
        from research import foresight, hardware  # after the config is known to be good: importing JAX takes seconds

        found = hardware.find(options.hardware)
        if options.search:
            foresight.show_search(experiment, found)
        else:
            foresight.show(experiment, found, compile=options.compile)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
