"""Plan a run for hardware that is not here: kintsugi plan EXPERIMENT.py --hardware v5p-64"""

import argparse
import sys
from pathlib import Path

from research.config import load, override, require
from scripts import command_line

EPILOG = """
hardware
  v4, v5e, v5p and v6e slices by their names (v5p-64: v4 and v5p count cores, two a chip) or their torus (v5p:2x4x4),
  several slices as 2xv5e-256; A100, H100, H200 and B200 as 8xH100, in hosts of 8.

what is printed
  FLOPs are exact. The step's time is a lower bound (research/plan/roofline.py): products at 0.8 of the data sheet's
  rate, then memory traffic, sums over the tensor axis, and the part of the exchange of weights and gradients that takes
  longer than all of these. Good implementations take 1.3 to 1.7 times as long. Memory is an estimate, unless
    --compile    compiles the real step for that TPU topology, on this machine, without a TPU: it prints bytes a chip
                 and what chips exchange. Needs libtpu (pip install 'kintsugi[tpu]') and about a minute.
    --search     tries meshes, remat and micro-batches, and prints the fastest that fit.

several experiments, or --hardware with commas
  A Markdown table has the fastest plan that fits, for each experiment on each hardware. --rows_a_chip N gives every
  chip the same number of rows, whatever the number of chips (weak scaling), and --plot draws tokens a second and chip
  against the number of chips.

examples
  kintsugi plan experiments/t5/v1_1_c4.py:large --hardware v5e-256 --config.mesh.fsdp=8 --compile
  kintsugi plan experiments/bart/bart.py:large --hardware 64xH100 --search
  kintsugi plan experiments/t5/v1_1_c4.py:{small,base,large,xl,xxl} --hardware v5e-16,v5p-64,8xH100
  kintsugi plan experiments/t5/v1_1_c4.py:xl --hardware v5p-16,v5p-64,v5p-256 --rows_a_chip 16 --plot xl.png
"""


def main(arguments: list[str] | None = None) -> int:
    parser = command_line.parser("plan", __doc__, EPILOG)
    parser.add_argument("experiment", nargs="+", help=command_line.EXPERIMENT_HELP)
    parser.add_argument("--hardware", required=True, help="v5p-64, 8xH100 ...; several with commas")
    parser.add_argument("--compile", action="store_true", help="compile the step for that TPU, without one")
    parser.add_argument("--search", action="store_true", help="try meshes, remat and micro-batches")
    parser.add_argument("--rows_a_chip", type=int, help="rows a step for every chip, instead of batch_size")
    parser.add_argument("--plot", type=Path, help="draw the tokens per second of several plans into this file")
    return command_line.run(parser, plan, arguments, (command_line.CONFIG,))


def plan(options: argparse.Namespace, overrides: dict[str, str]) -> None:
    files = [load.open_experiment(text) for text in options.experiment]
    names = [file.name for file in files]
    names = names if len(set(names)) == len(names) else list(map(str, files))
    experiments = {name: override.apply(file.config, overrides) for name, file in zip(names, files, strict=True)}
    from research.parallel import hardware  # after the config is checked: importing JAX takes seconds
    from research.plan import estimate

    systems = [hardware.find(name) for name in options.hardware.split(",")]
    if len(experiments) * len(systems) > 1 or options.rows_a_chip or options.plot:
        require(not options.compile, "--compile is for one experiment on one --hardware, with its own batch_size.")
        estimate.compare(experiments, systems, options.rows_a_chip, options.plot)
    elif options.search:
        estimate.show_search(*experiments.values(), *systems)
    else:
        estimate.show(*experiments.values(), *systems, compile=options.compile)


if __name__ == "__main__":
    sys.exit(main())
