"""Plan a run for hardware that is not here: kintsugi plan EXPERIMENT.py --hardware v5p-64"""

import argparse
import sys
from pathlib import Path
from typing import Any

from research.config import Experiment, Generation, load, override, require
from scripts import command_line

EPILOG = """
hardware
  v4, v5e, v5p and v6e slices by their names (v5p-64: v4 and v5p count cores, two a chip) or their torus (v5p:2x4x4),
  several slices as 2xv5e-256; A100, H100, H200 and B200 as 8xH100, in hosts of 8.

what is printed
  FLOPs are exact. The step's time is a lower bound (research/plan/roofline.py): products at 0.8 of the data sheet's
  rate, then memory traffic, sums over the tensor axis, and the part of the exchange of weights and gradients that takes
  longer than all of these. Good implementations take 1.3 to 1.7 times as long. Memory is an estimate, unless
    --compile    compiles the real step for that hardware, on this machine, without it: see below.
    --search     tries meshes, remat and micro-batches, and prints the fastest that fit.

compiled steps
  --compile takes 20 seconds to some minutes. It needs libtpu for TPUs (pip install 'kintsugi[tpu]') and JAX's CUDA
  plugin for GPUs (pip install 'kintsugi[gpu-compile]'; no GPU, no CUDA). Memory, kernels, HBM traffic, products and
  collectives are read from the compiled program, in all and by part: encoder and decoder, attention, feed-forward,
  norms, logits, loss, optimizer, and what a scan over layers moves. `takes, modelled` is a model of the program's time
  (research/plan/time_model.py): nothing was measured, so compare programs by it, and do not quote it as a speed.
    --json FILE     keeps all figures, and those of the heaviest kernels
    --compare FILE  shows the parts that changed since that file was written
    --kernels 20    shows the kernels that take the most time
    --decode        compiles decoding instead, of batch_size rows as long as the data's inputs, and shows one step of
                    its loop: bytes beside the least that it must read, copies, and what touches the host

several experiments, or --hardware with commas
  A Markdown table has the fastest plan that fits, for each experiment on each hardware. --rows_a_chip N gives every
  chip the same number of rows, whatever the number of chips (weak scaling), and --plot draws tokens a second and chip
  against the number of chips.

examples
  kintsugi plan experiments/t5/v1_1_c4.py:large --hardware v5e-256 --config.mesh.fsdp=8 --compile
  kintsugi plan experiments/t5/v1_1_c4.py:base --hardware 1xH200 --config.batch_size=128 --compile --json before.json
  kintsugi plan experiments/t5/v1_1_c4.py:base --hardware 1xH200 --config.batch_size=128 --config.model.unroll=12 \
      --compile --compare before.json
  kintsugi plan experiments/bart/bart.py:large --hardware 64xH100 --search
  kintsugi plan experiments/bart/bart.py:large --hardware 1xH200 --config.batch_size=128 --compile --decode \
      --generation.max_length=128 --generation.method='Beam(4)'
  kintsugi plan experiments/t5/v1_1_c4.py:{small,base,large,xl,xxl} --hardware v5e-16,v5p-64,8xH100
  kintsugi plan experiments/t5/v1_1_c4.py:xl --hardware v5p-16,v5p-64,v5p-256 --rows_a_chip 16 --plot xl.png
"""


def main(arguments: list[str] | None = None) -> int:
    parser = command_line.parser("plan", __doc__, EPILOG)
    parser.add_argument("experiment", nargs="+", help=command_line.EXPERIMENT_HELP)
    parser.add_argument("--hardware", required=True, help="v5p-64, 8xH100 ...; several with commas")
    parser.add_argument("--compile", action="store_true", help="compile the step for that hardware, without it")
    parser.add_argument("--json", type=Path, help="write the figures of the compiled step into this file")
    parser.add_argument("--compare", type=Path, help="show what changed since the file that --json wrote")
    parser.add_argument("--kernels", type=int, default=0, help="show so many of the heaviest kernels")
    parser.add_argument("--hlo", type=Path, help="write the compiled program's text into this file")
    parser.add_argument("--decode", action="store_true", help="compile decoding instead, with --generation.FIELD=VALUE")
    parser.add_argument("--search", action="store_true", help="try meshes, remat and micro-batches")
    parser.add_argument("--rows_a_chip", type=int, help="rows a step for every chip, instead of batch_size")
    parser.add_argument("--plot", type=Path, help="draw the tokens per second of several plans into this file")
    return command_line.run(parser, plan, arguments, (command_line.CONFIG, command_line.GENERATION))


def plan(options: argparse.Namespace, overrides: dict[str, str], of_generation: dict[str, str]) -> None:
    files = [load.open_experiment(text) for text in options.experiment]
    names = [file.name for file in files]
    names = names if len(set(names)) == len(names) else list(map(str, files))
    experiments = {name: override.apply(file.config, overrides) for name, file in zip(names, files, strict=True)}
    from research.parallel import hardware  # after the config is checked: importing JAX takes seconds
    from research.plan import estimate, targets

    targets.use_cpus()
    systems = [hardware.find(name) for name in options.hardware.split(",")]
    several = len(experiments) * len(systems) > 1 or options.rows_a_chip or options.plot
    if options.compile:
        require(not several, "--compile is for one experiment on one --hardware, with its own batch_size.")
        require(not options.search, "--compile is for one mesh: run --search first, and compile what it prints.")
        require(options.decode or not of_generation, "--generation needs --decode.")
        show_compiled(options, *experiments.values(), *systems, generation=override.apply(Generation(), of_generation))
        return
    given = [name for name in ("json", "compare", "kernels", "hlo", "decode") if getattr(options, name)]
    given += ["generation"] if of_generation else []
    require(not given, f"--{' and --'.join(given)} needs --compile.")
    if several:
        estimate.compare(experiments, systems, options.rows_a_chip, options.plot)
    elif options.search:
        estimate.show_search(*experiments.values(), *systems)
    else:
        estimate.show(*experiments.values(), *systems)


def show_compiled(options: argparse.Namespace, experiment: Experiment, system: Any, *, generation: Generation) -> None:
    from research.plan import breakdown, decoding, estimate
    from research.storage import run_directory
    from research.storage.files import write_json, write_text

    for path in filter(None, (options.json, options.hlo)):
        require(path.absolute().parent.is_dir(), f"{path}: there is no directory {path.absolute().parent}.")
    before = breakdown.read(options.compare) if options.compare else None
    if options.decode:
        program = decoding.compile_decoding(experiment, generation, system)
        decoding.show(program)
        compiled, found = program.step, decoding.decoding_figures(program)
    else:
        compiled = estimate.show_compiled(experiment, system)
        found = breakdown.figures(compiled)
    breakdown.show(found, options.kernels)
    if before is not None:
        breakdown.compare(before, found)
    if options.hlo:
        write_text(options.hlo, compiled.text)
    if options.json:
        described = {"experiment": run_directory.as_data(experiment), "commit": run_directory.commit()}
        write_json(options.json, found | described | {"command": run_directory.command()})


if __name__ == "__main__":
    sys.exit(main())
